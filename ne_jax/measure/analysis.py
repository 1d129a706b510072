"""What stage analyse measures, item by item, as dictionaries for analysis.json."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageFilter

from ne_jax.core import bounds
from ne_jax.core.jacobian import jacobian_spectrum
from ne_jax.core.pixels import ByteImages, from_bytes, to_float
from ne_jax.core.polyphase import PolyphaseSpectrum
from ne_jax.core.spectrum import Spectrum
from ne_jax.core.subspace import Subspace
from ne_jax.data.preprocess import adapt
from ne_jax.measure import spectra_and_angles
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


def spectrum_row(subject: Subject) -> dict:
    """Spectrum of the first layer on a patch, on an image that wraps around, or, where neither can be, on a flattened window."""
    layer, found = subject.model.first_layer, subject.found
    if found is None:
        values = np.linalg.svd(np.asarray(layer.matrix, np.float64), compute_uv=False)
        values, unit = np.pad(values, (0, layer.matrix.shape[1] - len(values))), "window"
    else:
        unit = "patch" if isinstance(found, Spectrum) else "image"
        values = np.asarray(found.singular_values, np.float64)
    rank, places = spectra_and_angles.numerical_rank(values, int(np.prod(layer.window))), _places(len(values))
    return {
        "unit": unit,
        "directions": len(values),
        "rank": rank,
        "sigma_1": float(values[0]),
        "effective_rank": spectra_and_angles.effective_rank(values),
        "flatness": spectra_and_angles.flatness(values, rank),
        "places": (places + 1).tolist(),
        "singular_values": values[places].tolist(),
    }


def alignment_row(model: Model, images: Float32[np.ndarray, "n height width channels"], bases: int) -> dict:
    """How the right singular vectors of a first layer, on flattened windows, lie to the data as this model is given it; `bases` random
    orthonormal bases for comparison (0: none)."""
    layer = model.first_layer
    parts = spectra_and_angles.principal_components(spectra_and_angles.windows(adapt(images, model.preprocess), layer))
    _, values, right = np.linalg.svd(np.asarray(layer.matrix, np.float64))
    rank = spectra_and_angles.numerical_rank(values, len(right))
    found = spectra_and_angles.alignment(parts, right.T, rank)
    places, tenth = _places(len(right)), max(1, round(len(right) / 10)) - 1
    total = parts.variances.sum()
    most = parts.variances.cumsum() / total
    row = {
        "unit": "patch" if layer.has_patches else "window",
        "directions": len(right),
        "rank": rank,
        "images": len(images),
        "windows": parts.count,
        "total_variance": float(total),
        "data_effective_rank": spectra_and_angles.effective_rank(np.sqrt(parts.variances)),
        "places": (places + 1).tolist(),
        "most": most[places].tolist(),
        "variances": parts.variances[places].tolist(),
        "tenth": {"directions": tenth + 1, "most": float(most[tenth])},
    }
    chance = spectra_and_angles.random_alignments(parts, bases, seed=0)._asdict() if bases else {}
    for quantity, curve in found._asdict().items():
        row[quantity] = curve[places].tolist()
        row["tenth"][quantity] = float(curve[tenth])
    for quantity, curves in chance.items():
        limits = np.stack([curves.min(axis=0), curves.max(axis=0)])
        row.setdefault("random", {"draws": bases})[quantity] = limits[:, places].tolist()
        row["tenth"][f"random_{quantity}"] = limits[:, tenth].tolist()
    return row


def pair_rows(subjects: list[Subject], draws: int) -> list[dict]:
    """Every model that has a subspace as the one that noise is made for, every model as its reader."""
    rows = []
    for owner in subjects:
        if owner.space is None:
            continue
        noise = _noise(owner.space, draws)
        for reader in subjects:
            rows.append(_pair(owner, reader, noise))
    return rows


def _noise(space: Subspace, draws: int) -> dict[str, Float32[np.ndarray, "draws height width channels"]]:
    keys = jax.random.split(jax.random.key(0), draws)
    isotropic = np.random.default_rng(0).standard_normal((draws, *space.image_shape), np.float32)
    sample = jax.jit(space.sample)
    return {"subspace": np.stack([np.asarray(sample(key)) for key in keys]), "isotropic": isotropic}


def _pair(owner: Subject, reader: Subject, noise: dict[str, np.ndarray]) -> dict:
    """Exact where the geometry is the same, and measured through the reader's own preprocessing and first layer."""
    layer, spec = reader.model.first_layer, reader.model.preprocess
    energies = {kind: spectra_and_angles.front_end_energy(layer, spec, images) for kind, images in noise.items()}
    gain, interval = spectra_and_angles.ratio_of_means(energies["subspace"], energies["isotropic"])
    same = spec.image_shape == owner.space.image_shape
    row = {
        "noise_for": owner.model.name,
        "reader": reader.model.name,
        "draws": len(noise["subspace"]),
        "measured_gain": gain,
        "measured_ci95": list(interval),
        "measured_energy": float(energies["subspace"].mean()),
        "relative_gain": spectra_and_angles.relative_gain(layer, owner.space) if same else None,
    }
    if reader.space is not None and spectra_and_angles.comparable(owner.space, reader.space):
        angles = spectra_and_angles.misalignment(owner.space, reader.space)
        row |= {"exposure": angles.exposure, "exposure_by_chance": angles.by_chance}
        row["cosines"] = angles.cosines[_places(len(angles.cosines))].tolist()
    return row


def _jpeg(image: Image.Image) -> Image.Image:
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=75)
    return Image.open(stored)


def _halved(image: Image.Image) -> Image.Image:
    half = tuple(max(1, side // 2) for side in image.size)
    return image.resize(half, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


PREPARATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "clean": lambda image: image,
    "JPEG, quality 75": _jpeg,
    "half the size and back": _halved,
    "Gaussian blur, 1 pixel": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
}


def prepared(pixels: ByteImages, name: str) -> ByteImages:
    """Images after one of PREPARATIONS, by Pillow."""
    pictures = [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in pixels]
    return np.stack([np.asarray(PREPARATIONS[name](picture)).reshape(pixels.shape[1:]) for picture in pictures])


def preparation_rows(model: Model, space: Subspace, clean: ByteImages) -> dict[str, dict]:
    """Alignment of the authorized model with the data after image processing, and the share of the images that its subspace holds."""
    rows = {}
    for name in PREPARATIONS:
        pixels = prepared(clean, name)
        centred = to_float(pixels) - model.first_layer.mean
        inside = jax.lax.map(space.project, centred)
        share = float(jnp.sum(inside**2) / jnp.sum(centred**2))
        rows[name] = alignment_row(model, from_bytes(pixels), 0) | {"energy_in_subspace": share}
    return rows


def depth_rows(
    outputs: Callable,
    images: jax.Array,
    space: Subspace,
    depths: int,
    directions: int,
    iterations: int,
    probes: int = 8,
) -> list[dict]:
    """The Jacobian's largest singular values at `depths` depths; its stable rank and the gain of noise in the subspace over isotropic
    noise, both from `probes` random changes. One entry an image in each list."""
    shapes = jax.eval_shape(outputs, images[0])
    noise = _noise(space, probes)
    energy = {
        kind: np.stack(
            [spectra_and_angles.probe_energies(outputs, image, jnp.asarray(some)).mean(axis=0) for image in images]
        )
        for kind, some in noise.items()
    }
    rows = []
    for depth in np.unique(np.linspace(0, len(shapes) - 1, depths).round().astype(int)).tolist():

        def prefix(image, depth=depth):
            return outputs(image)[depth]

        found = [
            jacobian_spectrum(jax.random.key(0), prefix, x, directions, end="largest", iterations=iterations)
            for x in images
        ]
        largest = np.array([each.singular_values for each in found], np.float64)
        squared_norm = energy["isotropic"][:, depth] * images[0].size
        rows.append(
            {
                "depth": depth,
                "name": f"block {depth}" if depth else "first layer",
                "outputs": int(np.prod(shapes[depth].shape)),
                "numbers": int(images[0].size),
                "largest": largest.tolist(),
                "residual": float(max(each.residuals.max() for each in found)),
                "stable_rank": (squared_norm / largest[:, 0] ** 2).tolist(),
                "subspace_gain": (energy["subspace"][:, depth] / energy["isotropic"][:, depth]).tolist(),
            }
        )
    return rows


def link_rows(subjects: list[Subject], pairs: list[dict]) -> dict[str, Any]:
    """The gap of the spectra of two first layers on one image (Hoffman and Wielandt) against the noise measured at the reader's, over
    all pairs of different models that take the same pixels; the exact prediction beside it."""
    by_name = {each.model.name: each for each in subjects if each.found is not None}
    rows = []
    for pair in pairs:
        names = pair["noise_for"], pair["reader"]
        one, other = (by_name.get(name) for name in names)
        if names[0] == names[1] or other is None or one.found.image_shape != other.found.image_shape:
            continue
        mine, theirs = (spectra_and_angles.image_singular_values(each.found) for each in (one, other))
        gain = pair["relative_gain"]
        rows.append(
            {key: pair[key] for key in ("noise_for", "reader", "measured_energy", "measured_gain")}
            | {
                "same_windows": gain is not None,
                "spectral_gap": float(bounds.spectral_gap(mine, theirs)),
                "exact_energy": None if gain is None else gain * float(np.mean(theirs**2)),
            }
        )
    return {"pairs": rows, "correlations": correlations(rows)}


def correlations(rows: list[dict]) -> list[dict]:
    """Of both predictions with the energy, and with the gain, which is without the reader's own scale."""
    found = []
    for predictor in ("spectral_gap", "exact_energy"):
        for scope in ("all", "same windows") if predictor == "spectral_gap" else ("same windows",):
            chosen = [row for row in rows if scope == "all" or row["same_windows"]]
            for target in ("measured_energy", "measured_gain"):
                one, other = (np.array([row[key] for row in chosen], np.float64) for key in (predictor, target))
                row = {"predictor": predictor, "pairs": scope, "target": target}
                for kind in ("pearson", "spearman"):
                    row[kind] = spectra_and_angles.correlation(one, other, kind)._asdict()
                found.append(row)
    return found
