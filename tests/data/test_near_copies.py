"""Near copies: pictures of a set that are nearly the same are found, and others are not."""

import io

import numpy as np
import pytest
from PIL import Image

from ne_jax.data import near_copies, sources
from ne_jax.data.near_copies import known_by


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Crops of different photographs."""
    source = sources.open_source("photos")
    return [source.read(index) for index in range(10)]


def saved(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert(picture.mode)


CHANGES = {
    "saved again": lambda picture: saved(picture, 75),
    "saved badly": lambda picture: saved(picture, 30),
    "half size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "brighter": lambda picture: picture.point(lambda value: min(255, int(value * 1.1))),
    "next frame": lambda picture: picture.crop((2, 1, picture.width, picture.height)),
}


def pairs(pictures) -> list[list[int]]:
    known = [known_by(picture) for picture in pictures]
    return near_copies.near_copies([each.look for each in known], [each.content for each in known]).tolist()


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(photographs, change):
    """Every one of them, and no other pair."""
    count = len(photographs)
    assert pairs([*photographs, *map(CHANGES[change], photographs)]) == [[n, n + count] for n in range(count)]


def test_equal_pictures_are_no_near_copies(photographs):
    """They get the same noise, and so give nothing away; a near copy of both is one of each."""
    one = photographs[0]
    assert pairs([one, one.copy()]) == []
    assert pairs([one, one.copy(), saved(one, 75)]) == [[0, 2], [1, 2]]


def test_different_pictures_are_not_taken_for_copies():
    """300 garments on black: none."""
    source = sources.open_source("fashion_mnist", limit=300)
    assert pairs([source.read(index) for index in range(300)]) == []


@pytest.mark.parametrize("count", [0, 1])
def test_of_few_pictures_there_are_no_pairs(photographs, count):
    """An empty set and a single picture."""
    assert pairs(photographs[:count]) == []


def test_all_pairs_up_to_15_bits_are_found():
    """The promise of the bands: of 256 bits at most 15 differ, so that one of 16 bands is equal."""
    generator = np.random.default_rng(0)
    looks = generator.integers(0, 256, (200, 32), np.uint8)
    copies = looks.copy()
    for row in copies:
        bits = np.unpackbits(row)
        bits[generator.choice(256, 15, replace=False)] ^= 1
        row[:] = np.packbits(bits)
    every = [row.tobytes() for row in (*looks, *copies)]
    found = near_copies.near_copies(every, [bytes([number % 256, number // 256]) for number in range(400)])
    assert found.tolist() == [[number, number + 200] for number in range(200)]
