"""Pictures of noise, and rules of preprocessing that are nobody's."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ne_jax.data.preprocess import Preprocess

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "box": Image.Resampling.BOX}


def spec(size=16, channels=3, **choices) -> Preprocess:
    return Preprocess(size, channels * (0.5,), channels * (0.25,), **choices)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)
