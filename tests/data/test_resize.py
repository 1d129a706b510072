"""A part of a resized picture, against PIL's resize of the whole."""

import numpy as np
import pytest
from PIL import Image

from ne_jax.data.resize import part

SMOOTH = (Image.Resampling.BILINEAR, Image.Resampling.HAMMING)
OVERSHOOTING = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
SHARP = (Image.Resampling.NEAREST, Image.Resampling.BOX)
# (size, size of the whole, box)
PARTS = [
    ((1, 400), (16, 6400), (0, 3192, 16, 3208)),
    ((400, 1), (6400, 16), (3192, 0, 3208, 16)),
    ((3, 200), (19, 1266), (1, 625, 17, 641)),
    ((200, 3), (1266, 19), (625, 1, 641, 17)),
    ((2000, 40), (950, 19), (467, 1, 483, 17)),
    ((40, 2000), (19, 950), (1, 467, 17, 483)),
    ((83, 2), (788, 19), (0, 0, 16, 19)),
    ((83, 2), (788, 19), (772, 0, 788, 19)),
    ((60, 50), (30, 20), (7, 2, 23, 18)),
    ((60, 50), (60, 50), (7, 2, 23, 18)),
    ((60, 50), (90, 110), (0, 0, 90, 110)),
]


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))


def difference(image: Image.Image, sides, box, resample) -> np.ndarray:
    found, whole = part(image, sides, box, resample), image.resize(sides, resample).crop(box)
    assert found.size == whole.size
    return np.abs(np.asarray(found).astype(int) - np.asarray(whole))


@pytest.mark.parametrize("resample", [*SMOOTH, *OVERSHOOTING])
@pytest.mark.parametrize(("size", "sides", "box"), PARTS)
def test_a_part_is_where_it_is_in_the_whole(size, sides, box, resample):
    """Made longer or shorter, from the middle or an end: noise agrees to one level, but for what an overshooting filter loses
    between PIL's passes, which may come in another order."""
    levels = difference(noise(size), sides, box, resample)
    assert (levels > 1).mean() <= (0.01 if resample in OVERSHOOTING else 0) and (levels > 0).mean() <= 0.25


@pytest.mark.parametrize("resample", SHARP)
@pytest.mark.parametrize(("size", "sides", "box"), PARTS)
def test_filters_that_choose_may_choose_otherwise_at_a_tie(size, sides, box, resample):
    """A pixel that lies on an edge may fall to either side of it: neighbours of a ramp are a level apart."""
    ramp = np.add.outer(np.arange(size[1]), np.arange(size[0])) * 255 // (sum(size) - 2)
    steps = max(1, *np.diff(ramp, axis=0).ravel().tolist(), *np.diff(ramp, axis=1).ravel().tolist())
    levels = difference(Image.fromarray(ramp.astype(np.uint8)), sides, box, resample)
    assert levels.max() <= steps and (levels > 0).mean() <= 0.1


def test_the_whole_is_never_made():
    """A part of a picture of 10^14 pixels takes no memory worth naming."""
    found = part(
        noise((20, 30)), (10**7, 10**7), (5_000_000, 5_000_000, 5_000_016, 5_000_016), Image.Resampling.BILINEAR
    )
    assert np.ptp(np.asarray(found).reshape(-1, 3), axis=0).max() <= 1  # within one pixel of the original
