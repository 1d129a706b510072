"""The rule from a file to an upright 8-bit picture, by pixel values."""

import concurrent.futures
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from ne_jax.data.images import BrokenImage, open_image
from tests.photos import photographs
from tests.tiffs import packed

RNG = np.random.default_rng(0)
COLOUR = Image.fromarray(RNG.integers(0, 256, (7, 5, 3), np.uint8))
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}, "BMP": {}, "TIFF": {}}


def saved(image: Image.Image, file_format: str, **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    file.seek(0)
    return file


def read(file, max_pixels: int = 10**8) -> np.ndarray:
    found = open_image(file, "x", max_pixels)
    assert type(found) is Image.Image and found.mode in ("L", "RGB") and not found.info.keys() - {"exif", "icc_profile"}
    return np.asarray(found)


def png(
    width: int, height: int, bits: int, colour_type: int, rows: bytes, *more: tuple[bytes, bytes], interlaced=False
) -> io.BytesIO:
    """A PNG by hand. rows: uncompressed, each with its filter byte. more: further chunks before the pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)), *more]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


@pytest.mark.parametrize("size", [(5, 7), (1, 1)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("file_format", LOSSLESS)
def test_lossless_files_give_their_pixels(file_format, mode, size):
    """Every pixel as stored, grey as grey where the format has grey, down to one pixel."""
    image = COLOUR.convert(mode).resize(size)
    found = read(saved(image, file_format, **LOSSLESS[file_format]))
    expected = image.convert("RGB") if file_format == "WEBP" else image
    np.testing.assert_array_equal(found, np.asarray(expected))


PNG_SAMPLES = {
    0: 1,
    2: 3,
    3: 1,
    4: 2,
    6: 4,
}  # of each type of colour: grey, RGB, palette, grey and alpha, RGB and alpha
PNG_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # of Adam7


def png_rows(values: np.ndarray, bits: int) -> bytes:
    return (
        b"".join(b"\0" + packed(values[row : row + 1], bits, ">") for row in range(len(values))) if values.size else b""
    )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(
    ("colour", "bits"), [(colour, bits) for colour, all_bits in PNG_BITS.items() for bits in all_bits]
)
def test_every_kind_of_png(colour, bits, transparent, interlaced):
    """Each type of colour, depth and transparency that PNG has, by its numbers: grey in even steps, rounded from 16 bits, colour of 16
    bits by its upper byte, and what is transparent on white to half a level. A transparent colour of 16 bits is refused by name."""
    values, more = RNG.integers(0, 2**bits, (11, 13, PNG_SAMPLES[colour])), []
    alpha = values[..., -1:] >> bits - 8 if colour >= 4 else np.full((11, 13, 1), 255)
    picture = values[..., :-1] if colour >= 4 else values
    if colour == 3:
        palette, alphas = RNG.integers(0, 256, (2**bits, 3)), RNG.integers(0, 256, 2**bits)
        more = [(b"PLTE", palette.astype(np.uint8).tobytes())] + [
            (b"tRNS", alphas.astype(np.uint8).tobytes())
        ] * transparent
        picture, alpha = palette[values[..., 0]], alphas[values] if transparent else alpha
    elif transparent and colour < 4:
        more = [(b"tRNS", values[2, 3].astype(">u2").tobytes())]
        alpha = np.where((values == values[2, 3]).all(-1, keepdims=True), 0, 255)
    if colour != 3:
        picture = picture >> 8 if bits == 16 and colour else np.floor(picture * 255 / (2**bits - 1) + 0.5)
    parts = [values[top::down, left::right] for top, left, down, right in PASSES] if interlaced else [values]
    file = png(13, 11, bits, colour, b"".join(png_rows(part, bits) for part in parts), *more, interlaced=interlaced)
    if transparent and (colour, bits) == (2, 16):
        with pytest.raises(
            BrokenImage, match="^x: a PNG with a transparent colour of 16 bits, which is not read; save it with"
        ):
            read(file)
        return
    expected = picture * (alpha / 255) + (255 - alpha)
    found = np.atleast_3d(read(file))  # grey of 16 bits with alpha comes as three equal colours
    assert np.abs(found - expected).max() <= 0.51


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 30}, {"quality": 95, "method": 6}])
def test_webp_is_decoded_as_opencv_does(options):
    """Lossy and lossless, to the bit."""
    file = saved(photographs()[4], "WEBP", **options)
    found = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read(file), found[..., ::-1])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:2:0"}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpegs_are_decoded_as_pillow_does(mode, options):
    """JPEG's pixels are those of Pillow's decoder, a path like an open file."""
    file = saved(COLOUR.convert(mode), "JPEG", **options)
    np.testing.assert_array_equal(read(file), np.asarray(Image.open(file)))


def test_of_a_phone_s_jpeg_the_first_picture_is_taken():
    """An MPO, which phones write with the ending .jpg, is its first picture: the others are previews and depth maps."""
    file = saved(Image.new("RGB", (16, 16), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    assert Image.open(file).n_frames == 2
    np.testing.assert_allclose(read(file), np.full((16, 16, 3), [255, 0, 0]), atol=2)


def _palette(alpha: tuple[int, ...] | None) -> io.BytesIO:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 200, 100, 50])
    return saved(image, "PNG", **({} if alpha is None else {"transparency": bytes(alpha)}))


def _two(mode: str, *pixels, **options) -> io.BytesIO:
    image = Image.new(mode, (2, 1))
    image.putdata(pixels)
    return saved(image, options.pop("file_format", "PNG"), **options)


# 128 of 255 of 200 on white: (200 * 128 + 255 * 127) / 255 = 227.4.
MODES = {
    "black and white": (_two("1", 0, 255), [0, 255]),
    "black and white TIFF": (_two("1", 0, 255, file_format="TIFF", compression="group4"), [0, 255]),
    "palette": (_palette(None), [[10, 20, 30], [200, 100, 50]]),
    "palette, transparent": (_palette((255, 0)), [[10, 20, 30], [255] * 3]),
    "palette, half transparent": (_palette((128, 255)), [[132, 137, 142], [200, 100, 50]]),
    "grey and alpha": (_two("LA", (200, 128), (77, 255)), [227, 77]),
    "grey, one transparent": (_two("L", 200, 77, transparency=200), [255, 77]),
    "colour and alpha": (_two("RGBA", (200, 0, 255, 128), (1, 2, 3, 0)), [[227, 127, 255], [255] * 3]),
    "colour, one transparent": (_two("RGB", (1, 2, 3), (4, 5, 6), transparency=(4, 5, 6)), [[1, 2, 3], [255] * 3]),
    "WebP and alpha": (
        _two("RGBA", (9, 8, 7, 255), (1, 2, 3, 0), file_format="WEBP", lossless=True),
        [[9, 8, 7], [255] * 3],
    ),
    "TIFF, palette and alpha": (_two("PA", (0, 255), (0, 0), file_format="TIFF"), [[0] * 3, [255] * 3]),
    "CMYK TIFF": (_two("CMYK", (0, 0, 0, 0), (0, 255, 255, 0), file_format="TIFF"), [[255] * 3, [255, 0, 0]]),
    "black and white, black transparent": (png(2, 1, 1, 0, b"\0\x40", (b"tRNS", b"\0\0")), [255, 255]),
    "16-bit colour": (
        png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 0, 255, 256, 65535, 513, 511)),
        [[0, 0, 1], [255, 2, 1]],
    ),
    "16-bit grey and alpha": (
        png(2, 1, 16, 4, b"\0" + struct.pack(">4H", 0x7FFF, 65535, 5, 0)),
        [[127] * 3, [255] * 3],
    ),
    "16-bit grey, one transparent": (
        png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 257, 514), (b"tRNS", b"\1\1")),
        [255, 2],
    ),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_has_known_values(name):
    """Palettes, alpha on white, black and white, CMYK and 16 bits, each pixel by its value."""
    file, expected = MODES[name]
    np.testing.assert_array_equal(read(file)[0], expected)


def test_alpha_is_laid_on_white_to_half_a_level():
    """(value * alpha + 255 * (255 - alpha)) / 255 for every alpha, rounded."""
    alpha = np.arange(256)
    pixels = np.stack([np.full(256, 40), np.full(256, 250), np.zeros(256), alpha], -1)[None].astype(np.uint8)
    exact = (pixels[..., :3] * (alpha[:, None] / 255)) + (255 - alpha)[:, None]
    assert np.abs(read(saved(Image.fromarray(pixels), "PNG")) - exact).max() <= 0.5 + 1 / 255


@pytest.mark.parametrize("levels", [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)])
def test_print_jpegs_are_not_inverted(levels):
    """A CMYK JPEG, whose numbers Adobe inverts, has the colours of its inks: white paper, cyan, red, black."""
    image = Image.new("CMYK", (16, 16), levels)
    file = saved(image, "JPEG", quality=100)
    assert b"Adobe" in file.getvalue()
    np.testing.assert_allclose(read(file), np.asarray(image.convert("RGB")), atol=3)


def test_other_colour_spaces_become_rgb():
    """YCbCr as Pillow turns it into RGB; LAB's white is white and its black is black."""
    image = COLOUR.convert("YCbCr")
    np.testing.assert_array_equal(read(saved(image, "TIFF")), np.asarray(image.convert("RGB")))
    found = read(_two("LAB", (255, 128, 128), (0, 128, 128), file_format="TIFF"))
    np.testing.assert_allclose(found[0], [[255] * 3, [0] * 3], atol=1)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "TIFF big-endian", "TIFF 32-bit"])
def test_16_bits_of_grey_are_rounded_to_8(file_format):
    """Value / 257 to the nearest, for all 65,536 values: 0 to 0, 65535 to 255, and no clipping at 255."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = Image.fromarray(values.astype(">u2") if "big" in file_format else values)
    if file_format == "TIFF 32-bit":
        image = Image.fromarray(values.astype(np.int32))
    found = read(saved(image, file_format[:4].strip()))
    np.testing.assert_array_equal(found, np.round(values / 257).astype(np.uint8))


# What is seen upright, for each orientation of the stored pixels: from EXIF 2.3, where row 0 and column 0 are.
UPRIGHT = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", [1, *UPRIGHT])
@pytest.mark.parametrize(
    ("file_format", "options"),
    [("PNG", {}), ("JPEG", {}), ("WEBP", LOSSLESS["WEBP"]), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_pictures_are_upright(file_format, options, orientation):
    """Each EXIF orientation is undone once, and taken out of the EXIF that is handed on."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Artist] = orientation, "me"
    file = saved(COLOUR, file_format, exif=exif, **options)
    stored = np.asarray(Image.open(saved(COLOUR, file_format, **options)))
    found = open_image(file, "x")
    np.testing.assert_array_equal(np.asarray(found), UPRIGHT.get(orientation, np.asarray)(stored))
    if file_format == "TIFF":
        assert not found.info
    else:
        kept = Image.Exif()
        kept.load(found.info["exif"])
        assert dict(kept) == {ExifTags.Base.Artist: "me"}


def _exif_with_pictures() -> bytes:
    """EXIF with an artist, a maker's note and, in the second directory, a thumbnail, as cameras write it."""
    thumbnail, note = saved(COLOUR, "JPEG").getvalue(), b"a preview in the maker's note"
    first, second, camera = 8, 8 + 2 + 2 * 12 + 4, 8 + 2 * (2 + 2 * 12 + 4)
    data = camera + 2 + 12 + 4
    return b"Exif\0\0II*\0" + b"".join(
        [
            struct.pack("<I", first),
            struct.pack(
                "<HHHI4sHHIII", 2, ExifTags.Base.Artist, 2, 3, b"me\0\0", ExifTags.IFD.Exif, 4, 1, camera, second
            ),
            struct.pack("<HHHIIHHIII", 2, 0x0201, 4, 1, data + len(note), 0x0202, 4, 1, len(thumbnail), 0),
            struct.pack("<HHHIII", 1, 0x927C, 7, len(note), data, 0),
            note,
            thumbnail,
        ]
    )


def test_metadata_cannot_show_the_picture():
    """EXIF is handed on without thumbnail and maker's note, which may hold the very image; comments and XMP are dropped."""
    exif = _exif_with_pictures()
    parsed = Image.Exif()
    parsed.load(exif)
    assert parsed.get_ifd(ExifTags.IFD.IFD1) and 0x927C in parsed.get_ifd(
        ExifTags.IFD.Exif
    )  # the file is what it should be
    found = open_image(saved(COLOUR, "JPEG", exif=exif, comment=b"hello", xmp=b"<xmp/>"), "x")
    assert found.info.keys() == {"exif"} and b"me" in found.info["exif"]
    assert b"\xff\xd8" not in found.info["exif"] and b"preview" not in found.info["exif"]


def test_profiles_are_handed_on_where_they_fit():
    """An RGB profile stays with RGB pixels, which it does not change; a print profile goes with the inks."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = open_image(saved(COLOUR, "PNG", icc_profile=profile), "x")
    assert found.info == {"icc_profile": profile} and np.array_equal(found, COLOUR)
    assert not open_image(saved(COLOUR.convert("L"), "PNG", icc_profile=profile), "x").info
    inks = profile[:16] + b"CMYK" + profile[20:]
    assert not open_image(saved(COLOUR.convert("CMYK"), "TIFF", icc_profile=inks), "x").info


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("exif", [b"Exif\0\0rubbish!", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0"])
def test_broken_exif_does_not_cost_the_picture(exif):
    """EXIF that cannot be read is as none."""
    found = open_image(saved(COLOUR, "JPEG", exif=exif), "x")
    assert found.size == COLOUR.size and not found.info


def _gif() -> io.BytesIO:
    return saved(COLOUR, "GIF")


def _frames(file_format: str) -> io.BytesIO:
    return saved(COLOUR, file_format, save_all=True, append_images=[COLOUR.transpose(Image.Transpose.ROTATE_180)])


def _huge_webp() -> io.BytesIO:
    """A WebP that says that it is 32,768 x 32,768 pixels."""
    file = saved(COLOUR, "WEBP", save_all=True, append_images=[Image.new("RGB", COLOUR.size)])
    file.getbuffer()[24:30] = b"\xff\x7f\0" * 2
    return file


BAD = {
    "empty file": (io.BytesIO(), "empty file"),
    "text": (io.BytesIO(b"hello, I am no image at all"), "not an image"),
    "one byte": (io.BytesIO(b"x"), "not an image"),
    "GIF": (_gif(), "GIF, by its first bytes, is not taken; convert it to JPEG, PNG, WebP, BMP, TIFF"),
    "JPEG 2000": (saved(COLOUR, "JPEG2000"), "JPEG2000, by its first bytes, is not taken; convert"),
    "animated PNG": (_frames("PNG"), "2 pictures in one PNG; give each a file of its own"),
    "animated WebP": (_frames("WEBP"), "2 pictures in one WebP"),
    "pages": (_frames("TIFF"), "2 pictures in one TIFF"),
    "float": (saved(Image.new("F", (2, 2), 0.5), "TIFF"), "floating point; save it with 8 or 16 bits"),
    "32 bits": (saved(Image.new("I", (2, 2), 65536), "TIFF"), "values from 65536 to 65536; save it with 8 bits"),
    "signed": (saved(Image.new("I", (2, 2), -1), "TIFF"), "values from -1 to -1"),
    # 50 KB that would become 400 MB
    "bomb": (
        png(20_000, 20_000, 1, 0, bytes(20_000 * 2501)),
        "20000 x 20000 pixels, more than data.max_megapixels = 100 allows; raise it, or make the image smaller",
    ),
    "WebP beyond Pillow": (_huge_webp(), "Image size (1073741824 pixels) exceeds limit"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_told_in_one_line(name):
    """The line names the file, says what is wrong, and the way out where there is one."""
    file, part = BAD[name]
    with pytest.raises(BrokenImage) as caught:
        open_image(file, "some/x.jpg")
    assert str(caught.value).startswith(f"some/x.jpg: {part}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_cut_file_is_broken(file_format, share):
    """A download that stopped is told, wherever it stopped, and never half a picture."""
    image = Image.fromarray(RNG.integers(0, 256, (60, 60, 3), np.uint8))
    whole = saved(image, file_format).getvalue()
    with pytest.raises(BrokenImage, match=r"^x: [^\n]+$"):
        read(io.BytesIO(whole[: int(share * len(whole))]))


def test_what_cannot_be_opened_is_broken(tmp_path):
    """A missing file and a folder are told by the name that the caller gives, not by a traceback."""
    with pytest.raises(BrokenImage, match=r"^here: no such file$"):
        open_image(tmp_path / "none.png", "here")
    with pytest.raises(BrokenImage, match=r"^here: Is a directory$"):
        open_image(str(tmp_path), "here")


def test_the_limit_is_ours_and_to_the_pixel(monkeypatch):
    """35 pixels are within 35, not within 34; Pillow's own limit neither warns nor raises, but for TIFF, where it is told."""
    with pytest.raises(BrokenImage, match="5 x 7 pixels, more than data.max_megapixels = 3.4e-05 allows"):
        read(saved(COLOUR, "PNG"), 34)
    assert read(saved(COLOUR, "PNG"), 35).shape == (7, 5, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    for file_format in ("PNG", "JPEG", "BMP", "WEBP"):
        assert read(saved(COLOUR, file_format)).shape == (7, 5, 3)
    with pytest.raises(BrokenImage, match="5 x 7 pixels, more than Pillow reads of a TIFF; convert it to PNG"):
        read(saved(COLOUR, "TIFF"))


def test_threads_may_read_at_once(tmp_path):
    """Eight threads on many files of every format give each its own pixels, and Pillow's settings stay."""
    pictures = [Image.fromarray(RNG.integers(0, 256, (30, 20, 3), np.uint8)) for _ in range(40)]
    paths = [tmp_path / f"{number}.{['png', 'tif', 'bmp'][number % 3]}" for number in range(40)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    limit = Image.MAX_IMAGE_PIXELS
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: read(path), paths * 5))
    assert all(np.array_equal(one, picture) for one, picture in zip(found, pictures * 5, strict=True))
    assert limit == Image.MAX_IMAGE_PIXELS
