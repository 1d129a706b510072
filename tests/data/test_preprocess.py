"""Pictures of any size and mode become what a model takes, as PIL does it, and so do images of a release."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ne_jax.data.preprocess import Preprocess, adapt, to_pixels
from tests.pictures import FILTERS, picture, spec


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", ["squash", "shorter"])
@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (16, 16), (7, 5), (200, 3), (3, 200), (17, 16)])
def test_every_image_gets_the_model_s_size(shape, resize, channels):
    """Wide, tall, small and extreme images become uint8 of the model's shape."""
    pixels = to_pixels(
        picture(*shape), spec(channels=channels, resize=resize, resize_to=18 if resize == "shorter" else None)
    )
    assert pixels.shape == (16, 16, channels) == spec(channels=channels).image_shape
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("interpolation", FILTERS)
def test_squash_is_pil_s_resize(interpolation):
    """`squash` is PIL's resize to the square, byte for byte, with the filter named."""
    image = picture(60, 40)
    expected = np.asarray(image.resize((16, 16), FILTERS[interpolation]))
    assert np.array_equal(to_pixels(image, spec(interpolation=interpolation)), expected)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("shape", "resized", "corner"),
    [
        ((60, 40), (30, 20), (7, 2)),
        ((40, 60), (20, 30), (2, 7)),
        ((50, 33), (30, 20), (7, 2)),
        ((20, 20), (20, 20), (2, 2)),
    ],
)
def test_shorter_is_pil_s_resize_and_the_centre_crop(shape, resized, corner, interpolation):
    """`shorter` keeps the aspect: shorter side to 20, then the middle 16 x 16 (an odd pixel right or below), as PIL does both."""
    image = picture(*shape)
    left, top = corner
    expected = image.resize(resized, FILTERS[interpolation]).crop((left, top, left + 16, top + 16))
    found = to_pixels(image, spec(resize="shorter", resize_to=20, interpolation=interpolation))
    assert np.array_equal(found, np.asarray(expected))


def test_shorter_without_a_margin_crops_the_longer_side_only():
    """Without `resize_to` the shorter side becomes the size itself."""
    image = picture(48, 32)
    expected = image.resize((24, 16), Image.Resampling.BILINEAR).crop((4, 0, 20, 16))
    assert np.array_equal(to_pixels(image, spec(resize="shorter")), np.asarray(expected))


def whole(image: Image.Image, rules: Preprocess) -> np.ndarray:
    """`shorter` to the letter: all of the image is resized, and then cropped."""
    sides = tuple(rules.resize_to * side // min(image.size) for side in image.size)
    cut = (lambda excess: excess // 2) if rules.crop == "floor" else (lambda excess: round(excess / 2))
    left, top = (cut(side - rules.size) for side in sides)
    resized = image.resize(sides, Image.Resampling[rules.interpolation.upper()])
    return np.asarray(resized.crop((left, top, left + rules.size, top + rules.size)))


@pytest.mark.parametrize("crop", ["floor", "round"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"])
def test_ordinary_pictures_are_resized_whole(interpolation, crop):
    """Up to sixteen times as long as wide, a picture is resized as PIL does it, byte for byte, and then cropped."""
    for shape, resize_to in itertools.product(((50, 33), (33, 50), (16, 200), (200, 16), (5, 80), (640, 41)), (16, 18)):
        rules = spec(resize="shorter", resize_to=resize_to, interpolation=interpolation, crop=crop)
        assert max(shape) <= 16 * min(shape)
        assert np.array_equal(to_pixels(picture(*shape), rules), whole(picture(*shape), rules))


@pytest.mark.parametrize("crop", ["floor", "round"])
@pytest.mark.parametrize("shape", [(1, 400), (400, 1), (3, 200), (200, 3), (2, 501), (40, 2000), (2000, 40), (83, 2)])
def test_of_a_very_long_picture_only_the_middle_is_resized(shape, crop):
    """The middle is where it would be in the whole; how close, tests/data/test_resize.py says."""
    for interpolation, share in (("bilinear", 0), ("bicubic", 0.01)):
        rules = spec(resize="shorter", resize_to=19, interpolation=interpolation, crop=crop)
        levels = np.abs(to_pixels(picture(*shape), rules).astype(int) - whole(picture(*shape), rules))
        assert (levels > 1).mean() <= share and (levels > 0).mean() <= 0.25


PEAK = """
import re, sys, time
from ne_jax.data.images import open_image
from ne_jax.data.preprocess import Preprocess, to_pixels


def peak():  # of this process alone: what getrusage says starts with the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])


before, start = peak(), time.perf_counter()
pixels = to_pixels(open_image(sys.argv[1], "x"), Preprocess(224, (0.5,) * 3, (0.5,) * 3, "shorter", 256, "bicubic"))
assert pixels.shape == (224, 224, 3) and pixels.std() > 1
print(peak() - before, time.perf_counter() - start)
"""


@pytest.mark.parametrize("shape", [(1, 65_500), (65_500, 1), (1, 20_000), (65_500, 3)])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_very_long_picture_takes_little(tmp_path, shape, ending):
    """At most 300 MB and a second to read and fit it, in a fresh process: resized whole, it would be 17 million pixels long."""
    picture(*shape).save(tmp_path / f"long.{ending}")
    command = [sys.executable, "-c", PEAK, str(tmp_path / f"long.{ending}")]
    kilobytes, seconds = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert kilobytes <= 300e3 and seconds <= 1


def test_an_image_of_the_right_size_is_kept():
    """Nothing is resampled that has its size already: pixels stay byte for byte."""
    image = picture(16, 16)
    for resize in ("squash", "shorter"):
        assert np.array_equal(to_pixels(image, spec(resize=resize)), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_model_s_channels(mode, channels):
    """Grey, palette, transparent and print images are converted before they are resized, as PIL converts them."""
    image = picture(16, 16, mode)
    expected = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(16, 16, channels)
    assert np.array_equal(to_pixels(image, spec(channels=channels)), expected)


def test_grey_and_colour_have_known_values():
    """Grey becomes three equal channels; colour becomes grey by the luma of ITU-R 601-2, .299 R + .587 G + .114 B."""
    grey = Image.new("L", (16, 16), 77)
    assert (to_pixels(grey, spec()) == 77).all()
    colour = Image.new("RGB", (16, 16), (200, 100, 50))
    assert (to_pixels(colour, spec(channels=1)) == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert (to_pixels(palette, spec()) == (10, 20, 30)).all()


def stored(count=2, height=40, width=40, channels=3) -> np.ndarray:
    """Float images as a release holds them, every pixel a multiple of 1/255."""
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (count, height, width, channels)).astype(np.float32) / np.float32(255)


def test_images_that_fit_another_model_stay_as_they_are():
    """Where the shape is the reader's already, not a bit is changed."""
    images = stored(height=16, width=16)
    assert adapt(images, spec()) is images


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    "choices",
    [
        {"resize": "squash"},
        {"resize": "squash", "resize_to": 21, "crop": "round"},
        {"resize": "shorter", "resize_to": 20},
        {"resize": "shorter", "resize_to": 19, "crop": "round"},
        {"resize": "shorter", "resize_to": 11},
        {"resize": "longer"},
        {"resize": "crop_first", "resize_to": 18},
    ],
)
def test_readers_resize_and_crop_as_they_do_files(choices, interpolation):
    """Each channel is resized and cropped like a file's, but for the two roundings to bytes that only a file gets."""
    # In the middle of the range, where bicubic's overshoot, which PIL cuts off in bytes between its passes, has room.
    images, reader = np.float32(0.25) + stored(height=36) / 2, spec(interpolation=interpolation, **choices)
    images = np.round(images * 255) / np.float32(255)
    files = [to_pixels(Image.fromarray(np.round(image * 255).astype(np.uint8)), reader) for image in images]
    found = adapt(images, reader)
    assert found.shape == (2, 16, 16, 3) and found.dtype == np.float32
    # Half a grey level in each of PIL's two passes, the first weighted by the filter: sum of absolute weights 1, bicubic below
    # 1.5. And .05 for the fixed-point weights.
    assert np.abs(found * 255 - np.stack(files)).max() <= 0.55 + 0.5 * (1.5 if interpolation == "bicubic" else 1)


def test_what_leaves_the_range_stays_out_of_it():
    """A float release may leave [0, 1]: a constant of -2 or 3 is still that after the resize."""
    for value in (-2.0, 3.0):
        found = adapt(np.full((1, 40, 30, 3), value, np.float32), spec())
        np.testing.assert_allclose(found, value, rtol=16 * np.finfo(np.float32).eps)


def test_channels_are_adapted():
    """Grey becomes three equal channels; colour becomes grey by .299 R + .587 G + .114 B, without rounding to bytes."""
    grey, colour = stored(channels=1), stored()
    tripled = adapt(grey, spec())
    assert np.array_equal(tripled[..., 0], adapt(grey, spec(channels=1))[..., 0])
    assert np.array_equal(tripled[..., 0], tripled[..., 1]) and np.array_equal(tripled[..., 1], tripled[..., 2])
    separate = adapt(colour, spec())
    np.testing.assert_allclose(
        adapt(colour, spec(channels=1))[..., 0], separate @ [0.299, 0.587, 0.114], rtol=0, atol=1e-6
    )


def test_crop_first_is_google_s_rule():
    """EfficientNet-Lite: central square of int(size / (size + 32) * shorter side) pixels, the odd pixel left or above, then PIL's
    resize; also where the fraction is a whole number but for the last bit, and where nothing would be left."""
    # (size, shorter side) -> (side of the square, left of 501 pixels, top): worked out by hand from the published expression.
    cases = {
        (224, 256): (224, 139, 16),
        (224, 301): (263, 119, 19),
        (240, 340): (300, 101, 20),
        (240, 341): (300, 101, 21),
    }
    for (size, height), (side, left, top) in cases.items():
        image = picture(501, height)
        expected = image.crop((left, top, left + side, top + side)).resize((size, size), FILTERS["bicubic"])
        rules = Preprocess(size, (0.5,) * 3, (0.5,) * 3, "crop_first", size + 32, "bicubic")
        assert np.array_equal(to_pixels(image, rules), np.asarray(expected))
    assert to_pixels(picture(1, 1), Preprocess(224, (0.5,) * 3, (0.5,) * 3, "crop_first", 256)).shape == (224, 224, 3)
