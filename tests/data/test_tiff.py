"""TIFF, by pixel values: files written here number by number, and by tifffile, OpenCV and Pillow."""

import io
import itertools
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from ne_jax.data.images import BrokenImage, open_image

RNG = np.random.default_rng(0)
TYPES = {1: "B", 3: "H", 4: "I", 5: "II"}
WHITE, BLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6


def packed(values: np.ndarray, bits: int, order: str) -> bytes:
    """Rows of numbers, each of `bits` bits, each row filled up to a whole byte."""
    if bits in (8, 16, 32, 64):
        return values.astype(f"{order}i{bits // 8}").tobytes()
    each = values.reshape(len(values), -1, 1) >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(each.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def tiff(
    values: np.ndarray, bits: int, photometric: int, order="<", planar=1, rows=5, pack=None, fill=1, tags=None
) -> bytes:
    """A TIFF of `values` (height, width, samples). tags: number -> (type, values), further ones or others."""
    height, width, samples = values.shape
    planes = np.moveaxis(values, -1, 0)[..., None] if planar == 2 else [values]
    strips = [packed(plane[top : top + rows], bits, order) for plane in planes for top in range(0, height, rows)]
    if fill == 2:
        strips = [
            np.packbits(np.unpackbits(np.frombuffer(strip, np.uint8)), bitorder="little").tobytes() for strip in strips
        ]
    strips = [zlib.compress(strip) for strip in strips] if pack == 8 else strips
    places = np.cumsum([8, *map(len, strips)])
    entries = {256: (3, [width]), 257: (3, [height]), 258: (3, [bits] * samples), 259: (3, [pack or 1])}
    entries |= {262: (3, [photometric]), 266: (3, [fill]), 273: (4, places[:-1]), 277: (3, [samples]), 278: (3, [rows])}
    entries |= {279: (4, list(map(len, strips))), 284: (3, [planar]), **(tags or {})}
    return header(order, places[-1]) + b"".join(strips) + directory(entries, order, int(places[-1]))


def header(order: str, first: int) -> bytes:
    return {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, first)


def directory(entries: dict, order: str, place: int, following: int = 0) -> bytes:
    """Tags in their order, as they lie at `place` of the file, and behind them the values that do not fit."""
    kept = {tag: entry for tag, entry in sorted(entries.items()) if entry is not None}
    table, more, far = [struct.pack(f"{order}H", len(kept))], [], place + 6 + 12 * len(kept)
    for tag, (kind, values) in kept.items():
        content = struct.pack(
            f"{order}{TYPES[kind] * (len(values) if kind != 5 else len(values) // 2)}", *map(int, values)
        )
        count = len(values) // 2 if kind == 5 else len(values)
        if len(content) > 4:
            more.append(content)
            content = struct.pack(f"{order}I", far)
            far += len(more[-1])
        table.append(struct.pack(f"{order}HHI", tag, kind, count) + content.ljust(4, b"\0"))
    return b"".join((*table, struct.pack(f"{order}I", following), *more))


def read(data: bytes) -> np.ndarray:
    return np.asarray(open_image(io.BytesIO(data), "x"))


def refused(data: bytes) -> str:
    with pytest.raises(BrokenImage) as caught:
        read(data)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("x: ")


def numbers(bits: int, samples: int = 1, shape=(11, 13)) -> np.ndarray:
    values = RNG.integers(0, 2**bits, (*shape, samples), np.int64)
    values[0, :2] = [[0], [2**bits - 1]]
    return values


def eight(values: np.ndarray, bits: int) -> np.ndarray:
    """The rule of `images`: grey rounded, of 16 bits of colour the upper byte."""
    return (
        values >> 8
        if bits == 16 and values.shape[2:] > (2,)
        else np.floor(values * 255 / (2**bits - 1) + 0.5).astype(int)
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


# (photometric, samples, tags) -> picture, of values of 8 bits.
EXTRA, ASSOCIATED, ALPHA = ({338: (3, [kind])} for kind in range(3))


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return colour * (alpha / 255) + (255 - alpha)


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


SIGNED, FLOATING = {339: (3, [2])}, {339: (3, [3])}


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
