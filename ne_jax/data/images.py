"""The one rule from any image file to an upright picture of 8 bits, grey or RGB, for folders, tars and prepared sets alike.

    formats      JPEG, PNG, WebP, BMP and TIFF, one picture a file. Of a JPEG with several (MPO, as phones write it), the first.
                 `jpeg` says which kinds of JPEG are taken, `tiff` which of TIFF; the others are refused by name
    damage       a picture that is not whole is broken: cut files of any format, PNG by its checksums, JPEG by what its decoder warns
                 of, inside TIFF too. The others have no checksums: what was overwritten in them without a trace is not seen
    orientation  as EXIF says
    bits         grey of 12 and 16 bits, and of 32 within 0..65535: value / 4095 or / 65535, times 255, rounded. Colour of 16 bits: the
                 upper byte, which is all that Pillow gives. Grey of 1, 2 and 4 bits: 0 to 255 in even steps. Floating point is refused
    colour       palettes, CMYK, YCbCr and LAB become RGB, as Pillow and libtiff convert them. ICC profiles are not applied: pixels stay
                 as stored. Of a TIFF in which zero is white, white is 255
    alpha        laid on white
    metadata     `info` holds at most "exif" (bytes, without what the pixels now say, the orientation, and without what may show
                 the picture itself, the thumbnail and the maker's note; nothing from TIFF, where EXIF is the file's own structure)
                 and "icc_profile" (bytes, where it is one of the pixels' colours)

Too large is what has more pixels than the caller allows; a TIFF also above Pillow's own limit (89 million), a WebP above twice
that. Nothing global is changed, so threads may share the rule.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Callable

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ne_jax.data import jpeg, tiff

MAX_PIXELS = 100_000_000

# Not Image.open, which warns, or raises, at a limit of its own, and the same for the whole process.
_READERS: dict[str, Callable[[io.BufferedIOBase], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": tiff.open_tiff,
}
_MOST_BYTES = 2**30  # of a JPEG file, with what follows the picture
# What Pillow raises for broken files: seen with a million of them, damaged at random.
_FAULTS = (
    OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, EOFError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAKER_NOTE = 0x927C


class BrokenImage(Exception):
    """One image cannot be read. The run goes on without it and counts it (contract 7)."""


def open_image(file: str | os.PathLike | io.BufferedIOBase, label: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in `file`, a path or an open binary file, by this module's rule: mode "L" or "RGB", in memory, no file held.

    label: what to call it in the one line of BrokenImage. max_pixels: an image of more is refused before it is decoded.
    """
    try:
        with open(file, "rb") if isinstance(file, str | os.PathLike) else contextlib.nullcontext(file) as opened:
            return _read(opened, label, max_pixels)
    except FileNotFoundError as error:
        raise BrokenImage(f"{label}: no such file") from error
    except _FAULTS as error:
        raise BrokenImage(f"{label}: {_reason(error)}") from error


def is_image(file: str | os.PathLike) -> bool:
    """Whether a file begins as one of the formats that are taken; whether the rest is whole is not looked at."""
    try:
        with open(file, "rb") as opened:
            return bool(_format(opened, ""))
    except (BrokenImage, OSError):
        return False


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__


def _read(file: io.BufferedIOBase, label: str, max_pixels: int) -> Image.Image:
    reader = _format(file, label)
    if reader == "JPEG":
        data = file.read(_MOST_BYTES)
        jpeg.sides(data)  # raises for kinds that are not taken
        file = io.BytesIO(data)
    image = _READERS[reader](file)
    _check_size(image, reader, label, max_pixels)
    decoded = _decoded(file, reader, image)
    orientation, exif = _orientation(image), _exif(image)  # after it is decoded, when Pillow has turned a TIFF itself
    profile = image.info.get("icc_profile") or b""  # None where its parts do not fit
    picture = _eight_bits(decoded, label)
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    fitting = profile if profile[16:20] == {"L": b"GRAY", "RGB": b"RGB "}[picture.mode] else b""
    kept = {"exif": exif, "icc_profile": fitting}
    picture.info = {name: value for name, value in kept.items() if value}
    return picture


def _format(file: io.BufferedIOBase, label: str) -> str:
    """The name of the format, one of `_READERS`."""
    prefix = file.read(16)
    file.seek(0)
    if not prefix:
        raise BrokenImage(f"{label}: empty file")
    for name in _READERS:
        if Image.OPEN[name.upper()][1](prefix):
            return name
    Image.init()
    for name, (_, accept) in Image.OPEN.items():
        if accept and accept(prefix.ljust(16, b"\0")):  # some look further than a short file goes
            raise BrokenImage(f"{label}: {name}, by its first bytes, is not taken; convert it to {', '.join(_READERS)}")
    raise BrokenImage(f"{label}: not an image")


def _check_size(image: Image.Image, reader: str, label: str, max_pixels: int) -> None:
    """Before anything is decoded."""
    width, height = image.size
    if width * height > max_pixels:
        raise BrokenImage(
            f"{label}: {width} x {height} pixels, more than data.max_megapixels = {max_pixels / 1e6:g} allows; raise it, or "
            "make the image smaller"
        )
    if reader == "TIFF" and width * height > (Image.MAX_IMAGE_PIXELS or max_pixels):
        raise BrokenImage(f"{label}: {width} x {height} pixels, more than Pillow reads of a TIFF; convert it to PNG")
    if getattr(image, "n_frames", 1) > 1:
        raise BrokenImage(f"{label}: {image.n_frames} pictures in one {reader}; give each a file of its own")


def _decoded(file: io.BufferedIOBase, reader: str, image: ImageFile.ImageFile) -> Image.Image:
    if reader == "JPEG":
        return jpeg.decode(file.getvalue(), image)
    if reader == "TIFF":
        tiff.load(file, image)
        return image
    if reader == "PNG" and "transparency" in image.info:
        _put_right(image)
    image.load()
    return image


def _put_right(image: PngImagePlugin.PngImageFile) -> None:
    """The transparent colour of a PNG, which Pillow compares as it is stored with pixels that it has made 8 bits of."""
    bits = image.tile[0].args
    if bits == "RGB;16B":
        raise ValueError(
            "a PNG with a transparent colour of 16 bits, which is not read; save it with alpha, or with 8 bits"
        )
    image.info["transparency"] *= {"L;2": 85, "L;4": 17}.get(bits, 1)


def _orientation(image: Image.Image) -> int:
    """By EXIF, or XMP; 1, as stored, where they say none or cannot be read: the picture is whole without them."""
    try:
        return image.getexif().pop(ExifTags.Base.Orientation, 1)
    except _FAULTS:
        return 1


def _exif(image: Image.Image) -> bytes:
    """What else EXIF says; nothing if it cannot be read."""
    if "exif" not in image.info:
        return b""
    try:
        exif = image.getexif()
        if ExifTags.IFD.Exif in exif:
            exif.get_ifd(ExifTags.IFD.Exif).pop(_MAKER_NOTE, None)
        return exif.tobytes() if len(exif) else b""  # written anew, which leaves the thumbnail out
    except _FAULTS:
        return b""


def _eight_bits(image: Image.Image, label: str) -> Image.Image:
    if image.mode == "F":
        raise BrokenImage(f"{label}: floating point; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _from_integers(image, label)
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.mode == "La":  # which Pillow does not lay on anything
        image = image.convert("LA")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if type(image) is Image.Image and image.mode == mode else image.convert(mode)  # and let its file go


def _from_integers(image: Image.Image, label: str) -> Image.Image:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        values, white = tiff.integers(image)
    else:
        values, white = np.asarray(image), 65535
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > white:
        raise BrokenImage(f"{label}: values from {low} to {high}; save it with 8 bits, or with 16 and no sign")
    levels = (510 * np.arange(white + 1) + white) // (2 * white)  # value / white * 255, rounded
    grey = levels.astype(np.uint8)[values]
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey)
