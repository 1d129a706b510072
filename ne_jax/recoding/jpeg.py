"""What JPEG does to an image, with a gradient: the round trip through libjpeg, without the file."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from ne_jax.core.first_layer import HIGHEST
from ne_jax.core.pixels import UNIT
from ne_jax.core.unfold import fold, unfold
from ne_jax.errors import UserError

Plane = Float32[Array, "_ _"]

# ITU-T T.81 (1992), Annex K, tables K.1 (luminance) and K.2 (chrominance), row by row.
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMINANCE = np.array(
    [
        [17, 18, 24, 47, 99, 99, 99, 99],
        [18, 21, 26, 66, 99, 99, 99, 99],
        [24, 26, 56, 99, 99, 99, 99, 99],
        [47, 66, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
    ]
)


def _sixteen_bits(matrix: list[list[float]]) -> Float32[np.ndarray, "3 3"]:
    return np.float32(np.round(np.array(matrix) * 65536) / 65536)


# JFIF's colours in libjpeg's fixed point: float32 adds products of such numbers and levels without error, in any order,
# so that jit rounds as NumPy does.
TO_YCC = _sixteen_bits([[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]])
TO_RGB = _sixteen_bits([[1, 0, 1.402], [1, -0.344136286, -0.714136286], [1, 1.772, 0]])
CENTRE = np.float32([0, 128, 128])
# libjpeg rounds halves of Y up and of Cb and Cr down, so that pure blue stays below 256.
HALVES = np.float32([0.5, 0.5 - 2**-16, 0.5 - 2**-16])


# The DCT of eight numbers times the square root of 8, a row for each frequency, as libjpeg's jfdctint.c has it: in
# multiples of 1 / 8192, off by one here and there. The right half mirrors the left, with the other sign in odd rows.
_HALF = np.array(
    [
        [8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260],
        [10703, 4433, -4433, -10703],
        [9633, -2259, -11362, -6436],
        [8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633],
        [4433, -10704, 10704, -4433],
        [2260, -6436, 9633, -11363],
    ]
)
COSINES = np.float32(np.hstack([_HALF, _HALF[:, ::-1] * (-1) ** np.arange(8)[:, None]]) / 8192)


def quantisation(quality: int) -> tuple[Int[np.ndarray, "8 8"], Int[np.ndarray, "8 8"]]:
    """The tables of luminance and chrominance at libjpeg's `quality`, 1 to 100; UserError outside."""
    if quality not in range(1, 101):
        raise UserError(f"JPEG quality {quality} is not a whole number from 1 to 100")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    luminance, chrominance = (np.clip((table * percent + 50) // 100, 1, 255) for table in (LUMINANCE, CHROMINANCE))
    return luminance, chrominance


def jpeg(
    image: Float[Array, "height width channels"],
    quality: int = 75,
    *,
    subsampling: str = "4:2:0",
    gradient: Literal["straight", "soft"] = "straight",
) -> Float32[Array, "height width channels"]:
    """The image as it comes back from a JPEG file that libjpeg wrote and read, in pixel units, grey or RGB.

    quality: 1 to 100, by libjpeg's rule; subsampling: of the chroma, "4:2:0" or "4:4:4". Static under jit, as is gradient.

    gradient "straight": every rounding and clipping is straight-through, so the gradient is that of the steps between them: for grey
    and for 4:4:4 the identity, for 4:2:0 the loss of chroma resolution; it does not know what the quantisation takes away. "soft":
    the quantisation has the gradient of x - sin(2 pi x) / (2 pi), which touches the steps (Korus and Memon 2019, arXiv 1902.10707,
    use such sinusoids): none in the middle of a step, twice as much at its ends.
    Values: in float32, on the 256 levels. libjpeg's own roundings are followed, those of its default (integer) DCT
    included; about one number in 5,000 is a level or two off Pillow's, where float32 is too coarse to tell a half.
    Raises UserError for another quality, subsampling or number of channels.
    """
    luminance, chrominance = quantisation(quality)
    if subsampling not in ("4:2:0", "4:4:4"):
        raise UserError(f'JPEG subsampling "{subsampling}" is unknown; choose 4:2:0 or 4:4:4')
    if image.shape[2] not in (1, 3):
        raise UserError(f"a JPEG image has 1 channel (grey) or 3 (RGB), not {image.shape[2]}")
    levels = _level(image.astype(jnp.float32) * 255)
    if image.shape[2] == 1:
        return _coded(levels[..., 0], luminance, gradient)[..., None] * UNIT
    colours = _level(jnp.matmul(levels, TO_YCC.T, precision=HIGHEST) + CENTRE, HALVES)
    planes = [_coded(colours[..., 0], luminance, gradient)]
    for chroma in (colours[..., 1], colours[..., 2]):
        if subsampling == "4:4:4":
            planes.append(_coded(chroma, chrominance, gradient))
        else:
            planes.append(_doubled(_coded(_halved(chroma), chrominance, gradient), image.shape[:2]))
    decoded = jnp.stack(planes, axis=-1) - CENTRE
    return _level(jnp.matmul(decoded, TO_RGB.T, precision=HIGHEST)) * UNIT


def _through(values: Float32[Array, "..."], rounded: Float32[Array, "..."]) -> Float32[Array, "..."]:
    """`rounded`, with the gradient of `values`."""
    return values + jax.lax.stop_gradient(rounded - values)


def _level(
    values: Float32[Array, "..."], half: float | Float32[Array | np.ndarray, "..."] = 0.5
) -> Float32[Array, "..."]:
    """The nearest of 0 to 255; `half` is what rounds up."""
    return _through(values, jnp.clip(jnp.floor(values + half), 0, 255))


def _nearest(values: Float32[Array, "..."], parts: int = 1) -> Float32[Array, "..."]:
    """The nearest multiple of 1 / `parts`, halves up."""
    return _through(values, jnp.floor(values * parts + 0.5) / parts)


def _padded(plane: Plane, height: int, width: int) -> Plane:
    """The last row and column repeated until the sizes are multiples of these."""
    return jnp.pad(plane, ((0, -plane.shape[0] % height), (0, -plane.shape[1] % width)), mode="edge")


def _coded(plane: Plane, table: Int[np.ndarray, "8 8"], gradient: str) -> Plane:
    """Levels through DCT, quantisation and back. Blocks that only fill up an MCU touch no pixel and are left out."""
    whole, steps = _padded(plane, 8, 8), np.float32(table)
    blocks = unfold(whole[..., None] - 128, (8, 8, 1)).reshape(-1, 8, 8)
    # libjpeg's DCT keeps 2 bits between its passes and 3 after them: without that, many coefficients near a half go the
    # other way.
    rows = _nearest(jnp.matmul(blocks, COSINES.T, precision=HIGHEST), 4)
    scaled = _nearest(jnp.matmul(COSINES, rows, precision=HIGHEST)) / (8 * steps)
    # Halves away from zero, as libjpeg. Other values are 1 / 2040 or more from a half, XLA's division by a constant is
    # not exact.
    slope = scaled if gradient == "straight" else scaled - jnp.sin(2 * jnp.pi * scaled) / (2 * jnp.pi)
    counts = _through(slope, jnp.sign(scaled) * jnp.floor(jnp.abs(scaled) + 0.5001))
    columns = _nearest(jnp.matmul(COSINES.T, counts * steps, precision=HIGHEST), 4)
    values = jnp.matmul(columns, COSINES, precision=HIGHEST).reshape(-1, 64) / 8
    decoded = _level(fold(values, (8, 8, 1), (*whole.shape, 1))[..., 0] + 128)
    return decoded[: plane.shape[0], : plane.shape[1]]


def _halved(plane: Plane) -> Plane:
    """Means of 2 x 2 levels, as levels; halves go down in even columns and up in odd ones, as libjpeg's."""
    # libjpeg fills up blocks on the right before it takes means, and below after it (in `_coded`).
    whole = _padded(plane, 2, 16)
    means = whole.reshape(whole.shape[0] // 2, 2, whole.shape[1] // 2, 2).mean(axis=(1, 3))
    half = np.where(np.arange(means.shape[1]) % 2, np.float32(0.5), np.float32(0.25))
    return _level(means, half)


def _doubled(plane: Plane, shape: tuple[int, int]) -> Plane:
    """libjpeg's "fancy" upsampling of a halved plane to `shape`: linear between centres, the border repeated."""
    plane = plane[:, : (shape[1] + 1) // 2]
    if plane.shape[1] <= 2:  # too narrow for libjpeg's fancy loop
        large, half = jnp.repeat(jnp.repeat(plane, 2, axis=0), 2, axis=1), 0.5
    else:
        large = _rows_doubled(_rows_doubled(plane).T).T
        half = np.where(np.arange(large.shape[1]) % 2, np.float32(7 / 16), np.float32(0.5))
    return _level(large, half)[: shape[0], : shape[1]]


def _rows_doubled(plane: Plane) -> Plane:
    """Two rows for each: a quarter of the way to the row above, and to the row below."""
    above, below = jnp.concatenate([plane[:1], plane[:-1]]), jnp.concatenate([plane[1:], plane[-1:]])
    return jnp.stack([0.75 * plane + 0.25 * above, 0.75 * plane + 0.25 * below], axis=1).reshape(-1, plane.shape[1])
