"""What stage analyse measures, item by item, as the records of analysis.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import Float32, Float64, Int
from msgspec import UNSET

from ne_jax.core import bounds
from ne_jax.core.jacobian import jacobian_spectrum
from ne_jax.core.pixels import ByteImages, from_bytes, to_float
from ne_jax.core.polyphase import PolyphaseSpectrum
from ne_jax.core.spectrum import Spectrum
from ne_jax.core.subspace import Subspace
from ne_jax.data.preprocess import adapt
from ne_jax.measure import spectra_and_angles
from ne_jax.measure.analysis_records import (
    AlignmentRow,
    Chance,
    CorrelationRow,
    DepthRow,
    Link,
    LinkRow,
    PairRow,
    PreparationRow,
    SpectrumRow,
    Tenth,
)
from ne_jax.measure.preparations import PREPARATIONS, prepared
from ne_jax.measure.spectra_and_angles import Alignment, Components
from ne_jax.models.model import Model

_DRAWN = 200  # places of a curve that are kept


class Subject(NamedTuple):
    """A model under analysis. found: the spectrum of its own first layer, and space: the subspace of a release for it by the job's
    rule; None, with the reason, where there is none."""

    model: Model
    found: Spectrum | PolyphaseSpectrum | None
    space: Subspace | None
    reason: str = ""


def _places(size: int) -> np.ndarray:
    return np.unique(np.linspace(0, size - 1, _DRAWN).astype(int))


def spectrum_row(subject: Subject) -> SpectrumRow:
    """Spectrum of the first layer on a patch, on an image that wraps around, or, where neither can be, on a flattened window."""
    layer, found = subject.model.first_layer, subject.found
    if found is None:
        values = np.linalg.svd(np.asarray(layer.matrix, np.float64), compute_uv=False)
        values, unit = np.pad(values, (0, layer.matrix.shape[1] - len(values))), "window"
    else:
        unit = "patch" if isinstance(found, Spectrum) else "image"
        values = np.asarray(found.singular_values, np.float64)
    rank, places = spectra_and_angles.numerical_rank(values, int(np.prod(layer.window))), _places(len(values))
    return SpectrumRow(
        unit=unit,
        directions=len(values),
        rank=rank,
        sigma_1=float(values[0]),
        effective_rank=spectra_and_angles.effective_rank(values),
        flatness=spectra_and_angles.flatness(values, rank),
        places=(places + 1).tolist(),
        singular_values=values[places].tolist(),
    )


def alignment_row(model: Model, images: Float32[np.ndarray, "n height width channels"], bases: int) -> AlignmentRow:
    """How the right singular vectors of a first layer, on flattened windows, lie to the data as this model is given it; `bases` random
    orthonormal bases for comparison (0: none)."""
    layer = model.first_layer
    parts = spectra_and_angles.principal_components(spectra_and_angles.windows(adapt(images, model.preprocess), layer))
    _, values, right = np.linalg.svd(np.asarray(layer.matrix, np.float64))
    rank = spectra_and_angles.numerical_rank(values, len(right))
    found = spectra_and_angles.alignment(parts, right.T, rank)
    chance = _by_chance(parts, bases) if bases else None
    places = _places(len(right))
    total = parts.variances.sum()
    most = parts.variances.cumsum() / total
    return AlignmentRow(
        unit="patch" if layer.has_patches else "window",
        directions=len(right),
        rank=rank,
        images=len(images),
        windows=parts.count,
        total_variance=float(total),
        data_effective_rank=spectra_and_angles.effective_rank(np.sqrt(parts.variances)),
        places=(places + 1).tolist(),
        most=most[places].tolist(),
        variances=parts.variances[places].tolist(),
        tenth=_tenth(most, found, chance),
        variance=found.variance[places].tolist(),
        overlap=found.overlap[places].tolist(),
        random=UNSET if chance is None else _chance(chance, places, bases),
    )


def _by_chance(parts: Components, bases: int) -> Alignment:
    """The lowest and the highest curve of `bases` random bases."""
    curves = spectra_and_angles.random_alignments(parts, bases, seed=0)
    return Alignment(*(np.stack([each.min(axis=0), each.max(axis=0)]) for each in curves))


def _tenth(most: Float64[np.ndarray, " d"], found: Alignment, chance: Alignment | None) -> Tenth:
    """Of the first tenth of the directions, at least one."""
    last = max(1, round(len(most) / 10)) - 1
    return Tenth(
        directions=last + 1,
        most=float(most[last]),
        variance=float(found.variance[last]),
        overlap=float(found.overlap[last]),
        random_variance=UNSET if chance is None else tuple(chance.variance[:, last].tolist()),
        random_overlap=UNSET if chance is None else tuple(chance.overlap[:, last].tolist()),
    )


def _chance(chance: Alignment, places: Int[np.ndarray, " places"], bases: int) -> Chance:
    variance, overlap = (tuple(limits[:, places].tolist()) for limits in chance)
    return Chance(draws=bases, variance=variance, overlap=overlap)


def pair_rows(subjects: list[Subject], draws: int) -> list[PairRow]:
    """Every model that has a subspace as the one that noise is made for, every model as its reader."""
    rows = []
    for owner in subjects:
        if owner.space is None:
            continue
        noise = _noise(owner.space, draws)
        for reader in subjects:
            rows.append(_pair(owner, reader, noise))
    return rows


class Noise(NamedTuple):
    """Noise images, or the energies that something sees of each: in a subspace, and isotropic."""

    subspace: np.ndarray
    isotropic: np.ndarray


def _noise(space: Subspace, draws: int) -> Noise:
    """`draws` images of each kind."""
    keys = jax.random.split(jax.random.key(0), draws)
    isotropic = np.random.default_rng(0).standard_normal((draws, *space.image_shape), np.float32)
    sample = jax.jit(space.sample)
    return Noise(np.stack([np.asarray(sample(key)) for key in keys]), isotropic)


def _pair(owner: Subject, reader: Subject, noise: Noise) -> PairRow:
    """Exact where the geometry is the same, and measured through the reader's own preprocessing and first layer."""
    layer, spec = reader.model.first_layer, reader.model.preprocess
    energies = Noise(*(spectra_and_angles.front_end_energy(layer, spec, images) for images in noise))
    gain, interval = spectra_and_angles.ratio_of_means(*energies)
    same = spec.image_shape == owner.space.image_shape
    angles = {}
    if reader.space is not None and spectra_and_angles.comparable(owner.space, reader.space):
        found = spectra_and_angles.misalignment(owner.space, reader.space)
        angles = {"exposure": found.exposure, "exposure_by_chance": found.by_chance}
        angles["cosines"] = found.cosines[_places(len(found.cosines))].tolist()
    return PairRow(
        noise_for=owner.model.name,
        reader=reader.model.name,
        draws=len(noise.subspace),
        measured_gain=gain,
        measured_ci95=interval,
        measured_energy=float(energies.subspace.mean()),
        relative_gain=spectra_and_angles.relative_gain(layer, owner.space) if same else None,
        **angles,
    )


def preparation_rows(model: Model, space: Subspace, clean: ByteImages) -> dict[str, PreparationRow]:
    """Alignment of the authorized model with the data after image processing, and the share of the images that its subspace holds."""
    rows = {}
    for name in PREPARATIONS:
        pixels = prepared(clean, name)
        centred = to_float(pixels) - model.first_layer.mean
        inside = jax.lax.map(space.project, centred)
        share = float(jnp.sum(inside**2) / jnp.sum(centred**2))
        row = msgspec.structs.asdict(alignment_row(model, from_bytes(pixels), 0))
        rows[name] = PreparationRow(**row, energy_in_subspace=share)
    return rows


def depth_rows(
    outputs: Callable,
    images: jax.Array,
    space: Subspace,
    depths: int,
    directions: int,
    iterations: int,
    probes: int = 8,
) -> list[DepthRow]:
    """The Jacobian's largest singular values at `depths` depths; its stable rank and the gain of noise in the subspace over isotropic
    noise, both from `probes` random changes. One entry an image in each list."""
    count = len(jax.eval_shape(outputs, images[0]))
    energies = Noise(*(_mean_energies(outputs, images, noise) for noise in _noise(space, probes)))
    chosen = np.unique(np.linspace(0, count - 1, depths).round().astype(int)).tolist()
    return [
        _depth_row(outputs, images, depth, Noise(*(each[:, depth] for each in energies)), directions, iterations)
        for depth in chosen
    ]


def _mean_energies(
    outputs: Callable, images: jax.Array, noise: Float32[np.ndarray, "probes height width channels"]
) -> Float64[np.ndarray, "images depths"]:
    found = [spectra_and_angles.probe_energies(outputs, image, jnp.asarray(noise)) for image in images]
    return np.stack([each.mean(axis=0) for each in found])


def _depth_row(
    outputs: Callable, images: jax.Array, depth: int, energies: Noise, directions: int, iterations: int
) -> DepthRow:
    def output(image):
        return outputs(image)[depth]

    found = [
        jacobian_spectrum(jax.random.key(0), output, image, directions, end="largest", iterations=iterations)
        for image in images
    ]
    largest = np.array([each.singular_values for each in found], np.float64)
    squared_norm = energies.isotropic * images[0].size
    return DepthRow(
        depth=depth,
        name=f"block {depth}" if depth else "first layer",
        outputs=int(np.prod(jax.eval_shape(output, images[0]).shape)),
        numbers=int(images[0].size),
        largest=largest.tolist(),
        residual=float(max(each.residuals.max() for each in found)),
        stable_rank=(squared_norm / largest[:, 0] ** 2).tolist(),
        subspace_gain=(energies.subspace / energies.isotropic).tolist(),
    )


def link_rows(subjects: list[Subject], pairs: list[PairRow]) -> Link:
    """The gap of the spectra of two first layers on one image (Hoffman and Wielandt) against the noise measured at the reader's, over
    all pairs of different models that take the same pixels; the exact prediction beside it."""
    by_name = {each.model.name: each for each in subjects if each.found is not None}
    rows = []
    for pair in pairs:
        one, other = by_name.get(pair.noise_for), by_name.get(pair.reader)
        if pair.noise_for == pair.reader or other is None or one.found.image_shape != other.found.image_shape:
            continue
        mine, theirs = (spectra_and_angles.image_singular_values(each.found) for each in (one, other))
        gain = pair.relative_gain
        rows.append(
            LinkRow(
                noise_for=pair.noise_for,
                reader=pair.reader,
                measured_energy=pair.measured_energy,
                measured_gain=pair.measured_gain,
                same_windows=gain is not None,
                spectral_gap=float(bounds.spectral_gap(mine, theirs)),
                exact_energy=None if gain is None else gain * float(np.mean(theirs**2)),
            )
        )
    return Link(pairs=rows, correlations=correlations(rows))


def correlations(rows: list[LinkRow]) -> list[CorrelationRow]:
    """Of both predictions with the energy, and with the gain, which is without the reader's own scale."""
    found = []
    for predictor in ("spectral_gap", "exact_energy"):
        for scope in ("all", "same windows") if predictor == "spectral_gap" else ("same windows",):
            chosen = [row for row in rows if scope == "all" or row.same_windows]
            for target in ("measured_energy", "measured_gain"):
                one, other = (
                    np.array([getattr(row, name) for row in chosen], np.float64) for name in (predictor, target)
                )
                kinds = {kind: spectra_and_angles.correlation(one, other, kind) for kind in ("pearson", "spearman")}
                found.append(CorrelationRow(predictor=predictor, pairs=scope, target=target, **kinds))
    return found
