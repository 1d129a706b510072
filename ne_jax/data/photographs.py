"""Real photographs that scikit-image and scikit-learn carry, in random square crops that are the same for everyone."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from ne_jax.data import package_files

PHOTOS = (
    "skimage/data/astronaut.png", "skimage/data/camera.png", "skimage/data/chelsea.png", "skimage/data/coffee.png",
    "skimage/data/hubble_deep_field.jpg", "skimage/data/ihc.png", "skimage/data/moon.png", "skimage/data/motorcycle_left.png",
    "skimage/data/retina.jpg", "skimage/data/rocket.jpg", "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
)  # fmt: skip
CROPS = 20  # of each photograph
_SHORTEST = 224  # side of a crop, pixels; the longest is the photograph's own
_SEED = 0


@functools.cache
def _photo(place: str) -> Image.Image:
    with Image.open(package_files.find(place)) as image:
        return image.convert("RGB")


def names() -> list[str]:
    """Crops, the first of every photograph before the second of any: "astronaut/00", ..."""
    stems = [place.rsplit("/", 1)[-1].split(".")[0] for place in PHOTOS]
    return [f"{stem}/{crop:02d}" for crop in range(CROPS) for stem in stems]


def read(index: int) -> Image.Image:
    """The crop of that number: a square, side and place drawn uniformly. Raises UserError without the packages."""
    photo = _photo(PHOTOS[index % len(PHOTOS)])
    generator = np.random.default_rng((_SEED, index))
    side = int(generator.integers(_SHORTEST, min(photo.size), endpoint=True))
    left, top = (int(generator.integers(0, length - side, endpoint=True)) for length in photo.size)
    return photo.crop((left, top, left + side, top + side))
