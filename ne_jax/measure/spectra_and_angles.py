"""Spectra of first layers, of data and of deeper layers, and how they lie to each other: pure functions of layers and arrays.

The quantities by which the paper on non-transferable examples explains them, with the baselines that show what each is worth.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Float, Float32, Float64

from ne_jax.core import bounds
from ne_jax.core.first_layer import HIGHEST, FirstLayer
from ne_jax.core.polyphase import PolyphaseSpectrum, blocks, multiplicity
from ne_jax.core.spectrum import Spectrum
from ne_jax.core.subspace import FourierSubspace, PatchSubspace, Subspace
from ne_jax.data.preprocess import Preprocess, adapt
from ne_jax.errors import UserError
from ne_jax.files import Record

_MOST_NUMBERS = 30_000_000  # of windows in memory at once
_RESAMPLES = 999
Interval = tuple[float, float]


def effective_rank(singular_values: Float[np.ndarray, " d"]) -> float:
    """exp(-sum p_i log p_i) with p_i = sigma_i^2 / sum sigma^2, from 1 to d: how many directions share the energy (after Roy and
    Vetterli, 2007, who take sigma_i for sigma_i^2)."""
    energy = np.square(singular_values, dtype=np.float64)
    return float(np.exp(scipy.special.entr(energy / energy.sum()).sum()))


def numerical_rank(singular_values: Float[np.ndarray, " d"], terms: int) -> int:
    """How many singular values float32 tells from zero, where each number of the map is a sum of `terms` products."""
    return int(np.sum(singular_values > terms * np.finfo(np.float32).eps * np.max(singular_values)))


def flatness(singular_values: Float[np.ndarray, " d"], rank: int) -> float:
    """Geometric over arithmetic mean of the first `rank` sigma^2, in (0, 1]; 1: all are equal. Without the zeros, as one of them
    would make it 0 (the spectral flatness of signal processing)."""
    energy = np.square(singular_values[:rank], dtype=np.float64)
    return float(scipy.stats.gmean(energy) / energy.mean())


def image_singular_values(found: Spectrum | PolyphaseSpectrum) -> Float64[np.ndarray, " numbers"]:
    """All H W C singular values of the layer's map of an image, descending: those of a patch once for each patch, zero for pixels of
    no patch; where windows overlap, of images that wrap around."""
    values = np.asarray(found.singular_values, np.float64)
    if isinstance(found, PolyphaseSpectrum):
        return values
    repeated = np.repeat(values, found.num_patches)
    return np.pad(repeated, (0, int(np.prod(found.image_shape)) - len(repeated)))


def windows(
    images: Float32[np.ndarray, "n height width channels"], layer: FirstLayer, most: int = 20_000, seed: int = 0
) -> Float32[np.ndarray, "windows d"]:
    """What the layer's outputs see inside the images, flattened as (row, column, channel); a random `most` of all, fewer of large
    windows, for memory's sake."""
    view = np.lib.stride_tricks.sliding_window_view(images, layer.window[:2], axis=(1, 2))
    view = view[:, :: layer.strides[0], :: layer.strides[1]]
    places, numbers = int(np.prod(view.shape[:3])), int(np.prod(layer.window))
    chosen = np.random.default_rng(seed).permutation(places)[: min(most, _MOST_NUMBERS // numbers)]
    picked = view[np.unravel_index(np.sort(chosen), view.shape[:3])]
    return np.ascontiguousarray(np.moveaxis(picked, 1, -1).reshape(-1, numbers))


class Components(NamedTuple):
    """Principal components of rows: variances, descending; their directions in columns; how many rows there were."""

    variances: Float64[np.ndarray, " d"]
    vectors: Float64[np.ndarray, "d d"]
    count: int


def principal_components(rows: Float32[np.ndarray, "rows d"]) -> Components:
    """Of rows around their mean."""
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
    return Components(np.maximum(values[::-1], 0), vectors[:, ::-1], len(rows))


class Alignment(NamedTuple):
    """How an ordered orthonormal basis lies to data. Entry m - 1 is of its first m directions.

    variance: share of the data's variance in them; that of PCA is the most there can be.
    overlap: norm(U_m^T V_m)_F^2 / m with the first m principal components: 1 where they span the same, m / d by chance.
    """

    variance: Float64[np.ndarray, "*draws d"]
    overlap: Float64[np.ndarray, "*draws d"]


def alignment(components: Components, vectors: Float[np.ndarray, "d d"], rank: int) -> Alignment:
    """Of the right singular vectors of a layer, in columns, with the data. Beyond `rank` the layer is zero and its directions, like
    the data's where it has no variance, are any basis of the rest: these entries are the mean over all of them."""
    squared = np.square(components.vectors.T @ np.asarray(vectors, np.float64))
    variances = components.variances
    data_rank = int(np.sum(variances > len(variances) * np.finfo(np.float32).eps * variances[0]))
    return _aligned(_levelled(_levelled(squared, rank).T, data_rank).T, variances)


def random_alignments(components: Components, draws: int, seed: int) -> Alignment:
    """The same of `draws` uniformly random orthonormal bases: what chance gives."""
    generator, size = np.random.default_rng(seed), len(components.variances)
    found = []
    for _ in range(draws):
        # Uniform up to signs, which squares do not see; turned into the basis of the components it would be uniform again.
        basis = np.linalg.qr(generator.standard_normal((size, size)))[0]
        found.append(_aligned(np.square(basis), components.variances))
    return Alignment(*(np.stack(column) for column in zip(*found, strict=True)))


def _levelled(squared: Float64[np.ndarray, "rows columns"], rank: int) -> Float64[np.ndarray, "rows columns"]:
    """With the columns from `rank` on replaced by their mean: by what a random basis of their span has on average."""
    rest = squared[:, rank:]
    mean = rest.sum(axis=1, keepdims=True) / max(rest.shape[1], 1)
    return np.concatenate([squared[:, :rank], np.broadcast_to(mean, rest.shape)], axis=1)


def _aligned(squared: Float64[np.ndarray, "d d"], variances: Float64[np.ndarray, " d"]) -> Alignment:
    """From the squared inner products of components (down) and directions (across)."""
    within = np.diagonal(squared.cumsum(axis=0).cumsum(axis=1))
    shares = variances @ squared / variances.sum()
    return Alignment(shares.cumsum(), within / np.arange(1, len(variances) + 1))


class Misalignment(NamedTuple):
    """Two low-sensitivity subspaces of one geometry.

    cosines: of the principal angles, descending. exposure: trace(V_N^T V_S,u V_S,u^T V_N) / k, the share of noise in the first that
    falls among the other's sensitive directions: 0 for the same subspace. by_chance: its mean for a random one.
    """

    cosines: Float64[np.ndarray, " angles"]
    exposure: float
    by_chance: float


def comparable(space: Subspace, other: Subspace) -> bool:
    """Whether both are subspaces of the same parts: patches, or cells of the same grid."""
    kind = FourierSubspace if isinstance(space, FourierSubspace) else PatchSubspace
    if not isinstance(other, kind) or space.image_shape != other.image_shape:
        return False
    return space.strides == other.strides if kind is FourierSubspace else space.window == other.window


def misalignment(space: Subspace, other: Subspace) -> Misalignment:
    """Of noise in `space` to the model that `other` is of. Raises UserError for subspaces of other parts."""
    if not comparable(space, other):
        raise UserError(f"subspaces of {space.window} and {other.window} windows are of other parts and have no angles")
    if isinstance(space, FourierSubspace):
        inner = np.linalg.svd(np.asarray(space.projectors @ other.projectors), compute_uv=False)
        counts = multiplicity(space.image_shape[0] // space.strides[0], space.image_shape[1] // space.strides[1])
        values = np.repeat(inner.reshape(-1, inner.shape[-1]), counts.ravel(), axis=0).ravel()
    else:
        values = np.linalg.svd(np.asarray(space.basis.T @ other.basis, np.float64), compute_uv=False)
    angles = min(space.num_directions, other.num_directions)
    cosines = np.clip(np.sort(values)[::-1][:angles].astype(np.float64), 0, 1)
    exposed = 1 - float(np.sum(cosines**2)) / space.num_directions
    return Misalignment(cosines, max(exposed, 0.0), 1 - other.num_directions / other.total_directions)


def relative_gain(layer: FirstLayer, space: Subspace) -> float | None:
    """(trace(V_N^T G V_N) / k) / (trace(G) / d): energy of noise in the subspace at the layer, over that of isotropic noise of the
    same norm; 1 is no help. Exact for the same patches; for the same cells, of images that wrap around; else None."""
    if bounds.same_patches(layer, space):
        return float(bounds.reader_deviation(layer, space, 1.0).relative_gain)
    cells = isinstance(space, FourierSubspace) and layer.strides == space.strides
    if not cells or layer.window[2] != space.image_shape[2]:
        return None
    shape = space.image_shape
    counts = multiplicity(shape[0] // space.strides[0], shape[1] // space.strides[1])
    every = blocks(layer, shape)
    low = jnp.matmul(every, space.projectors, precision=HIGHEST)
    seen, total = (float(np.sum(counts * np.asarray(jnp.sum(jnp.abs(m) ** 2, axis=(2, 3))))) for m in (low, every))
    return (seen / space.num_directions) / (total / space.total_directions)


def front_end_energy(
    layer: FirstLayer, spec: Preprocess, noise: Float32[np.ndarray, "n height width channels"]
) -> Float64[np.ndarray, " n"]:
    """norm(T_u R delta)^2 / norm(delta)^2 of noise images delta through a reader's own resize and crop R and its first layer T_u."""
    linear = dataclasses.replace(spec, mean=(0.0,) * spec.channels)  # a border of the colour `mean` is no change
    energy = np.asarray(bounds.noise_energy(layer, adapt(noise, linear)), np.float64)
    return energy / np.sum(np.square(noise, dtype=np.float64), axis=(1, 2, 3))


def ratio_of_means(
    above: Float64[np.ndarray, " n"], below: Float64[np.ndarray, " m"], seed: int = 0
) -> tuple[float, Interval]:
    """mean(above) / mean(below) with its 95 % interval, percentiles of a bootstrap."""
    generator = np.random.default_rng(seed)
    means = [generator.choice(values, (_RESAMPLES, len(values))).mean(axis=1) for values in (above, below)]
    low, high = np.percentile(means[0] / means[1], (2.5, 97.5))
    return float(above.mean() / below.mean()), (float(low), float(high))


class Correlation(Record, kw_only=True):
    """A correlation with Fisher's 95 % interval; None where it has none: a constant, or fewer than four pairs."""

    value: float | None
    interval: Interval | None
    n: int


def correlation(one: Float64[np.ndarray, " n"], other: Float64[np.ndarray, " n"], kind: str = "pearson") -> Correlation:
    """Pearson's correlation, or Spearman's of ranks ("spearman", whose interval is widened after Bonett and Wright, 2000)."""
    if kind == "spearman":
        one, other = scipy.stats.rankdata(one), scipy.stats.rankdata(other)
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return Correlation(value=None, interval=None, n=len(one))
    value = float(np.clip(np.corrcoef(one, other)[0, 1], -1, 1))
    if len(one) < 4:
        return Correlation(value=value, interval=None, n=len(one))
    width = 1.96 * np.sqrt((1 + (value**2 / 2 if kind == "spearman" else 0)) / (len(one) - 3))
    middle = np.arctanh(np.clip(value, -1 + 1e-12, 1 - 1e-12))
    interval = float(np.tanh(middle - width)), float(np.tanh(middle + width))
    return Correlation(value=value, interval=interval, n=len(one))


def probe_energies(
    outputs: Callable[[Array], tuple[Any, ...]],
    image: Float[Array, "height width channels"],
    noise: Float[Array, "n height width channels"],
) -> Float64[np.ndarray, "n depths"]:
    """norm(J delta)^2 / norm(delta)^2 of each change delta, with the Jacobian J of each output at the image. The function is compiled
    once and a new lambda anew."""
    return np.asarray(_probe_energies(outputs, image, noise), np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _probe_energies(outputs, image, noise):
    def one(delta):
        changes = jax.jvp(outputs, (image,), (delta,))[1]
        return jnp.stack([jnp.sum(change**2) for change in changes]) / jnp.sum(delta**2)

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(one, noise)
