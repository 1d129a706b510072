from __future__ import annotations

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ne_jax.core.pixels import from_bytes
from ne_jax.errors import UserError
from ne_jax.recoding.jpeg import jpeg, quantisation

PILLOW = {"4:4:4": 0, "4:2:0": 2}
KINDS = [("4:2:0", 3), ("4:4:4", 3), ("4:2:0", 1)]
compiled = jax.jit(jpeg, static_argnames=("quality", "subsampling"))


def unit(pixels: np.ndarray) -> jax.Array:
    return jnp.asarray(from_bytes(pixels))


def saved(pixels: np.ndarray, quality: int, subsampling: str) -> Image.Image:
    """The file that Pillow writes, opened."""
    file = io.BytesIO()
    grey = pixels.shape[2] == 1
    options = {} if grey else {"subsampling": PILLOW[subsampling]}
    Image.fromarray(pixels[..., 0] if grey else pixels).save(file, "JPEG", quality=quality, **options)
    return Image.open(file)


def noise(height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def textured(height: int, width: int, channels: int) -> np.ndarray:
    """Waves of another length in each channel, a chirp, and a little noise."""
    y, x = np.mgrid[:height, :width][..., None]
    channel = np.arange(channels)
    waves = 70 * np.sin(x / (7 + 3 * channel) + y / (11 - channel)) + 30 * np.sin(x * y / 50)
    grain = np.random.default_rng(1).normal(0, 6, (height, width, channels))
    return np.clip(np.round(128 + waves + grain), 0, 255).astype(np.uint8)


def off_pillow(pixels: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    """Levels between our round trip and Pillow's, for each number of the image."""
    ours = np.round(np.asarray(compiled(unit(pixels), quality=quality, subsampling=subsampling)) * 255)
    return np.abs(ours - np.asarray(saved(pixels, quality, subsampling), np.float64).reshape(pixels.shape))


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize(("subsampling", "channels"), KINDS)
@pytest.mark.parametrize(("picture", "size"), [(textured, (45, 37)), (noise, (61, 83))])
def test_the_values_are_those_of_pillows_round_trip(picture, size, subsampling, channels, quality):
    """Next to no number differs, and none by more than a level. Measured: of `textured` none; of `noise` 3 in 15,189 at
    most, so that the mean is 0.0002 levels. The limits leave a factor of 5 to another machine's float32."""
    off = off_pillow(picture(*size, channels), quality, subsampling)
    assert off.mean() <= 0.001
    assert (off == 0).mean() >= 0.999
    assert off.max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (30, 4), (9, 5), (7, 18)])
def test_small_and_odd_images_too(size):
    """What libjpeg does at borders: blocks filled up with the last pixels, and chroma of two columns or fewer not
    interpolated."""
    off = off_pillow(noise(*size, 3), 90, "4:2:0")
    assert off.max() <= 1 and (off > 0).sum() <= 1


def test_black_white_and_pure_colours():
    """Where everything clips, the same as Pillow to the bit: noise of only the levels 0 and 255."""
    assert off_pillow(noise(32, 24, 3) // 128 * 255, 50, "4:2:0").max() == 0


def test_the_tables_are_pillows_at_every_quality():
    """The tables in a file that Pillow saved, exactly."""
    for quality in range(1, 101):
        file = saved(np.zeros((8, 8, 3), np.uint8), quality, "4:2:0")
        for number, table in enumerate(quantisation(quality)):
            assert np.array_equal(table.reshape(-1), file.quantization[number]), (quality, number)


def smooth(change: np.ndarray, subsampling: str) -> np.ndarray:
    """JPEG without any rounding, in float64: JFIF's colours, means of 2 x 2, linear interpolation between their
    centres."""
    if change.shape[2] == 1 or subsampling == "4:4:4":
        return change.astype(np.float64)
    red, green, blue = np.moveaxis(change.astype(np.float64), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    halved = []
    for chroma in ((blue - luma) / 1.772, (red - luma) / 1.402):
        for axis in (0, 1):
            size = chroma.shape[axis]
            even = np.concatenate([chroma, np.take(chroma, [-1], axis)], axis) if size % 2 else chroma
            means = (np.take(even, range(0, size, 2), axis) + np.take(even, range(1, size + size % 2, 2), axis)) / 2
            places = (np.arange(size) + 0.5) / 2 - 0.5
            line = functools.partial(np.interp, places, np.arange(means.shape[axis]))
            chroma = np.apply_along_axis(line, axis, means)
        halved.append(chroma)
    red, blue = luma + 1.402 * halved[1], luma + 1.772 * halved[0]
    return np.stack([red, (luma - 0.299 * red - 0.114 * blue) / 0.587, blue], axis=2)


@pytest.mark.parametrize(("subsampling", "channels"), KINDS)
def test_the_gradient_is_that_of_the_map_without_rounding(subsampling, channels):
    """Forward and backward, where values clip too, to what 13 bits of the cosines leave: 0.0005 measured, of changes of
    about 1."""
    generator = np.random.default_rng(2)
    image = unit(noise(21, 18, channels) // 64 * 85)
    change, weights = (jnp.asarray(generator.standard_normal(image.shape), jnp.float32) for _ in range(2))

    def round_trip(pixels):
        return jpeg(pixels, 50, subsampling=subsampling)

    expected = smooth(np.asarray(change), subsampling)
    moved = np.asarray(jax.jit(lambda: jax.jvp(round_trip, (image,), (change,))[1])())
    gradient = np.asarray(jax.jit(jax.grad(lambda pixels: jnp.sum(weights * round_trip(pixels))))(image))
    assert np.abs(moved - expected).max() <= 1e-3
    assert np.isfinite(gradient).all() and (gradient != 0).all()
    assert np.sum(gradient * np.asarray(change)) == pytest.approx(np.sum(expected * np.asarray(weights)), abs=5e-3)


def test_jit_and_vmap_change_no_value():
    """The same floats under jit, under vmap, and called as it is (grey only: op by op is slow); all on the 256
    levels."""
    images = unit(np.stack([noise(19, 22, 3), textured(19, 22, 3)]))
    single = np.stack([compiled(image) for image in images])
    assert np.array_equal(single, jax.jit(jax.vmap(jpeg))(images))
    assert np.array_equal(single, from_bytes(np.round(single * 255).astype(np.uint8)))
    grey = images[0, ..., :1]
    assert np.array_equal(jpeg(grey), compiled(grey))


def test_values_between_and_outside_the_levels_are_rounded_first():
    """Floating-point pixels are taken as their nearest levels, as a person saves them."""
    pixels = textured(16, 16, 3)
    shifted = from_bytes(pixels) + np.random.default_rng(3).uniform(-0.4, 0.4, pixels.shape).astype(np.float32) / 255
    shifted = np.where(pixels == 255, 1.5, np.where(pixels == 0, -0.5, shifted)).astype(np.float32)
    assert np.array_equal(compiled(jnp.asarray(shifted)), compiled(unit(pixels)))


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [
        (3, {"quality": 0}, "JPEG quality 0 is not a whole number from 1 to 100"),
        (3, {"quality": 101}, "JPEG quality 101 is not a whole number from 1 to 100"),
        (3, {"subsampling": "4:2:2"}, 'JPEG subsampling "4:2:2" is unknown; choose 4:2:0 or 4:4:4'),
        (4, {}, "a JPEG image has 1 channel (grey) or 3 (RGB), not 4"),
    ],
)
def test_mistakes_are_told_in_one_line(channels, options, message):
    """The message names what is wrong and what is right."""
    with pytest.raises(UserError) as caught:
        jpeg(jnp.zeros((8, 8, channels)), **options)
    assert str(caught.value) == message


def test_the_soft_gradient_knows_the_quantisation():
    """Values are the same; a flat block, whose coefficients lie in the middle of a step, has no gradient but through its mean, and in
    front of a step the gradient is larger than the straight one."""
    image = unit(textured(16, 16, 1))
    soft = jax.jit(lambda pixels: jpeg(pixels, 50, gradient="soft"))
    assert np.array_equal(soft(image), jax.jit(lambda pixels: jpeg(pixels, 50))(image))
    wave = np.cos((np.arange(8) + 0.5) * 3 * np.pi / 8)
    pattern = jnp.asarray(np.tile(np.outer(wave, wave), (1, 1))[..., None], jnp.float32)

    def slope(level):
        block = jnp.full((8, 8, 1), 128 / 255) + level * pattern / 255
        through = jax.grad(lambda move: jnp.sum(pattern * jpeg(block + move * pattern, 50, gradient="soft")))(0.0)
        return float(through / jnp.sum(pattern**2))

    # The coefficient of this wave at quality 50 goes in steps of 29: pattern's own is 4 for each level.
    assert slope(0.0) == pytest.approx(0, abs=1e-3)
    assert slope(29 / 8) > 1.5
