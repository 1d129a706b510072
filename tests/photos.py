"""Twenty photographs of odd sizes, from files that the wheels of scikit-image and scikit-learn bring: nothing is downloaded."""

from __future__ import annotations

import functools
import importlib.util
import pathlib

from PIL import Image

# File -> width, height that it is scaled to: wide, tall, square, one pixel off a model's size, smaller than it, itself (None).
_SKIMAGE = {
    "astronaut.png": (333, 517),
    "brick.png": (225, 224),
    "camera.png": (224, 400),
    "cell.png": (231, 457),
    "chelsea.png": None,
    "clock_motion.png": (256, 257),
    "coffee.png": None,
    "coins.png": (199, 301),
    "color.png": None,
    "grass.png": (301, 199),
    "gravel.png": (97, 64),
    "hubble_deep_field.jpg": (1000, 331),
    "ihc.png": (385, 384),
    "moon.png": (223, 225),
    "motorcycle_left.png": None,
    "page.png": None,
    "retina.jpg": (340, 341),
    "rocket.jpg": (427, 640),
}
_SKLEARN = {"china.jpg": None, "flower.jpg": (500, 375)}


def _folder(package: str, *parts: str) -> pathlib.Path:
    return pathlib.Path(importlib.util.find_spec(package).origin).parent.joinpath(*parts)


@functools.cache
def photographs() -> tuple[Image.Image, ...]:
    """Twenty RGB photographs."""
    groups = ((_folder("skimage", "data"), _SKIMAGE), (_folder("sklearn", "datasets", "images"), _SKLEARN))
    photos = []
    for folder, sizes in groups:
        for name, size in sizes.items():
            with Image.open(folder / name) as image:
                photo = image.convert("RGB")
            photos.append(photo.resize(size, Image.Resampling.LANCZOS) if size else photo)
    return tuple(photos)
