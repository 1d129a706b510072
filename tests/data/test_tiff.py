"""What is not taken of TIFF, and what is damaged: one line says what the file holds."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from ne_jax.data.images import BrokenImage
from tests.tiffs import (
    BLACK,
    CMYK,
    EXTRA,
    FLOATING,
    RGB,
    RNG,
    SIGNED,
    WHITE,
    YCBCR,
    directory,
    numbers,
    read,
    refused,
    tiff,
)

NAMED = {
    "8 bits with a sign": (
        tiff(numbers(8), 8, BLACK, tags=SIGNED),
        "a TIFF of 8 bits with a sign, black at zero, little-endian, which is not taken; save it without a sign",
    ),
    "white, with a sign": (tiff(numbers(8), 16, WHITE, tags=SIGNED), "a TIFF of 16 bits with a sign, white at zero"),
    "white, 32 bits": (tiff(numbers(8), 32, WHITE), "a TIFF of 32 bits without a sign, white at zero"),
    "colour of 32 bits": (
        tiff(numbers(8, 3), 32, RGB),
        "a TIFF of 32 + 32 + 32 bits without a sign, RGB, little-endian, which is not read",
    ),
    "colour with a sign": (
        tiff(numbers(8, 3), 16, RGB, tags={339: (3, [2] * 3)}),
        "a TIFF of 16 + 16 + 16 bits with a sign, RGB",
    ),
    "floating point": (tiff(numbers(8), 32, BLACK, tags=FLOATING), "floating point; save it with 8 or 16 bits"),
    "floating point, 16 bits": (
        tiff(numbers(8), 16, BLACK, tags=FLOATING),
        "a TIFF of 16 bits of floating point, black",
    ),
    "64 bits": (tiff(numbers(8), 64, BLACK), "a TIFF of 64 bits without a sign"),
    "complex": (tiff(numbers(8), 64, BLACK, tags={339: (3, [6])}), "a TIFF of 64 bits of another format"),
    "6 bits": (tiff(numbers(6), 6, BLACK), "a TIFF of 6 bits without a sign"),
    "5, 6 and 5 bits": (
        tiff(numbers(8, 3), 8, RGB, tags={258: (3, [5, 6, 5])}),
        "a TIFF of 5 + 6 + 5 bits without a sign, RGB",
    ),
    "4 bits of RGB": (tiff(numbers(4, 3), 4, RGB), "a TIFF of 4 + 4 + 4 bits without a sign, RGB"),
    "two colours": (tiff(numbers(8, 2), 8, RGB), "a TIFF of 8 + 8 bits without a sign, RGB"),
    "five inks": (
        tiff(numbers(8, 5), 8, CMYK, tags={332: (3, [2])}),
        "a TIFF of inks that are not CMYK; save it as RGB",
    ),
    "four inks": (
        tiff(numbers(8, 4), 8, CMYK, tags={332: (3, [2])}),
        "a TIFF of inks that are not CMYK; save it as RGB",
    ),
    "mask": (tiff(numbers(1), 1, 4), "a transparency mask and not a picture"),
    "mask by its kind": (tiff(numbers(1), 1, BLACK, tags={254: (4, [4])}), "a transparency mask and not a picture"),
    "ICC LAB": (tiff(numbers(8, 3), 8, 9), "a TIFF of 8 + 8 + 8 bits without a sign, ICC LAB"),
    "unknown colours": (tiff(numbers(8, 3), 8, 99), "a TIFF of 8 + 8 + 8 bits without a sign, colours number 99"),
    "no photometric": (
        tiff(numbers(8), 8, BLACK, tags={262: None}),
        "a TIFF without the tag that says what its numbers mean",
    ),
    "WebP inside": (
        tiff(numbers(8, 3), 8, RGB, tags={259: (3, [50001])}),
        "a TIFF of compression 50001, which is not taken; save it with LZW",
    ),
    "old JPEG inside": (
        tiff(numbers(8, 3), 8, YCBCR, tags={259: (3, [6])}),
        "a TIFF of compression 6, which is not taken",
    ),
    "JPEG 2000 inside": (
        tiff(numbers(8, 3), 8, RGB, tags={259: (3, [34712])}),
        "a TIFF of compression 34712, which is not taken",
    ),
    "sensor": (tiff(numbers(16), 16, 32803), "a camera raw; develop it, and save it as JPEG, PNG or TIFF"),
    "sensor in colour": (tiff(numbers(16, 3), 16, 34892), "a camera raw; develop it"),
    "DNG": (tiff(numbers(8, 3), 8, RGB, tags={50706: (1, [1, 4, 0, 0])}), "a camera raw; develop it"),
    "thumbnail": (
        tiff(numbers(8, 3), 8, RGB, tags={254: (4, [1])}),
        "a reduced picture of a larger one in the file, as camera raws have it; save the full one as",
    ),
    "thumbnail by the old tag": (
        tiff(numbers(8, 3), 8, RGB, tags={255: (3, [2])}),
        "a reduced picture of a larger one",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_taken_is_named(name):
    """One line says what the file holds and what to do, and nothing is printed beside it."""
    data, part = NAMED[name]
    assert refused(data).startswith(part)


def with_sub_file(sides: tuple[int, int], order: str = "<") -> bytes:
    """A picture of 13 x 11 whose tags point to another picture's, of those sides, which has no pixels here."""
    start = len(tiff(numbers(8, 3), 8, RGB, order)) + 1000
    data = tiff(numbers(8, 3), 8, RGB, order, tags={330: (4, [start])}).ljust(start, b"\0")
    other = {256: (4, [sides[0]]), 257: (4, [sides[1]]), 258: (3, [12]), 259: (3, [1]), 262: (3, [32803])}
    return data + directory(other, order, start)


@pytest.mark.parametrize("order", "<>")
def test_a_picture_beside_a_larger_one_is_not_taken_for_it(order):
    """Raws of some cameras begin with a thumbnail that does not say so, and keep the picture below it: that is refused. A smaller
    picture below is a preview and costs nothing."""
    assert refused(with_sub_file((6000, 4000), order)).startswith(
        "a reduced picture of a larger one in the file, as camera raws"
    )
    assert read(with_sub_file((6, 4), order)).shape == (11, 13, 3)


@pytest.mark.parametrize("big", [False, True])
def test_pictures_below_are_found_as_tifffile_writes_them(big):
    """A larger one below the first is told of, a smaller one is a preview, in BigTIFF too."""
    for sides, larger in (((200,), True), ((5,), False), ((5, 6, 200), True), ((5, 6, 7), False)):
        file = io.BytesIO()
        with tifffile.TiffWriter(file, bigtiff=big) as writer:
            writer.write(np.full((12, 16), 7, np.uint8), subifds=len(sides))
            for side in sides:
                writer.write(np.zeros((side, 9), np.uint8))
        if larger:
            assert refused(file.getvalue()).startswith("a reduced picture of a larger one in the file")
        else:
            np.testing.assert_array_equal(read(file.getvalue()), np.full((12, 16), 7))


def test_a_camera_raw_is_not_its_thumbnail():
    """As DNG has it: a thumbnail first, which says that it is one, and the sensor's numbers below it."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(np.zeros((12, 16, 3), np.uint8), photometric="rgb", subifds=1, subfiletype=1)
        writer.write(
            np.zeros((480, 640), np.uint16),
            photometric="cfa",
            extratags=[(33421, 3, 2, (2, 2), True), (33422, 1, 4, b"\0\1\1\2", True)],
        )
    assert refused(file.getvalue()).startswith("a reduced picture of a larger one in the file")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_damaged_jpeg_inside_is_told(mode):
    """Strips of JPEG are checked as JPEG files are: the picture is Pillow's where all are whole, and broken where one lost its end."""
    file, picture = io.BytesIO(), Image.fromarray(numbers(8, 3, (80, 60)).astype(np.uint8)).convert(mode)
    picture.save(file, "TIFF", compression="jpeg")
    data = bytearray(file.getvalue())
    file.seek(0)
    with Image.open(file) as whole:
        np.testing.assert_array_equal(read(bytes(data)), np.asarray(whole.convert(mode)))
        place, size = whole.tag_v2[273][-1], whole.tag_v2[279][-1]
    data[place + size // 2 : place + size] = bytes(size - size // 2 - 2) + b"\xff\xd9"
    assert refused(bytes(data)).startswith("a damaged JPEG (")


def test_a_jpeg_larger_than_its_picture_is_told():
    """The check of a strip decodes no more than the picture that was allowed."""
    file = io.BytesIO()
    Image.new("L", (80, 60)).save(file, "TIFF", compression="jpeg")
    data = file.getvalue()
    place = data.index(b"\xff\xc0") + 5
    grown = data[:place] + struct.pack(">HH", 60000, 60000) + data[place + 4 :]
    assert refused(grown) == "a TIFF with a JPEG inside that is larger than its picture; save it anew"


@pytest.mark.parametrize("big", [False, True])
def test_further_pages_are_counted_whatever_they_are(big):
    """A thumbnail, or something that is not taken, behind the picture: two pictures in one file."""
    for further, kind in ((np.zeros((4, 5), np.uint64), 0), (np.zeros((4, 5, 3), np.uint8), 1)):
        file = io.BytesIO()
        with tifffile.TiffWriter(file, bigtiff=big) as writer:
            writer.write(np.zeros((8, 9), np.uint16), photometric="miniswhite")
            writer.write(further, subfiletype=kind)
        assert refused(file.getvalue()) == "2 pictures in one TIFF; give each a file of its own"


def test_parts_larger_than_their_file_are_told():
    """A few bytes that claim many strips of JPEG, each the whole file, are not read again and again."""
    data = tiff(numbers(8), 8, BLACK, rows=1, tags={259: (3, [7]), 279: (4, [400] * 11)})
    assert refused(data).startswith("a TIFF whose tags are damaged: its parts are larger than the file")


def test_tags_that_point_nowhere_are_told():
    """Pillow leaves out, with a warning, the tags whose values lie outside of the file, and would take 16 bits for one."""
    data = bytearray(tiff(numbers(8, 3), 8, RGB))
    place = data.rindex(struct.pack("<HHI", 258, 3, 3)) + 8
    data[place : place + 4] = struct.pack("<I", 10**6)
    with pytest.warns(UserWarning):
        assert refused(bytes(data)).startswith("a TIFF whose tags are damaged (BitsPerSample, Compression, ")


@pytest.mark.filterwarnings(
    "ignore:Corrupt EXIF data", "ignore:Tag data larger", "ignore:Metadata Warning", "ignore:Truncated File"
)
def test_damaged_tags_are_told():
    """Whatever bytes the tags are made of, the file is read or broken with one line."""
    whole = tiff(numbers(16, 3), 16, RGB, planar=2, tags={**EXTRA, 330: (4, [8])})
    for _ in range(300):
        data = bytearray(whole)
        for place in RNG.integers(len(data) - 170, len(data), 3):
            data[place] = RNG.integers(256)
        try:
            read(bytes(data))
        except BrokenImage as error:
            assert str(error).startswith("x: ") and "\n" not in str(error)
