"""What happens to pictures on their way keeps their form and takes details away."""

from __future__ import annotations

import numpy as np

from ne_jax.measure.preparations import PREPARATIONS, prepared
from tests.photos import photographs


def test_image_processing_takes_small_details_away():
    """JPEG, resize and blur of photographs: the pictures stay the same size, and blurs lose differences between neighbours."""
    pixels = np.stack([np.asarray(photo.resize((64, 64))) for photo in photographs()[:4]])
    detail = {}
    for name in PREPARATIONS:
        made = prepared(pixels, name)
        assert made.shape == pixels.shape and made.dtype == np.uint8
        assert (name == "clean") == np.array_equal(made, pixels)
        assert np.abs(made.astype(int) - pixels).mean() <= 20
        detail[name] = np.square(np.diff(made.astype(float), axis=2)).mean()
    assert detail["Gaussian blur, 1 pixel"] < 0.7 * detail["clean"]
    assert detail["half the size and back"] < 0.9 * detail["clean"]
