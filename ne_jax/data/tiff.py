"""TIFF files, by their tags: what Pillow decodes wrongly is put right or refused by name, and the rest is left to it.

taken      grey of 1, 2, 4, 8, 12, 16 and 32 bits, white or black at zero; palettes; RGB and CMYK of 8 and 16 bits, YCbCr and LAB
           of 8; with alpha or other extra samples; samples together or in planes, strips or tiles, either byte order, BigTIFF;
           uncompressed, CCITT, LZW, Deflate, PackBits, LZMA, Zstandard or JPEG, which is checked for damage
refused    camera raws, a reduced picture of a larger one in the file, masks, floating point, colour or 8 bits with a sign, other
           compressions, inks that are not CMYK, and whatever Pillow does not know
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
from jaxtyping import Integer
from PIL import TiffImagePlugin
from PIL.ExifTags import Base as Tag

from ne_jax.data import jpeg

_WHITE_AT_ZERO, _PALETTE, _MASK, _CMYK, _YCBCR = 0, 3, 4, 5, 6
_ONE_COLOUR = (_WHITE_AT_ZERO, 1, _PALETTE)
_COLOURS = dict(
    enumerate(("white at zero", "black at zero", "RGB", "palette", "mask", "CMYK", "YCbCr", "", "LAB", "ICC LAB"))
)
_SENSORS = (32803, 34892)  # what a camera's sensor saw, before its colours were worked out
_SIGNS = {1: "without a sign", 2: "with a sign", 3: "of floating point"}
_UNCOMPRESSED, _JPEG = 1, 7
_TAKEN = (_UNCOMPRESSED, 2, 3, 4, 5, _JPEG, 8, 32773, 32946, 34925, 50000)
_OTHER = 32771  # a compression of which Pillow knows no more than that libtiff can read it
_FULL_RANGE = (0, 255, 128, 255, 128, 255)
_ITU_R_601 = (0.299, 0.587, 0.114)
_REDUCED = (
    "a reduced picture of a larger one in the file, as camera raws have it; save the full one as a file of its own"
)
_SUB_FILES = 16  # more are not looked at


class _Tiff(TiffImagePlugin.TiffImageFile):
    """Pillow's reader, which is shown the tags so that it does not get them wrong. inverted: whether zero is white in what it gives."""

    inverted = False

    def _setup(self) -> None:
        if reason := _refusal(self.tag_v2):
            raise ValueError(reason)
        described = _described(self.tag_v2)
        self.inverted = _put_right(self.tag_v2)
        try:
            super()._setup()
        except (SyntaxError, LookupError) as error:
            raise ValueError(f"a TIFF {described}, which is not read; save it with 8 bits, or as PNG") from error


def open_tiff(file: io.BufferedIOBase) -> TiffImagePlugin.TiffImageFile:
    """The first picture of a TIFF, not yet decoded. Raises ValueError, which says what it is, for what is not taken."""
    if file.read(4) == b"MM\0+":
        raise ValueError("a big-endian BigTIFF, which is not read; save it as an ordinary TIFF, or as PNG")
    file.seek(0)
    image = _Tiff(file)
    if lost := _numbers(file, image.tag_v2) & set(Tag) - set(image.tag_v2):
        raise ValueError(
            f"a TIFF whose tags are damaged ({', '.join(sorted(Tag(tag).name for tag in lost))}); save it anew"
        )
    for offset in _values(image.tag_v2, Tag.SubIFDs)[:_SUB_FILES]:
        if _pixels(_tags_at(file, offset)) > _pixels(image.tag_v2):
            raise ValueError(_REDUCED)
    return image


def load(file: io.BufferedIOBase, image: TiffImagePlugin.TiffImageFile) -> None:
    """Decode what `open_tiff` gave. Raises ValueError for a JPEG inside that is damaged or not taken."""
    if image.tag_v2.get(Tag.Compression) == _JPEG:
        for data in _jpegs(file, image.tag_v2):
            jpeg.refuse(data)
            jpeg.check(data)
    image.load()


def integers(image: TiffImagePlugin.TiffImageFile) -> tuple[Integer[np.ndarray, "height width"], int]:
    """The values of a decoded picture of mode "I" or "I;16", black at zero, and which one is white."""
    bits, sign = _first(image.tag_v2, Tag.BitsPerSample, 1), _first(image.tag_v2, Tag.SampleFormat, 1)
    values, white = np.asarray(image), 4095 if bits == 12 else 65535
    if (bits, sign) == (32, 1):
        values = values.view(np.uint32)  # Pillow has signed integers only
    return (white - values if image.inverted else values), white


def _refusal(tags: Mapping[int, Any]) -> str:
    """Why not to take a picture with these tags, or ""."""
    photometric, kind = tags.get(Tag.PhotometricInterpretation), tags.get(Tag.NewSubfileType, 0)
    if kind & 1 or tags.get(Tag.SubfileType) == 2:
        return _REDUCED
    if photometric in _SENSORS or Tag.DNGVersion in tags:
        return "a camera raw; develop it, and save it as JPEG, PNG or TIFF"
    if kind & 4 or photometric == _MASK:
        return "a transparency mask and not a picture; save the picture as a file of its own"
    if photometric is None:
        return "a TIFF without the tag that says what its numbers mean, photometric interpretation; save it anew"
    if tags.get(Tag.Compression, _UNCOMPRESSED) not in _TAKEN:
        return (
            f"a TIFF of compression {tags[Tag.Compression]}, which is not taken; save it with LZW or Deflate, or as PNG"
        )
    if photometric == _CMYK and _first(tags, Tag.InkSet, 1) != 1:
        return "a TIFF of inks that are not CMYK; save it as RGB"
    packed = tags.get(Tag.Compression, _UNCOMPRESSED) != _UNCOMPRESSED or tags.get(Tag.FillOrder, 1) == 2
    if _first(tags, Tag.SampleFormat, 1) == 2 and (_first(tags, Tag.BitsPerSample, 1) == 8 or packed):
        return f"a TIFF {_described(tags)}, {'packed, ' * packed}which is not taken; save it without a sign"
    planes_apart = tags.get(Tag.PlanarConfiguration, 1) == 2
    if (
        planes_apart and photometric in _ONE_COLOUR and any(_values(tags, Tag.ExtraSamples))
    ):  # Pillow takes one for the other
        return f"a TIFF {_described(tags)}, alpha in a plane of its own, which is not taken; save it with the samples together"
    return ""


def _put_right(tags: MutableMapping[int, Any]) -> bool:
    """Change `tags`, from which Pillow chooses how to read, where it would choose wrongly; libtiff has the file's own. Returns whether
    the values that it reads are then inverted."""
    photometric = tags[Tag.PhotometricInterpretation]
    if _first(tags, Tag.SamplesPerPixel, 1) == 1:
        tags[Tag.PlanarConfiguration] = 1  # of a single plane Pillow forgets how it is packed
    if tags.get(Tag.Compression, _UNCOMPRESSED) == _UNCOMPRESSED and _needs_libtiff(tags):
        tags[Tag.Compression] = _OTHER
    tags[Tag.FillOrder] = 1  # libtiff turns bits that are the other way round
    if (
        photometric == _PALETTE and max(tags[TiffImagePlugin.COLORMAP]) < 256
    ):  # levels of 8 bits instead of 16, as libtiff sees it
        tags[TiffImagePlugin.COLORMAP] = tuple(257 * level for level in tags[TiffImagePlugin.COLORMAP])
    deep = _first(tags, Tag.BitsPerSample, 1) in (12, 16) and _first(tags, Tag.SampleFormat, 1) == 1
    if inverted := photometric == _WHITE_AT_ZERO and deep:
        tags[Tag.PhotometricInterpretation] = 1  # which Pillow knows, and takes the other for
    return inverted


def _needs_libtiff(tags: Mapping[int, Any]) -> bool:
    """Whether Pillow's own way of reading uncompressed pixels is wrong: it takes planes of 16 bits for planes of 8, does not turn
    every kind of bits, and takes YCbCr for one colour a pixel, of full range, by ITU-R 601."""
    if tags.get(Tag.FillOrder, 1) == 2 or tags.get(Tag.PlanarConfiguration, 1) == 2:
        return True
    if tags[Tag.PhotometricInterpretation] != _YCBCR:
        return False
    found = [_values(tags, tag) for tag in (Tag.YCbCrSubSampling, Tag.YCbCrCoefficients, Tag.ReferenceBlackWhite)]
    plain = ((1, 1), _ITU_R_601, _FULL_RANGE)
    return not found[0] or any(
        one and not np.allclose(np.array(one, float), two) for one, two in zip(found, plain, strict=True)
    )


def _values(tags: Mapping[int, Any], tag: int) -> tuple:
    """The values of `tag`; none if it is not there."""
    value = tags.get(tag, ())
    return value if isinstance(value, tuple) else (value,)


def _first(tags: Mapping[int, Any], tag: int, default: int) -> int:
    return (*_values(tags, tag), default)[0]


def _described(tags: Mapping[int, Any]) -> str:
    bits = " + ".join(map(str, _values(tags, Tag.BitsPerSample) or (1,)))
    sign = _SIGNS.get(_first(tags, Tag.SampleFormat, 1), "of another format")
    number = tags.get(Tag.PhotometricInterpretation)
    extra = f", {len(_values(tags, Tag.ExtraSamples))} of them extra" if Tag.ExtraSamples in tags else ""
    order = {b"II": "little", b"MM": "big"}.get(getattr(tags, "prefix", b""), "unknown")
    return f"of {bits} bits {sign}{extra}, {_COLOURS.get(number) or f'colours number {number}'}, {order}-endian"


def _pixels(tags: Mapping[int, Any]) -> int:
    return tags.get(Tag.ImageWidth, 0) * tags.get(Tag.ImageLength, 0)


def _numbers(file: io.BufferedIOBase, tags: TiffImagePlugin.ImageFileDirectory_v2) -> set[int]:
    """Which tags there are in the file. Pillow leaves out, with a warning, those whose values it cannot reach."""
    file.seek(2)
    order = "<" if tags.prefix == b"II" else ">"
    count, entry = ("Q", 20) if 43 in file.read(2) else ("H", 12)
    file.seek(tags.offset)
    (length,) = struct.unpack(order + count, file.read(struct.calcsize(count)))
    table = file.read(entry * length)
    return {struct.unpack_from(f"{order}H", table, place)[0] for place in range(0, len(table) - 1, entry)}


def _tags_at(file: io.BufferedIOBase, offset: int) -> Mapping[int, Any]:
    """The tags of another picture in the file."""
    file.seek(0)
    start = file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(start + file.read(8) if start[2] == 43 else start)
    file.seek(offset)
    tags.load(file)
    return tags


def _jpegs(file: io.BufferedIOBase, tags: Mapping[int, Any]) -> Iterator[bytes]:
    """Each strip or tile as a JPEG of its own, with the tables that all of them share."""
    tables = tags.get(TiffImagePlugin.JPEGTABLES, b"")[:-2]  # without the mark of their end
    for offsets, sizes in ((Tag.StripOffsets, Tag.StripByteCounts), (Tag.TileOffsets, Tag.TileByteCounts)):
        for offset, size in zip(_values(tags, offsets), _values(tags, sizes), strict=True):
            file.seek(offset)
            data = file.read(size)
            yield tables + data[2:] if tables else data
