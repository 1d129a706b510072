"""INSECURE, for comparison only: `paper` mode, what the official code of the method does, so that the paper's tables can be compared
like with like. Never release what it makes.

Why it is insecure: every window of an image gets the same noise (the tile), so subtracting the mean patch leaves the image up to one
constant patch, without any knowledge; and where windows overlap, the unfolded tensor shows a pixel many times, so that picking
one copy of each leaves the image up to s^2 C constants. `recode` has neither fault.

Written from a description of that code in words (EVIDENCE.md, 1.1), with no line of it. All steps are on normalised values
u = (x - mean) / std, for each image alone, with B an orthonormal basis of the k low-sensitivity directions of d:

    noise of every window = s B z2,   s^2 = (255^2 / 10^(psnr_db / 10)) / mean((u_windows + B z1)^2)

z1 and z2 are two independent standard normal draws of k numbers (the scale is that of another draw than the noise), the mean is
over all numbers of all windows, their zero padding included. For a window of power 1 the noise has rms
255 * 10^(-psnr_db / 20) * sqrt((k / d) / (1 + k / d)) times std, give or take 1 / sqrt(2 k) of it: `psnr_db` is no PSNR, and 30 is
140 (k / d = .1) to 280 (k / d = .56) grey levels under ImageNet's std.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from ne_jax.core.first_layer import HIGHEST, FirstLayer, pads
from ne_jax.core.pixels import Image, check_pixels, poisoned
from ne_jax.errors import UserError
from ne_jax.recoding.design import Context, Design, Recipe, Recoded

MARK = "INSECURE: paper mode, for comparison only; subtracting the mean patch removes its noise, unfolded windows show the image"


class Tile(NamedTuple):
    """What `paper_recode` needs of a model. basis: from `low_directions`."""

    layer: FirstLayer
    basis: Float[Array, "d k"]

    @property
    def num_directions(self) -> int:
        """k, of `total_directions`."""
        return self.basis.shape[1]

    @property
    def total_directions(self) -> int:
        """d, the numbers of a window."""
        return self.basis.shape[0]


def low_directions(layer: FirstLayer, tau: float) -> Float[Array, "d k"]:
    """B, of the singular vectors of the kernel for *normalised* inputs; a window is flattened as (row, column, channel).

    tau: singular values above tau * sigma_1 are kept, tau in [0, 1). Without effect where d exceeds the outputs m: then exactly
        the d - m directions that the layer has no output for are taken (83 of them for ResNet-50's 7 x 7 x 3 = 147 > 64).
    An SVD on the host, once for a layer. Raises UserError for tau out of range and where it leaves no direction.
    """
    if not 0 <= tau < 1:
        raise UserError(f"tau {tau} is not in [0, 1)")
    matrix = np.asarray(layer.kernel, np.float64).reshape(-1, layer.kernel.shape[-1])
    dimension, outputs = matrix.shape
    vectors, sigma, _ = np.linalg.svd(matrix, full_matrices=dimension > outputs)
    rank = outputs if dimension > outputs else int(np.sum(sigma > tau * sigma[0]))
    if rank == dimension:
        raise UserError(
            f"tau {tau:g} leaves no low-sensitivity direction; the smallest sigma / sigma_1 is {sigma[-1] / sigma[0]:.3g}"
        )
    return jnp.asarray(vectors[:, rank:], jnp.float32)


def draws(key: PRNGKeyArray, directions: int) -> Float[Array, "2 k"]:
    """z1, which only sets the scale, and z2, which is added: standard normal coordinates in `directions` directions."""
    return jax.random.normal(key, (2, directions))


def paper_recode(
    key: PRNGKeyArray,
    image: Shaped[Array | np.ndarray, "height width channels"],
    layer: FirstLayer,
    basis: Float[Array, "d k"],
    psnr_db: float | Float[Array, ""],
) -> Float[Array, "height width channels"]:
    """INSECURE. What readers get: the noisy windows folded back, float32 in pixel units, leaving [0, 1]. vmap over keys and images.

    For patches this is the image plus its tile. Where windows overlap the image's own values are summed as well, see
    `fold_without_counts`: part of a reader's failure is that, not the noise.
    image: uint8, or float in [0, 1]; its channels are the layer's. basis: from `low_directions`.
    psnr_db: the official code's knob, see the module; not a PSNR. Infinite for no noise. May be traced.
    Raises UserError for pixels outside [0, 1] and for channels other than the layer's.
    """
    return _paper(key, poisoned(_checked(image, layer), psnr_db), layer, basis, psnr_db)


def _paper(key: PRNGKeyArray, image: Image, layer: FirstLayer, basis, psnr_db) -> Image:
    whole = all(side % kernel == 0 for side, kernel in zip(image.shape, layer.window[:2], strict=False))
    if whole and layer.tiles(image.shape):
        return _tiled(draws(key, basis.shape[1]), image, layer, basis, psnr_db)
    unfolded = _unfolded(draws(key, basis.shape[1]), image, layer, basis, psnr_db)
    return fold_without_counts(unfolded, layer, image.shape)


def paper_unfolded(
    key: PRNGKeyArray,
    image: Shaped[Array | np.ndarray, "height width channels"],
    layer: FirstLayer,
    basis: Float[Array, "d k"],
    psnr_db: float | Float[Array, ""],
) -> Float[Array, "rows columns channels"]:
    """INSECURE. What the authorized model gets where windows overlap: the noisy windows side by side, (H_out kh, W_out kw, C),
    float32 in pixel units, for `unfolded_layer`; padding, zero when normalised, is `mean` here. Arguments and errors as for
    `paper_recode`, which has the same noise under the same key.
    """
    image = poisoned(_checked(image, layer), psnr_db)
    return _unfolded(draws(key, basis.shape[1]), image, layer, basis, psnr_db)


def _checked(image, layer: FirstLayer) -> Float[Array, "height width channels"]:
    image = check_pixels(image)
    if image.shape[2] != layer.window[2]:
        raise UserError(f"image has {image.shape[2]} channels; the first layer takes {layer.window[2]}")
    return image


@jax.jit
def _tiled(draws, image, layer: FirstLayer, basis, psnr_db) -> Float[Array, "height width channels"]:
    """`_unfolded` where it is an image of whole patches, in two passes over it: rows of patches, their numbers side by side."""
    kh, kw, channels = layer.window
    patches = image.reshape(image.shape[0] // kh, kh, image.shape[1] // kw, kw * channels)
    mean, std = jnp.tile(layer.mean, kw), jnp.tile(layer.std, kw)
    first, second = jnp.matmul(draws, basis.T, precision=HIGHEST).reshape(2, kh, 1, kw * channels)
    power = jnp.mean(((patches - mean) * (1 / std) + first) ** 2)
    scale = jnp.sqrt(255**2 * 10 ** (-jnp.asarray(psnr_db, jnp.float32) / 10) / power)
    return (patches + scale * std * second).reshape(image.shape)


@jax.jit
def _unfolded(draws, image, layer: FirstLayer, basis, psnr_db) -> Float[Array, "rows columns channels"]:
    windows = _cut((image - layer.mean) / layer.std, layer)
    rows, columns = (side // kernel for side, kernel in zip(windows.shape, layer.window[:2], strict=False))
    tiles = jnp.matmul(draws, basis.T, precision=HIGHEST).reshape(2, 1, *layer.window)
    first, second = jnp.tile(tiles, (1, 1, rows, columns, 1))[:, 0]
    target = 255**2 * 10 ** (-jnp.asarray(psnr_db, jnp.float32) / 10)
    noisy = windows + jnp.sqrt(target / jnp.mean((windows + first) ** 2)) * second
    return noisy * layer.std + layer.mean


@functools.partial(jax.jit, static_argnames=("image_shape",))
def fold_without_counts(
    unfolded: Float[Array, "rows columns channels"], layer: FirstLayer, image_shape: tuple[int, int, int]
) -> Float[Array, "height width channels"]:
    """INSECURE. The windows of `paper_unfolded` added up, in pixel units, *not* divided by how many see a pixel: in normalised
    values the image is multiplied by 1 for patches, by 9 to 16 (mean 12.25) inside and 4 or more at the border for 7x7/2. Pixels
    that no window sees become `mean`.
    """
    add_up = jax.linear_transpose(lambda image: _cut(image, layer), jax.ShapeDtypeStruct(image_shape, jnp.float32))
    return add_up((unfolded - layer.mean) / layer.std)[0] * layer.std + layer.mean


def unfolded_layer(layer: FirstLayer) -> FirstLayer:
    """The first layer that reads an unfolded tensor: the same kernel, moved by its own size, nothing padded."""
    return FirstLayer(layer.kernel, layer.window[:2], "VALID", layer.mean, layer.std)


def _cut(image: Float[Array, "height width channels"], layer: FirstLayer) -> Float[Array, "rows columns channels"]:
    """The layer's windows of a zero-padded image, side by side."""
    padded = jnp.pad(image, (*pads(layer, image.shape), (0, 0)))
    places = [
        (stride * np.arange((side - kernel) // stride + 1)[:, None] + np.arange(kernel)).ravel()
        for side, kernel, stride in zip(padded.shape, layer.window, layer.strides, strict=False)
    ]
    if layer.has_patches:  # every place once and in order: a gather would take several times as long
        return padded[: len(places[0]), : len(places[1])]
    return padded[places[0]][:, places[1]]


def _recode(key: PRNGKeyArray, image: Image, recipe: Recipe) -> Recoded:
    return Recoded(_paper(key, image, *recipe.directions, recipe.psnr_db))


def _tile(context: Context) -> Tile:
    layer = context.layers[0]
    return Tile(layer, low_directions(layer, context.threshold))


PAPER = Design(
    "paper",
    "the paper's code, for comparison",
    recode=_recode,
    settings=(),
    directions=_tile,
    subspace=_tile,
    inside=False,
    leaves_box=True,
    warning=MARK,
)
