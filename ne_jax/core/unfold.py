"""Cutting an image into the patches of a first layer and back."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def grid(image_shape: tuple[int, ...], window: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of whole patches; pixels right of or below them belong to no patch."""
    return image_shape[0] // window[0], image_shape[1] // window[1]


def unfold(image: Float[Array, "height width channels"], window: tuple[int, int, int]) -> Float[Array, "patches d"]:
    """Patches in row-major order, each flattened as (row, column, channel)."""
    (rows, columns), (kh, kw, channels) = grid(image.shape, window), window
    whole = image[: rows * kh, : columns * kw].reshape(rows, kh, columns, kw, channels)
    return whole.transpose(0, 2, 1, 3, 4).reshape(rows * columns, kh * kw * channels)


def fold(
    patches: Float[Array, "patches d"], window: tuple[int, int, int], image_shape: tuple[int, int, int]
) -> Float[Array, "height width channels"]:
    """The inverse of `unfold`; pixels of no patch are zero."""
    (rows, columns), (kh, kw, channels) = grid(image_shape, window), window
    whole = patches.reshape(rows, columns, kh, kw, channels).transpose(0, 2, 1, 3, 4)
    whole = whole.reshape(rows * kh, columns * kw, channels)
    margins = (image_shape[0] - rows * kh, image_shape[1] - columns * kw)
    return jnp.pad(whole, ((0, margins[0]), (0, margins[1]), (0, 0))) if any(margins) else whole
