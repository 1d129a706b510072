"""What happens to pictures on their way, by Pillow: JPEG, resize and blur."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from ne_jax.core.pixels import ByteImages


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
