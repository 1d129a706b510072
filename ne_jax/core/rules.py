"""Which directions are low-sensitivity: four rules that choose a `Subspace` from a layer's spectrum, and how strong noise in it may be."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float64

from ne_jax.core.polyphase import PolyphaseSpectrum, lowest, projectors
from ne_jax.core.spectrum import Spectrum
from ne_jax.core.subspace import FourierSubspace, PatchSubspace, Subspace
from ne_jax.errors import UserError

Rule = Literal["relative", "count", "energy", "utility"]


def low_sensitivity(
    spectrum: Spectrum | PolyphaseSpectrum,
    rule: Rule,
    value: float,
    *,
    psnr_db: float | None = None,
    feature_norm: float | None = None,
) -> Subspace:
    """The low-sensitivity subspace that `rule` chooses.

    relative: sigma_i <= value * sigma_1, value in [0, 1). Rounding error of the SVD counts as zero.
    count: the `value` directions of smallest sigma. The only rule with a static size, hence for patches usable inside jit.
    energy: the most directions that hold at most the share `value` in [0, 1) of sum sigma_i^2.
    utility: the most directions for which the utility bound (T1) sigma_max(V_N) * norm(delta) of a change at `psnr_db` (dB)
        is at most `value` times `feature_norm`, the usual norm of the layer's response to an image. `strongest_psnr_db`
        then gives the strength up to which the bound stays below the gap.

    Where windows overlap, directions and norms are of the whole image, and of the layer on images that wrap around: `certify`
    adds what the true border does. A direction comes with its conjugate, so count and energy may take one direction less.
    Raises UserError for a value out of range, and when no direction or every direction would be chosen.
    """
    count = _count(spectrum, rule, value, psnr_db, feature_norm)
    first, values, vectors = len(spectrum.singular_values) - count, spectrum.singular_values, spectrum.vectors
    if isinstance(spectrum, Spectrum):
        return PatchSubspace(
            vectors[:, first:], vectors[:, :first], values[first:], values[0], spectrum.window, spectrum.image_shape
        )
    taken, kept = lowest(spectrum, count)
    if kept == 0:
        raise UserError(f"rule {rule} with {value:g} would split two conjugate directions; take at least 2")
    return FourierSubspace(
        projectors(vectors, taken), values[len(values) - kept :], values[0],
        spectrum.window, spectrum.strides, spectrum.image_shape,
    )  # fmt: skip


def _whole(spectrum: Spectrum | PolyphaseSpectrum) -> str:
    return "a patch" if isinstance(spectrum, Spectrum) else "an image"


def _rounding(window: tuple[int, int, int]) -> float:
    """Share of sigma_1 below which a singular value is zero to float32: each number that the SVD saw is a sum over a window."""
    return int(np.prod(window)) * float(np.finfo(np.float32).eps)


def _count(
    spectrum: Spectrum | PolyphaseSpectrum, rule: str, value: float, psnr_db: float | None, feature_norm: float | None
) -> int:
    """How many of the last directions the rule takes. All but `count` look at the singular values, on the host."""
    if rule == "count":
        dimension = spectrum.singular_values.shape[0]
        if not 0 < int(value) < dimension or int(value) != value:
            raise UserError(
                f"count {value} is not a whole number from 1 to {dimension - 1} ({_whole(spectrum)} has {dimension} directions)"
            )
        return int(value)
    if rule not in ("relative", "energy", "utility"):
        raise UserError(f'rule "{rule}" is unknown; choose relative, count, energy or utility')
    if not 0 <= value < 1:
        raise UserError(f"{rule} threshold {value} is not in [0, 1)")
    sigma = np.asarray(spectrum.singular_values, np.float64)
    rounding = _rounding(spectrum.window) * sigma[0]
    if rule == "energy":
        held = np.cumsum(np.where(sigma <= rounding, 0, sigma)[::-1] ** 2)
        count = int(np.sum(held <= value * held[-1]))
    else:
        limit = value * sigma[0]
        if rule == "utility":
            if psnr_db is None or feature_norm is None:
                raise UserError("the utility rule needs psnr_db and feature_norm")
            limit = value * feature_norm / delta_norm(psnr_db, spectrum.image_shape)
        count = int(np.sum(sigma <= max(limit, rounding)))
    _check_some(spectrum, rule, value, count, sigma)
    return count


def _check_some(
    spectrum: Spectrum | PolyphaseSpectrum, rule: str, value: float, count: int, sigma: Float64[np.ndarray, " d"]
) -> None:
    """Raise UserError if no direction or every direction would be taken."""
    if count == 0:
        patches = isinstance(spectrum, Spectrum)
        hint = "" if patches else " (as a rule, only layers whose windows do not overlap have null directions)"
        raise UserError(
            f"no low-sensitivity direction under rule {rule} with {value:g}: the smallest sigma / sigma_1 of this layer is "
            f"{sigma[-1] / sigma[0]:.3g}; raise the threshold above it, use rule count, or choose another model{hint}"
        )
    if count == len(sigma):
        raise UserError(
            f"rule {rule} with {value:g} takes all {count} directions, and the image with them; lower the threshold"
        )


def delta_norm(psnr_db: float, image_shape: tuple[int, ...]) -> float:
    """Norm of a change of an image of that shape at that PSNR, in pixel units."""
    return float(np.sqrt(np.prod(image_shape)) * 10 ** (-psnr_db / 20))


def strongest_psnr_db(space: Subspace, gap: float, feature_norm: float) -> float:
    """The PSNR (dB) at which the utility bound (T1) reaches `gap` times `feature_norm`; weaker is higher. -inf when the
    subspace is exactly null to float32, so that any strength does. Without what the true border does where windows overlap."""
    sigma = float(space.singular_values[0])
    if sigma <= _rounding(space.window) * float(space.sigma_1):
        return -np.inf
    return float(20 * np.log10(sigma * np.sqrt(np.prod(space.image_shape)) / (gap * feature_norm)))
