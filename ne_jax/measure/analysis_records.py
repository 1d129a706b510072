"""What analysis.json holds: stage analyse writes these records and the report reads them.

Lists over `places` are curves, thinned out: entry i belongs to direction places[i], counted from 1. Shares are from 0 to 1.
"""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from ne_jax.files import Record
from ne_jax.measure.spectra_and_angles import Correlation

Limits = tuple[float, float]  # lowest and highest, or a 95 % interval


class SpectrumRow(Record, kw_only=True):
    """Singular values of a first layer: of a "patch", of an "image" that wraps around, or of a flattened "window"."""

    unit: str
    directions: int
    rank: int  # how many singular values float32 tells from zero
    sigma_1: float  # output per pixel range
    effective_rank: float  # 1 to `directions`
    flatness: float  # of sigma^2 without zeros, in (0, 1]
    places: list[int]
    singular_values: list[float]


class Tenth(Record, kw_only=True):
    """Of the most sensitive tenth of the directions. The last two are over random bases, and absent where none were drawn."""

    directions: int
    most: float  # share of the variance in as many principal components
    variance: float  # share of the data's variance in them
    overlap: float  # with as many principal components, 0 to 1
    random_variance: Limits | UnsetType = UNSET
    random_overlap: Limits | UnsetType = UNSET


class Chance(Record, kw_only=True):
    """Lowest and highest curve over `draws` random orthonormal bases."""

    draws: int
    variance: tuple[list[float], list[float]]
    overlap: tuple[list[float], list[float]]


class AlignmentRow(Record, kw_only=True):
    """How the right singular vectors of a first layer lie to the data, on a "patch" or a flattened "window"."""

    unit: str
    directions: int
    rank: int
    images: int
    windows: int  # rows that the data's principal components are of
    total_variance: float  # of a window, in pixel units squared
    data_effective_rank: float
    places: list[int]
    most: list[float]  # share of the variance in the first principal components
    variances: list[float]  # of single principal components
    tenth: Tenth
    variance: list[float]  # share of the variance in the first directions
    overlap: list[float]  # of the first directions with as many principal components
    random: Chance | UnsetType = UNSET


class PreparationRow(AlignmentRow, kw_only=True):
    """The same after image processing, without random bases."""

    energy_in_subspace: float  # share of the images' energy around the model's mean pixel


class PairRow(Record, kw_only=True):
    """Noise in the subspace of one model at the first layer of another. Angles are absent where subspaces are of other parts."""

    noise_for: str
    reader: str
    draws: int  # noise images of each kind
    measured_gain: float  # energy over that of isotropic noise of the same norm
    measured_ci95: Limits
    measured_energy: float  # norm(T_u delta)^2 / norm(delta)^2
    relative_gain: float | None  # the exact gain; None where the geometry is another
    exposure: float | UnsetType = UNSET
    exposure_by_chance: float | UnsetType = UNSET
    cosines: list[float] | UnsetType = UNSET  # of the principal angles, descending


class DepthRow(Record, kw_only=True):
    """The Jacobian of the network's output at a depth with respect to pixels. Lists have one entry an image."""

    depth: int  # 0: the first layer
    name: str
    outputs: int
    numbers: int  # of an image
    largest: list[list[float]]  # singular values, descending
    residual: float  # of the search for them, relative to sigma_1^2, the worst
    stable_rank: list[float]
    subspace_gain: list[float]  # of noise in the subspace over isotropic noise


class Depths(Record, kw_only=True):
    """The rows, or why they were left out."""

    left_out: str | UnsetType = UNSET
    rows: list[DepthRow] | UnsetType = UNSET


class LinkRow(Record, kw_only=True):
    """Two predictions of the energy that a reader sees, beside what was measured."""

    noise_for: str
    reader: str
    measured_energy: float
    measured_gain: float
    same_windows: bool
    spectral_gap: float
    exact_energy: float | None  # None where the windows are others


class CorrelationRow(Record, kw_only=True):
    """Of a prediction with a measurement, over "all" pairs or those of the "same windows"."""

    predictor: str
    pairs: str
    target: str
    pearson: Correlation
    spearman: Correlation


class Link(Record, kw_only=True):
    """The paper's link from spectra to deviation, put to the test."""

    pairs: list[LinkRow]
    correlations: list[CorrelationRow]


class Analysis(Record, kw_only=True):
    """All of analysis.json. Dicts are by model, but `preparations`, which is by what was done to the images."""

    authorized: str
    rule: str  # by which every model's subspace was chosen
    images: int
    without_subspace: dict[str, str]  # the reason
    spectra: dict[str, SpectrumRow]
    alignment: dict[str, AlignmentRow]
    pairs: list[PairRow]
    preparations: dict[str, PreparationRow]
    depths: Depths
    link: Link
