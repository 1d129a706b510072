"""The singular values and right singular vectors of a first layer."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ne_jax.core.first_layer import FirstLayer
from ne_jax.core.polyphase import PolyphaseSpectrum, polyphase_spectrum
from ne_jax.core.unfold import grid
from ne_jax.errors import UserError


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["singular_values", "vectors"], meta_fields=["window", "image_shape"]
)
@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Singular value decomposition of a first layer whose windows are patches.

    singular_values: sigma_1 >= ... >= sigma_d, change of output per change of pixels; zero beyond min(M, d).
    vectors: V, orthonormal, column i belongs to sigma_i; a patch is flattened as (row, column, channel).
    window: (kh, kw, C); image_shape: (H, W, C), both static.
    """

    singular_values: Float[Array, " d"]
    vectors: Float[Array, "d d"]
    window: tuple[int, int, int]
    image_shape: tuple[int, int, int]

    @property
    def num_patches(self) -> int:
        """Whole patches of an image."""
        rows, columns = grid(self.image_shape, self.window)
        return rows * columns


@jax.jit
def _decompose(matrix: Float[Array, "outputs d"]) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    # An SVD of the matrix itself: an eigendecomposition of its Gram matrix would square the rounding error.
    _, values, right = jnp.linalg.svd(matrix, full_matrices=True)
    return jnp.pad(values, (0, right.shape[0] - values.shape[0])), right.T


def spectrum(layer: FirstLayer, image_shape: tuple[int, int, int]) -> Spectrum | PolyphaseSpectrum:
    """Spectrum of `layer` on images of `image_shape` (H, W, C). Where windows are patches the map of an image is one block for
    each patch, all equal, so that every singular value of the image's map is one of the patch's. Where they overlap a
    subspace of windows is not one of images: the blocks are those of the Fourier transform, of images that wrap around.

    Raises UserError when the shapes do not fit, patches do not tile the image, or windows have gaps between them.
    """
    height, width, channels = image_shape
    if channels != layer.window[2]:
        raise UserError(f"image_shape {image_shape} has {channels} channels; the first layer takes {layer.window[2]}")
    if not layer.has_patches:
        return polyphase_spectrum(layer, (height, width, channels))
    if height < layer.window[0] or width < layer.window[1]:
        raise UserError(f"image_shape {image_shape} is smaller than one patch {layer.window[:2]}")
    if not layer.tiles(image_shape):
        raise UserError(
            f"patches with padding {layer.padding} do not tile an image of {height} x {width}; crop it to whole patches"
        )
    values, vectors = _decompose(layer.matrix)
    return Spectrum(values, vectors, layer.window, (height, width, channels))
