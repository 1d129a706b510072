"""Certificates: what a release does to the authorized model, measured and bounded; what it does to a reader's first layer."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Float32, Float64, Int, Shaped

from ne_jax.core.each_image import over_rows, placed
from ne_jax.core.enclosure import SLACK, UNIT_ROUNDOFF, Rounded, norm_above
from ne_jax.core.first_layer import HIGHEST, FirstLayer
from ne_jax.core.layer_products import ExactLayer
from ne_jax.core.pixels import Image, check_pixels, is_concrete, poisoned, psnr_db, to_float
from ne_jax.core.polyphase import unpadded, wrap_around
from ne_jax.core.subspace import FourierSubspace, PatchSubspace, Subspace
from ne_jax.core.utility_bound import Splitter, splitter
from ne_jax.errors import UserError


class Certificate(NamedTuple):
    """Utility certificate of stored images, one entry each (contract 6).

    psnr_db: realised strength, dB. delta_norm: norm(x' - x), pixel units.
    feature_gap: rho = norm(T(x' - x)), measured. bound: proved upper limit of rho. holds: feature_gap <= bound.
    subspace_term, residual_term, precision_term, border_term: the parts of `bound`: sigma_max(V_N) times the change's part in V_N;
        sigma_1 times its part outside, which rounding, clipping and pixels of no patch cause; float32 rounding of the products;
        where windows overlap, norm(T w) for the pixels w that wrap around where T pads with zeros, measured (0 for patches).
    expected_gap: sqrt(mean sigma_i^2 over V_N) * norm(part in V_N): the rms of rho under `gaussian` noise, without
        the border's share where windows overlap.
    relative_gap: rho / norm(T(x - mean)), the gap against the layer's response to the clean image.
    """

    psnr_db: Float[Array, " n"]
    delta_norm: Float[Array, " n"]
    feature_gap: Float[Array, " n"]
    bound: Float[Array, " n"]
    holds: Bool[Array, " n"]
    subspace_term: Float[Array, " n"]
    residual_term: Float[Array, " n"]
    precision_term: Float[Array, " n"]
    border_term: Float[Array, " n"]
    expected_gap: Float[Array, " n"]
    relative_gap: Float[Array, " n"]


def certify(
    layer: FirstLayer,
    space: Subspace,
    images: Shaped[Array | np.ndarray, "n height width channels"],
    recoded: Shaped[Array | np.ndarray, "n height width channels"],
) -> Certificate:
    """Utility certificates (T1) of `recoded`, as stored, against `images` (uint8, or float in [0, 1]).

    bound = norm(A V_N) norm(P delta) + sigma_1 norm(delta - P delta) + rounding of float32 products, where A is one patch's map
    and P the projection on V_N. Both norms are measured on this `layer`, so the bound holds for any subspace of these patches,
    also one of a rounded SVD or of another layer. Where windows overlap A is the layer on images that wrap around. With zero padding
    its outputs are these, or some of them, less T applied to what wraps around, whose measured norm is added (triangle
    inequality); any padding and any layer of the same strides will do.
    Raises UserError for `images` outside [0, 1], `recoded` with NaN, shapes that differ, and a layer with other patches.
    """
    images, recoded = check_pixels(images, "images"), to_float(recoded, "recoded")
    if not same_patches(layer, space) and not _same_cells(layer, space):
        raise UserError(
            f"the layer's patches ({layer}) are not the subspace's {space.window} on images {space.image_shape}"
        )
    if is_concrete(recoded) and not bool(jnp.isfinite(recoded).all()):
        raise UserError("recoded has NaN or infinite values; the stored images are broken")
    if images.shape != recoded.shape or images.shape[1:] != space.image_shape:
        raise UserError(
            f"images {images.shape} and recoded {recoded.shape} must both be of the subspace's {space.image_shape}"
        )
    return _certify(placed((images, recoded)), layer, space, images, recoded)


class _Ready(NamedTuple):
    """What every image is measured by. border: of pixels that wrap around; None where windows are patches."""

    layer: FirstLayer
    space: Subspace
    exact: ExactLayer
    splitter: Splitter
    border: ExactLayer | None


@functools.partial(jax.jit, static_argnums=0)
def _certify(sharding: NamedSharding | None, layer: FirstLayer, space: Subspace, images, recoded) -> Certificate:
    # As arrays, also where they are constants, which XLA would round in its own way: the bits are the same inside jit and outside.
    layer, space = jax.lax.optimization_barrier((layer, space))
    border = ExactLayer.of(unpadded(layer)) if isinstance(space, FourierSubspace) else None
    ready = _Ready(layer, space, ExactLayer.of(layer), splitter(layer, space), border)
    return over_rows(_of_image, sharding, (images, recoded), ready)


@jax.custom_jvp
def _of_image(pair: tuple[Image, Image], ready: _Ready) -> Certificate:
    image, split = poisoned(pair[0]), ready.splitter
    delta = pair[1] - image
    seen, parts = ready.exact.apply(delta), split.split(delta)
    border = Rounded(jnp.zeros(()), jnp.zeros(()))
    if ready.border is not None:
        border = ready.border.apply(wrap_around(ready.layer, delta))
    gap = jnp.linalg.norm(seen.value)
    # Of T delta, of the split, of the difference of two pixels, and of the norm that is compared.
    rounding = (
        seen.error + border.error + split.largest * parts.error
        + UNIT_ROUNDOFF * split.anywhere * norm_above(delta) + np.float32((seen.value.size + 8) * UNIT_ROUNDOFF) * gap
    )  # fmt: skip
    subspace, residual, outer = split.low * parts.inside, split.largest * parts.outside, norm_above(border.value)
    precision = SLACK * (
        rounding + 64 * UNIT_ROUNDOFF * (subspace + residual + outer)
    )  # of these few sums and products too
    terms = (subspace, residual, precision, outer)
    bound = sum(terms)
    expected = jnp.sqrt(jnp.mean(ready.space.singular_values**2)) * parts.inside
    relative = gap / jnp.maximum(jnp.linalg.norm(ready.layer.response(image)), 1e-30)
    holds = jnp.isfinite(bound) & (gap <= bound)
    return Certificate(psnr_db(delta), jnp.linalg.norm(delta), gap, bound, holds, *terms, expected, relative)


@_of_image.defjvp
def _derivatives(primals, tangents):
    # Digits are whole numbers, without a derivative: it is that of the plain float32 figures.
    return _of_image(*primals), jax.jvp(_plainly, primals, tangents)[1]


def _plainly(pair: tuple[Image, Image], ready: _Ready) -> Certificate:
    """The same with float32's own products, and no rounding counted."""
    image, layer, split = poisoned(pair[0]), ready.layer, ready.splitter
    delta = pair[1] - image
    inside, size, gap = ready.space.project(delta), jnp.linalg.norm(delta), jnp.linalg.norm(layer.apply(delta))
    outer = jnp.zeros(()) if ready.border is None else jnp.linalg.norm(unpadded(layer).apply(wrap_around(layer, delta)))
    part, zero = jnp.linalg.norm(inside), jnp.zeros(())
    terms = (split.low * part, split.largest * jnp.linalg.norm(delta - inside), zero, outer)
    expected = jnp.sqrt(jnp.mean(ready.space.singular_values**2)) * part
    relative = gap / jnp.maximum(jnp.linalg.norm(layer.response(image)), 1e-30)
    return Certificate(psnr_db(delta), size, gap, sum(terms), gap <= sum(terms), *terms, expected, relative)


class Prediction(NamedTuple):
    """What the authorized model says of stored images, by execution (T2), one entry each.

    kept: the same argmax as on the clean image. margin_clean, margin: largest minus second largest logit, clean and stored;
    margin is the slack left for other hardware and precision. logit_gap: norm of the change of the logits.
    """

    predicted_clean: Int[Array, " n"]
    predicted: Int[Array, " n"]
    kept: Bool[Array, " n"]
    margin_clean: Float[Array, " n"]
    margin: Float[Array, " n"]
    logit_gap: Float[Array, " n"]


@jax.jit
def compare_logits(clean: Float[Array, "n classes"], stored: Float[Array, "n classes"]) -> Prediction:
    """Prediction certificates from the authorized model's logits on the clean and on the stored images."""

    def margin(logits):
        best = jax.lax.top_k(logits, 2)[0]
        return best[:, 0] - best[:, 1]

    before, after = clean.argmax(-1), stored.argmax(-1)
    return Prediction(
        before, after, before == after, margin(clean), margin(stored), jnp.linalg.norm(stored - clean, axis=-1)
    )


def row_cosines(
    one: Float32[np.ndarray, "n features"], other: Float32[np.ndarray, "n features"]
) -> Float64[np.ndarray, " n"]:
    """Cosines of the angles between rows of features, row by row; 1 for equal ones."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)


def failure_upper_bound(failures: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper bound of a failure rate after `failures` of `n`; about 3 / n for none."""
    if failures >= n:
        return 1.0
    return float(scipy.stats.beta.ppf(confidence, failures + 1, n - failures))


class Deviation(NamedTuple):
    """The energy norm(T_u delta)^2 of Gaussian noise at a reader's first layer: mean, and limits that each fail with
    probability at most exp(-t). relative_gain: energy against isotropic noise of the same energy; 1 is no help from the subspace.
    """

    mean: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    relative_gain: Float[Array, ""]


def reader_deviation(
    reader: FirstLayer, space: Subspace, noise_std: float | Float[Array, ""], t: float = 3.0
) -> Deviation:
    """T3: noise with standard deviation `noise_std` (pixel units) on every coordinate of V_N in every patch, seen by a reader with
    the same patches: P s^2 trace(V_N^T G V_N), with the tails of Laurent and Massart (2000, lemma 1) for P independent patches.

    `recode`'s gaussian fixes the norm instead; its energy has the same mean with noise_std = norm(delta) / sqrt(P k).
    Raises UserError for a reader whose patches are others: measure norm(T_u delta) instead.
    """
    if not same_patches(reader, space):
        raise UserError(
            f"the reader's windows {reader.window}, strides {reader.strides} are not the subspace's patches {space.window}"
        )
    return _deviation(reader.matrix, space, noise_std, t)


def same_patches(reader: FirstLayer, space: Subspace) -> bool:
    """Whether the reader cuts images of the space into the same patches; never where the space's windows overlap."""
    return isinstance(space, PatchSubspace) and reader.window == space.window and reader.tiles(space.image_shape)


def _same_cells(layer: FirstLayer, space: Subspace) -> bool:
    """Whether a subspace of frequencies is one of cells that the layer moves by."""
    same = isinstance(space, FourierSubspace) and layer.strides == space.strides
    return same and layer.window[2] == space.image_shape[2]


@jax.jit
def _deviation(matrix, space: PatchSubspace, noise_std, t) -> Deviation:
    seen = jnp.matmul(matrix, space.basis, precision=HIGHEST)
    eigenvalues = jnp.square(jnp.linalg.svd(seen, compute_uv=False))
    patches, scale = space.num_patches, jnp.square(noise_std)
    trace = patches * jnp.sum(eigenvalues)
    spread = 2 * jnp.sqrt(patches * jnp.sum(eigenvalues**2) * t)
    upper = trace + spread + 2 * jnp.max(eigenvalues) * t
    gain = (jnp.sum(eigenvalues) / space.num_directions) / jnp.mean(jnp.sum(matrix**2, axis=0))
    return Deviation(scale * trace, scale * jnp.maximum(trace - spread, 0), scale * upper, gain)


def spectral_gap(values: Float[Array | np.ndarray, " d"], others: Float[Array | np.ndarray, " d"]) -> Float[Array, ""]:
    """Hoffman-Wielandt (Mirsky): sum (sigma_i(A) - sigma_i(B))^2 <= norm(A - B)_F^2, for the paper's table.

    Not sufficient: it compares spectra and is blind to directions. With equal spectra it is 0 and noise may still be large;
    with B = 10 A it is large and B reads everything. Certify with `reader_deviation`.
    """
    return jnp.sum(jnp.square(values - others))


def noise_energy(layer: FirstLayer, delta: Float[Array | np.ndarray, "n height width channels"]) -> Float[Array, " n"]:
    """norm(T_u delta)^2 of each image, for any first layer."""
    return jnp.sum(jnp.square(layer.apply(delta)), axis=(1, 2, 3))
