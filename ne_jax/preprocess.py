"""From an image of any size to the pixels that a model takes: resize, then centre crop, as PIL does it."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "box": Image.Resampling.BOX}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as PIL's convert("L")


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What a model wants done to an image before its first layer.

    size: side of the square that the model takes, pixels.
    mean, std: one number a channel, in pixel units ([0, 1]); the model sees (x - mean) / std.
    resize: "squash" resizes to size x size; "shorter" resizes the shorter side to `resize_to` and crops the centre.
    resize_to: length of the shorter side before the crop, pixels, at least `size`; `size` when None.
    interpolation: "bilinear", "bicubic" or "box".
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Literal["squash", "shorter"] = "squash"
    resize_to: int | None = None
    interpolation: Literal["bilinear", "bicubic", "box"] = "bilinear"

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return len(self.mean)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the model's input."""
        return (self.size, self.size, self.channels)


def to_pixels(image: Image.Image, spec: Preprocess) -> UInt8[np.ndarray, "height width channels"]:
    """Resize and crop `image` to the pixels of `spec`: uint8, shape `spec.image_shape`."""
    if image.mode.startswith("I;16"):  # convert() would clip every value above 255
        image = Image.fromarray(np.round(np.asarray(image, np.float32) / 257).astype(np.uint8))
    fitted = _fit(image.convert("L" if spec.channels == 1 else "RGB"), spec)
    return np.asarray(fitted, np.uint8).reshape(spec.image_shape)


def _fit(image: Image.Image, spec: Preprocess) -> Image.Image:
    resample = _FILTERS[spec.interpolation]
    if spec.resize == "squash":
        return image.resize((spec.size, spec.size), resample)
    scale = (spec.resize_to or spec.size) / min(image.size)
    sides = [max(spec.size, round(side * scale)) for side in image.size]
    left, top = ((side - spec.size) // 2 for side in sides)
    return image.resize(sides, resample).crop((left, top, left + spec.size, top + spec.size))


def adapt(
    images: Float32[np.ndarray, "n height width channels"], spec: Preprocess
) -> Float32[np.ndarray, "n size size spec_channels"]:
    """Stored images, float32 in pixel units, as another model wants them; unchanged where they already have its shape.

    The model's own resize and crop, in floating point, so that a float NE keeps what lies outside [0, 1].
    """
    if images.shape[1:] == spec.image_shape:
        return images
    if images.shape[-1] != spec.channels:
        images = images @ _LUMA[:, None] if spec.channels == 1 else np.repeat(images, 3, axis=-1)
    channels = np.moveaxis(images, -1, 1)
    fitted = [[np.asarray(_fit(Image.fromarray(plane), spec)) for plane in image] for image in channels]
    return np.moveaxis(np.asarray(fitted, np.float32), 1, -1)
