"""What is taken of TIFF, by pixel values: files written here number by number, and by tifffile, OpenCV and Pillow."""

import io
import itertools

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.tiffs import (
    ALPHA,
    ASSOCIATED,
    BLACK,
    CMYK,
    EXTRA,
    PALETTE,
    RGB,
    RNG,
    SIGNED,
    WHITE,
    YCBCR,
    eight,
    numbers,
    on_white,
    read,
    refused,
    tiff,
)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("photometric", [WHITE, BLACK])
def test_grey_of_every_depth(bits, photometric):
    """Each level by its value, whichever end is white, in either byte order and bit order, in strips or one, in a plane or not,
    packed or not. But 12 bits are little-endian only."""
    for order, planar, rows, (pack, fill) in itertools.product("<>", (1, 2), (5, 99), ((1, 1), (8, 1), (1, 2))):
        values = numbers(bits)
        data = tiff(values, bits, photometric, order, planar, rows, pack, fill)
        if (bits, order) == (12, ">"):
            assert refused(data).startswith("a TIFF of 12 bits without a sign, ")
            continue
        levels = eight(values[..., 0], bits)
        expected = 255 - levels if photometric == WHITE else levels
        np.testing.assert_array_equal(read(data), expected, str((order, planar, rows, pack, fill)))


def inks(values: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(values.astype(np.uint8), "CMYK").convert("RGB"))


COLOURS = {
    "RGB": (RGB, 3, {}, lambda values: values),
    "RGB and extra": (RGB, 4, EXTRA, lambda values: values[..., :3]),
    "RGB and alpha": (RGB, 4, ALPHA, lambda values: on_white(values[..., :3], values[..., 3:])),
    "RGB times alpha": (RGB, 4, ASSOCIATED, lambda values: values[..., :3] + 255 - values[..., 3:]),
    "CMYK": (CMYK, 4, {}, inks),
    "grey and alpha": (BLACK, 2, ALPHA, lambda values: on_white(values[..., 0], values[..., 1])),
    "grey times alpha": (BLACK, 2, ASSOCIATED, lambda values: values[..., 0] + 255 - values[..., 1]),
    "grey and extra": (BLACK, 2, EXTRA, lambda values: values[..., 0]),
}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", COLOURS)
def test_colours_and_extra_samples(name, bits):
    """Samples together or in planes, packed or not, in either order of bytes: each pixel by its value, alpha on white to one level."""
    photometric, samples, tags, picture = COLOURS[name]
    for order, planar, rows, (pack, fill) in itertools.product("<>", (1, 2), (5, 99), ((1, 1), (8, 1), (1, 2))):
        values = numbers(bits, samples)
        if tags is ASSOCIATED:  # no colour is more than its alpha
            values[..., :-1] = values[..., :-1] * values[..., -1:] // (2**bits - 1)
        data = tiff(values, bits, photometric, order, planar, rows, pack, fill, tags)
        if samples == 2 and planar == 2 and tags is not EXTRA:
            assert ", alpha in a plane of its own, which is not taken; save it with the samples together" in refused(
                data
            )
            continue
        if samples == 2 and planar == 1 and bits == 16:
            assert refused(data).startswith("a TIFF of 16 + 16 bits without a sign, 1 of them extra, black at zero, ")
            continue
        levels = np.abs(read(data) - picture(eight(values, bits)))
        assert levels.max() <= ((1 if bits == 8 else 2) if tags in (ALPHA, ASSOCIATED) else 0), str(
            (order, planar, rows, pack, fill)
        )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes(bits):
    """Colours of 16 bits give their upper byte; where all are below 256 they are of 8 bits, as libtiff takes them. 16 bits are refused."""
    for order, planar, (pack, fill), high in itertools.product("<>", (1, 2), ((1, 1), (8, 1), (1, 2)), (65536, 256)):
        values, colours = numbers(bits), RNG.integers(0, high, (3, 2**bits))
        colours[0, -1] = high - 1
        data = tiff(values, bits, PALETTE, order, planar, pack=pack, fill=fill, tags={320: (3, colours.ravel())})
        np.testing.assert_array_equal(read(data), (colours // (high // 256)).T[values[..., 0]])
    data = tiff(numbers(16), 16, PALETTE, tags={320: (3, RNG.integers(0, 65536, 3 * 65536))})
    assert refused(data).startswith(
        "a TIFF of 16 bits without a sign, palette, little-endian, which is not read; save it with 8"
    )


def test_a_palette_with_alpha_is_laid_on_white():
    """Number and alpha together; in planes it is refused."""
    values, colours = numbers(8, 2), RNG.integers(0, 65536, (3, 256))
    tags = {320: (3, colours.ravel()), **ALPHA}
    expected = on_white((colours >> 8).T[values[..., 0]], values[..., 1:])
    assert np.abs(read(tiff(values, 8, PALETTE, tags=tags)) - expected).max() <= 1
    assert ", alpha in a plane of its own" in refused(tiff(values, 8, PALETTE, planar=2, tags=tags))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("bits", "sign"), [(16, SIGNED), (32, SIGNED), (32, {})])
def test_whole_numbers_are_values_as_those_of_16_bits(bits, sign, order):
    """With a sign or of 32 bits, what is within 0..65535 (with a sign 32767) is taken by its value, and else told with the range."""
    values = numbers(15)
    if (sign, order) == ({}, ">"):
        assert refused(tiff(values, 32, BLACK, order)).startswith(
            "a TIFF of 32 bits without a sign, black at zero, big-endian"
        )
        return
    packings = [(1, 1), (8, 1), (1, 2)]
    if order == ">":  # which libtiff hands to Pillow the other way round
        told = f"a TIFF of {bits} bits with a sign, black at zero, big-endian, packed, which is not taken; save it without a sign"
        assert all(
            refused(tiff(values, bits, BLACK, order, pack=pack, fill=fill, tags=sign)) == told
            for pack, fill in packings[1:]
        )
        packings = packings[:1]
    for pack, fill in packings:
        found = read(tiff(values, bits, BLACK, order, pack=pack, fill=fill, tags=sign))
        np.testing.assert_array_equal(found, eight(values[..., 0], 16))
    values[3, 3] = -5 if sign else 2**32 - 5
    told = "values from -5 to 32767; " if sign else "values from 0 to 4294967291; "
    assert refused(tiff(values, bits, BLACK, order, tags=sign)).startswith(told)


YCBCR_TAGS = {
    "one colour a pixel": ((1, 1), {}),
    "a colour for two": ((2, 1), {}),
    "a colour for four": ((2, 2), {}),
    "of narrow range": ((1, 1), {532: (5, [15, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1])}),
    "of ITU-R 709": ((1, 1), {529: (5, [2126, 10000, 7152, 10000, 722, 10000])}),
}


@pytest.mark.parametrize("name", YCBCR_TAGS)
def test_ycbcr_as_libtiff_reads_it(name):
    """Luma and chroma become the RGB that OpenCV, which has libtiff do it, gives, to two levels; subsampled, of narrow range, and by
    other coefficients."""
    (wide, high), tags = YCBCR_TAGS[name]
    luma, chroma = numbers(8, 1, (8, 12)), RNG.integers(90, 160, (8 // high, 12 // wide, 2))
    blocks = luma.reshape(8 // high, high, 12 // wide, wide).transpose(0, 2, 1, 3).reshape(8 // high, 12 // wide, -1)
    stored = np.concatenate([blocks, chroma], -1).reshape(8 // high, -1, 1)
    data = bytearray(
        tiff(
            stored,
            8,
            YCBCR,
            rows=99,
            tags={256: (3, [12]), 257: (3, [8]), 258: (3, [8] * 3), 277: (3, [3]), 530: (3, [wide, high]), **tags},
        )
    )
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(read(bytes(data)).astype(int) - expected).max() <= 2


def test_lab_is_its_colours():
    """Lightness, and a and b with their signs: white, black, and a red by its published place, L 54.3, a 80.8, b 69.9 (D50)."""
    values = np.array([[[255, 0, 0], [0, 0, 0], [138, 81, 70]]])
    np.testing.assert_allclose(read(tiff(values, 8, 8))[0], [[255] * 3, [0] * 3, [255, 0, 0]], atol=6)


PILLOW = ["raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "lzma", "zstd"]


@pytest.mark.parametrize("compression", [*PILLOW, "group3", "group4"])
def test_every_compression_keeps_the_pixels(compression):
    """What Pillow writes is read back, grey, colour, alpha, inks, palette and 16 bits; CCITT is for black and white."""
    colour = Image.fromarray(numbers(8, 3, (40, 30)).astype(np.uint8))
    modes = ["1"] if compression.startswith("group") else ["1", "L", "RGB", "CMYK", "P"]
    for picture in [colour.convert(mode) for mode in modes]:
        file = io.BytesIO()
        picture.save(file, "TIFF", compression=compression)
        found = read(file.getvalue())
        np.testing.assert_array_equal(found, picture.convert("L" if picture.mode in "1L" else "RGB"))


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 3), (40, 30, 4)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_what_opencv_writes_is_what_it_reads(shape, kind):
    """LZW with its predictor, by OpenCV."""
    values = RNG.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)
    data = cv2.imencode(".tiff", values)[1].tobytes()
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, values)
    levels = eight(stored.astype(int), np.iinfo(kind).bits)
    expected = levels if len(shape) == 2 else levels[..., 2::-1]
    if len(shape) == 3 and shape[2] == 4:
        assert np.abs(read(data) - on_white(expected, levels[..., 3:])).max() <= 2
    else:
        np.testing.assert_array_equal(read(data), expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile": (16, 16)},
        {"rowsperstrip": 7},
        {"bigtiff": True},
        {"compression": "zlib"},
        {"compression": "zlib", "tile": (32, 16), "bigtiff": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_what_tifffile_writes_is_what_it_reads(options, kind):
    """Tiles, strips and BigTIFF in either order of bytes: grey from either end, RGB together and in planes."""
    for order, (photometric, planar, shape) in itertools.product(
        "<>",
        [
            ("minisblack", None, (40, 50)),
            ("miniswhite", None, (40, 50)),
            ("rgb", "contig", (40, 50, 3)),
            ("rgb", "separate", (3, 40, 50)),
        ],
    ):
        file = io.BytesIO()
        tifffile.imwrite(
            file,
            RNG.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True),
            photometric=photometric,
            planarconfig=planar,
            byteorder=order,
            **options,
        )
        if order == ">" and options.get("bigtiff"):
            assert refused(file.getvalue()).startswith("a big-endian BigTIFF, which is not read")
            continue
        stored = tifffile.imread(io.BytesIO(file.getvalue())).astype(int)
        levels = eight(np.moveaxis(stored, 0, -1) if planar == "separate" else stored, np.iinfo(kind).bits)
        np.testing.assert_array_equal(read(file.getvalue()), 255 - levels if photometric == "miniswhite" else levels)
