"""A part of a resized picture, made without the rest of it."""

from __future__ import annotations

import math

from PIL import Image

_REACH = 4  # pixels, more than any of PIL's filters looks to either side


def part(
    image: Image.Image, sides: tuple[int, int], box: tuple[int, int, int, int], resample: Image.Resampling
) -> Image.Image:
    """`image.resize(sides, resample).crop(box)`, at the cost of what is in the box.

    sides: width and height of the whole, pixels. box: left, top, right and bottom in it, inside of it. Equal to one level where the
    filter does not overshoot; where it does, to what is cut off between PIL's two passes, which it may take in another order.
    """
    windows, places = [], []
    for length, side, low, high in zip(image.size, sides, box[:2], box[2:], strict=True):
        scale = length / side
        reach = math.ceil(_REACH * max(scale, 1))
        first, last = max(0, math.floor(low * scale) - reach), min(length, math.ceil(high * scale) + reach)
        windows.append((first, last))
        places.append((low * scale - first, min(high * scale, length) - first))
    (left, right), (top, bottom) = windows
    near = image.crop((left, top, right, bottom))  # PIL keeps places in single precision, so let their numbers be small
    (left, right), (top, bottom) = places
    return near.resize((box[2] - box[0], box[3] - box[1]), resample, box=(left, top, right, bottom))
