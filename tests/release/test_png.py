"""One image as a PNG: what is another size, kind or file is told from its head, and not unpacked."""

import io

import numpy as np
import pytest
from PIL import Image

from ne_jax.release.png import decode_png, encode_png
from ne_jax.release.reasons import Reason, Unreadable
from tests import hostile

SHAPE = (6, 5, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_come_back(channels):
    """Grey and RGB, to the level."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, channels), np.uint8)
    np.testing.assert_array_equal(decode_png(encode_png(pixels, {}), pixels.shape), pixels)


def saved(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 6)).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000"])
def test_other_types_are_known_by_their_first_bytes(form, monkeypatch):
    """What a platform made of a file is named; no reader of that type looks into a stranger's bytes."""
    data = saved(form)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(Unreadable) as caught:
        decode_png(data, SHAPE)
    assert caught.value.reason == Reason("another type", (form,))


@pytest.mark.parametrize("size", [(65_000, 65_000), (12_000, 12_000), (6, 5), (1, 1)])
def test_another_size_is_not_unpacked(size, monkeypatch):
    """A bomb is told from its head, without a warning; so is any size but the right one."""
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("unpacked"))
    with pytest.raises(Unreadable) as caught:
        decode_png(hostile.png(*size, 2, inflated=1000), SHAPE)
    assert caught.value.reason == Reason("resized", (*size, 5, 6))


@pytest.mark.parametrize("channels", [2, 4])
def test_a_number_of_channels_that_no_png_here_has(channels):
    """A manifest that says so is told as another kind of image."""
    with pytest.raises(Unreadable) as caught:
        decode_png(hostile.png(5, 6), (6, 5, channels))
    assert caught.value.reason.kind == "recoloured"
