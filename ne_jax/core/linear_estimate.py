"""Second moments of clean images, and the linear maps of patches or of frequencies that follow from them.

All linear attacks are of one form: an image is cut into units, the model's patches or the cells of a polyphase transform, and every
unit, or the cells' Fourier transform at every frequency, becomes mean + (I + change) (unit - mean). With Sx = R R the covariance of
clean units, directions N of noise are A = R^-1 N where clean images are white, and everything known about them is in the singular
value decomposition A = U diag(sigma) V^T:

    noise covariance s^2 N N^T:  best linear estimate  change = -R U diag(w) U^T R^-1,  w = s^2 sigma^2 / (1 + s^2 sigma^2),
    mean squared error  trace(R U diag(w) U^T R).

For s to infinity w = 1, and the part in N is replaced by what the part outside of it predicts (linear inpainting):
x_N = mu_N + S_NS S_SS^-1 (y_S - mu_S).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from ne_jax.core.first_layer import HIGHEST
from ne_jax.core.pixels import Images
from ne_jax.core.polyphase import cell, filter_cells
from ne_jax.core.subspace import FourierSubspace, PatchSubspace, Subspace
from ne_jax.core.unfold import fold, grid, unfold
from ne_jax.errors import UserError

# Variance that rounding to 8 bits gives a pixel: photographs have at least this in every direction.
ROUNDING = 1 / (12 * 255**2)
# From so many images on, as many are multiplied at once as make it fast. Fewer go one by one, as ever: sums in another order have other
# last bits, and records of small releases are pinned (tests/test_pins.py).
_MANY, _AT_ONCE = 1024, 32
Unit = tuple[int, int, int]
Directions = float | str  # their share of all, or "knee"
Patches = Float[np.ndarray, "n patches d"]
Square = Inexact[np.ndarray, "*frequencies d d"]
Columns = Inexact[np.ndarray, "*frequencies d k"]
Public = Float[np.ndarray, "public public_height public_width channels"]  # beside other images


class Prior(NamedTuple):
    """Mean and covariance of the units of clean images, float64.

    unit: (height, width, channels) of a patch, or of a polyphase cell.
    mean: (d,), of a unit. root, inverse: R = Sx^(1/2) and its inverse: (d, d), or (rows, half, d, d) where a matrix belongs to each
    frequency of `rfft2` over the grid of cells.
    """

    unit: Unit
    mean: Float[np.ndarray, " d"]
    root: Square
    inverse: Square


def given(value, what: str):
    """The field of Knowledge, or a UserError where the runner had none."""
    if value is None:
        raise UserError(f"the attack needs {what}, and there is none")
    return value


def adjoint(matrix: Inexact[np.ndarray, "*frequencies d e"]) -> Inexact[np.ndarray, "*frequencies e d"]:
    """Conjugate transpose of the last two axes."""
    return np.conj(np.swapaxes(matrix, -1, -2))


def cut(images: Images, unit: Unit) -> Patches:
    """Whole units of every image, flattened as (row, column, channel). UserError where an image holds none."""
    if images.shape[3] != unit[2] or images.shape[1] < unit[0] or images.shape[2] < unit[1]:
        raise UserError(f"images of {images.shape[1:]} hold no patch of {unit}")
    return np.asarray(jax.vmap(lambda image: unfold(image, unit))(jnp.asarray(images, jnp.float32)))


def cross_moment(one: Patches, other: Float[np.ndarray, "n patches e"]) -> Float[np.ndarray, "d e"]:
    """Mean of one other^T over all patches, in float64."""
    total, size = np.zeros((one.shape[2], other.shape[2])), _AT_ONCE if len(one) >= _MANY else 1
    for start in range(0, len(one), size):
        left, right = (each[start : start + size].reshape(-1, each.shape[2]) for each in (one, other))
        total += left.T.astype(np.float64) @ right
    return total / (one.shape[0] * one.shape[1])


def second_moment(patches: Patches, mean: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d d"]:
    """Mean of (unit - mean)(unit - mean)^T in float64: float32 sums would drown the smallest eigenvalues of photographs."""
    total = np.zeros((patches.shape[2], patches.shape[2]))
    size = _AT_ONCE if len(patches) >= _MANY else 1
    for start in range(0, len(patches), size):
        centred = (patches[start : start + size] - mean).reshape(-1, patches.shape[2])
        total += centred.T @ centred
    return total / (patches.shape[0] * patches.shape[1])


def prior_of(unit: Unit, mean: Float[np.ndarray, " d"], covariance: Square, ridge: float = 1.0) -> Prior:
    """From a covariance. ridge: variance added in every direction, in units of that of rounding to 8 bits; above 0."""
    values, vectors = np.linalg.eigh(covariance)
    scales = np.sqrt(np.maximum(values, 0) + ridge * ROUNDING)[..., None, :]
    return Prior(unit, mean, (vectors * scales) @ adjoint(vectors), (vectors / scales) @ adjoint(vectors))


def patch_prior(public: Images, unit: Unit, ridge: float = 1.0) -> Prior:
    """Of patches."""
    patches = cut(public, unit)
    mean = patches.mean((0, 1), dtype=np.float64)
    return prior_of(unit, mean, second_moment(patches, mean), ridge)


def frequency_prior(public: Images, strides: tuple[int, int], ridge: float = 1.0) -> Prior:
    """Of the cells' Fourier transform, images being stationary: averaged over all shifts within a cell, so that few images do.

    Raises UserError unless the strides divide the images.
    """
    if public.shape[1] % strides[0] or public.shape[2] % strides[1]:
        raise UserError(f"images of {public.shape[1]} x {public.shape[2]} are not whole cells of {strides}")
    mean = np.tile(public.mean((0, 1, 2), dtype=np.float64), strides[0] * strides[1])
    unit = cell(strides, public.shape[1:])
    return prior_of(unit, mean, cross_spectrum(public, unit, mean), ridge)


def cross_spectrum(images: Images, unit: Unit, mean: Float[np.ndarray, " d"]) -> Square:
    """Covariance of the cells' unitary Fourier transform at each frequency, complex128."""
    centred = jnp.asarray(images - mean[: unit[2]], jnp.float32)
    return np.asarray(_cross_spectrum(centred, unit[:2]), np.complex128)


def steps(images: Images, unit: Unit) -> Patches:
    """Differences of patches side by side and one above the other, divided by sqrt 2: the same fresh noise as a patch, and far less
    of the image, so that a subspace shows with fewer releases. UserError for images of a single patch."""
    rows, columns = images.shape[1] // unit[0], images.shape[2] // unit[1]
    patches = cut(images, unit).reshape(len(images), rows, columns, -1)
    if rows * columns == 1:
        raise UserError(f"images of {images.shape[1:]} are one patch of {unit}; the attack compares neighbours")
    pairs = (patches[:, 1:] - patches[:, :-1], patches[:, :, 1:] - patches[:, :, :-1])
    return np.concatenate([pair.reshape(len(images), -1, patches.shape[3]) for pair in pairs], 1) * np.float32(0.5**0.5)


@functools.partial(jax.jit, static_argnames="strides")
def _cross_spectrum(images, strides: tuple[int, int]):
    shape, unit = grid(images.shape[1:], strides), cell(strides, images.shape[1:])

    def one(image):
        shifts = [jnp.roll(image, (row, column), (0, 1)) for row in range(strides[0]) for column in range(strides[1])]
        cells = jnp.stack([unfold(shifted, unit).reshape(*shape, -1) for shifted in shifts])
        waves = jnp.fft.rfft2(cells, axes=(1, 2), norm="ortho")
        return jnp.einsum("sijp,sijq->ijpq", waves, jnp.conj(waves), precision=HIGHEST) / len(shifts)

    total, _ = jax.lax.scan(lambda total, image: (total + one(image), None), one(images[0]), images[1:])
    return total / images.shape[0]


def space_prior(public: Images, space: Subspace, ridge: float = 1.0) -> Prior:
    """Of the units that the subspace is made of."""
    if isinstance(space, PatchSubspace):
        return patch_prior(public, space.window, ridge)
    assert isinstance(space, FourierSubspace)
    if public.shape[1:] != space.image_shape:
        raise UserError(f"public images of {public.shape[1:]} do not fit a subspace of images {space.image_shape}")
    return frequency_prior(public, space.strides, ridge)


def low_vectors(space: Subspace) -> Columns:
    """V_N in columns, float64; of frequencies with columns of zeros, since its size differs from one to the next."""
    if isinstance(space, PatchSubspace):
        return np.asarray(space.basis, np.float64)
    assert isinstance(space, FourierSubspace)
    values, vectors = np.linalg.eigh(np.asarray(space.projectors, np.complex128))
    return vectors * (values > 0.5)[..., None, :]


def taken(prior: Prior, low: Columns, amplitude: float = np.inf) -> Square:
    """U diag(w) U^T of the module's text. amplitude: s, rms of the noise in each direction of `low`, pixel units."""
    left, sigma, _ = np.linalg.svd(prior.inverse @ low, full_matrices=False)
    least = 1e-9 * sigma.max(initial=0.0)  # below it a column is one of zeros
    ratio = 1 / np.maximum(sigma, least + 1e-30)
    weights = (sigma > least) / (1 + (ratio / amplitude) ** 2)
    return (left * weights[..., None, :]) @ adjoint(left)


def inpainting(prior: Prior, low: Columns, amplitude: float = np.inf) -> Square:
    """The change that is the best linear estimate under noise of that amplitude in `low`; of any amplitude if infinite."""
    return -prior.root @ taken(prior, low, amplitude) @ prior.inverse


def removal(low: Columns) -> Square:
    """The change that puts the mean into the place of the part in `low`, orthonormal columns."""
    return -low @ adjoint(low)


def changed(images: Images, prior: Prior, change: Square) -> Images:
    """Every unit, or every frequency of them, with change (unit - mean) added, float32; pixels of no unit stay."""
    kind = np.complex64 if np.iscomplexobj(change) else np.float32
    return np.asarray(_changed(jnp.asarray(images), prior.mean.astype(np.float32), change.astype(kind), prior.unit))


@functools.partial(jax.jit, static_argnames="unit")
def _changed(images: Float[Array, "n height width channels"], mean, change, unit: Unit):
    def one(image):
        parts = unfold(image, unit) - mean
        if change.ndim == 2:
            return image + fold(jnp.matmul(parts, change.T, precision=HIGHEST), unit, image.shape)
        return image + filter_cells(fold(parts, unit, image.shape), change, unit[:2])

    return jax.lax.map(one, images)


def descending(symmetric: Float[np.ndarray, "d d"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Eigenvalues, largest first, and eigenvectors in columns."""
    values, vectors = np.linalg.eigh(symmetric)
    return values[::-1], vectors[:, ::-1]


def leading(values: Float[np.ndarray, " d"], directions: Directions, floor: float, contrast: float = 2.0) -> int:
    """How many of the descending eigenvalues are noise.

    directions: their share of all, in [0, 1], or "knee": those before the largest step in ratio, eigenvalues below `floor`
    counting as `floor`; none where that step is smaller than `contrast`, as for noise in no subspace.
    """
    if directions != "knee":
        return round(float(directions) * len(values))
    raised = np.maximum(values, floor)
    ratios = raised[:-1] / raised[1:]
    return int(np.argmax(ratios)) + 1 if ratios.max() >= contrast else 0
