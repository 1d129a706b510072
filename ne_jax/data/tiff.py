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
_SUB_FILES, _MOST_TAGS = 16, 4096  # more are not looked at
_SHORT = 3  # the kind of numbers of 16 bits
_DECISIVE = {  # tags without which a picture would be another one
    Tag.NewSubfileType, Tag.SubfileType, Tag.ImageWidth, Tag.ImageLength, Tag.BitsPerSample, Tag.Compression,
    Tag.PhotometricInterpretation, Tag.FillOrder, Tag.StripOffsets, Tag.Orientation, Tag.SamplesPerPixel, Tag.RowsPerStrip,
    Tag.StripByteCounts, Tag.PlanarConfiguration, Tag.Predictor, Tag.ColorMap, Tag.TileWidth, Tag.TileLength, Tag.TileOffsets,
    Tag.TileByteCounts, Tag.InkSet, Tag.ExtraSamples, Tag.SampleFormat, Tag.JPEGTables, Tag.YCbCrCoefficients,
    Tag.YCbCrSubSampling, Tag.ReferenceBlackWhite,
}  # fmt: skip


class _Tiff(TiffImagePlugin.TiffImageFile):
    """Pillow's reader, which is shown the tags so that it does not get them wrong. inverted: whether zero is white in what it gives."""

    inverted = False

    def _setup(self) -> None:
        if self.tell():
            return  # a further picture, which is only counted
        there = {tag for tag, (_, count, _) in _entries(self.fp, self.tag_v2, self.tag_v2.offset).items() if count}
        if lost := sorted(
            there & _DECISIVE - set(self.tag_v2)
        ):  # Pillow warns of values that it cannot reach, and goes on without
            raise ValueError(
                f"a TIFF whose tags are damaged ({', '.join(Tag(tag).name for tag in lost)}); save it anew"
            )
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
    for offset in _below(file, image.tag_v2)[:_SUB_FILES]:
        sides = _entries(file, image.tag_v2, offset)
        width, height = (sides[tag][2] if tag in sides else 0 for tag in (Tag.ImageWidth, Tag.ImageLength))
        if width * height > image.width * image.height:
            raise ValueError(_REDUCED)
    return image


def load(file: io.BufferedIOBase, image: TiffImagePlugin.TiffImageFile) -> None:
    """Decode what `open_tiff` gave. Raises ValueError for a JPEG inside that is damaged or not taken."""
    if image.tag_v2.get(Tag.Compression) == _JPEG:
        most = max(image.size + _values(image.tag_v2, Tag.TileWidth) + _values(image.tag_v2, Tag.TileLength))
        for data in _jpegs(file, image.tag_v2):
            if max(jpeg.sides(data)) > most:
                raise ValueError("a TIFF with a JPEG inside that is larger than its picture; save it anew")
            jpeg.check(data)
    image.load()


def integers(image: TiffImagePlugin.TiffImageFile) -> tuple[Integer[np.ndarray, "height width"], int]:
    """The values of a decoded picture of mode "I" or "I;16", black at zero, and which one is white."""
    bits, sign = _first(image.tag_v2, Tag.BitsPerSample, 1), _first(image.tag_v2, Tag.SampleFormat, 1)
    values, white = np.asarray(image), 4095 if bits == 12 else 65535
    if (bits, sign) == (32, 1):
        values = values.view(np.uint32)  # Pillow has signed integers only
    return (white - values if image.inverted else values), white


def _refusal(tags: TiffImagePlugin.ImageFileDirectory_v2) -> str:
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
    if _first(tags, Tag.SampleFormat, 1) == 2:
        through_libtiff = tags.get(Tag.Compression, _UNCOMPRESSED) != _UNCOMPRESSED or tags.get(Tag.FillOrder, 1) == 2
        turned = (
            through_libtiff and tags.prefix == b"MM"
        )  # libtiff gives the bytes of numbers in another order than Pillow awaits
        if turned or _first(tags, Tag.BitsPerSample, 1) == 8:  # and these it takes for numbers without a sign
            return f"a TIFF {_described(tags)}, {'packed, ' * turned}which is not taken; save it without a sign"
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
    if photometric == _PALETTE and max(tags[Tag.ColorMap]) < 256:  # levels of 8 bits instead of 16, as libtiff sees it
        tags[Tag.ColorMap] = tuple(257 * level for level in tags[Tag.ColorMap])
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


def _described(tags: TiffImagePlugin.ImageFileDirectory_v2) -> str:
    bits = " + ".join(map(str, _values(tags, Tag.BitsPerSample) or (1,)))
    sign = _SIGNS.get(_first(tags, Tag.SampleFormat, 1), "of another format")
    number = tags.get(Tag.PhotometricInterpretation)
    extra = f", {len(_values(tags, Tag.ExtraSamples))} of them extra" if Tag.ExtraSamples in tags else ""
    order = "little" if tags.prefix == b"II" else "big"
    return f"of {bits} bits {sign}{extra}, {_COLOURS.get(number) or f'colours number {number}'}, {order}-endian"


def _entries(
    file: io.BufferedIOBase, tags: TiffImagePlugin.ImageFileDirectory_v2, offset: int
) -> dict[int, tuple[int, int, int]]:
    """The tags that are at `offset` of the file, with kind, count and first value (or where the values are), as they stand there."""
    file.seek(2)
    order, big = "<" if tags.prefix == b"II" else ">", 43 in file.read(2)
    length, entry = struct.Struct(f"{order}{'Q' if big else 'H'}"), struct.Struct(f"{order}HH{'QQ' if big else 'II'}")
    file.seek(offset)
    (count,) = length.unpack(file.read(length.size))
    table = file.read(entry.size * min(count, _MOST_TAGS))
    found = {}
    for place in range(0, len(table) - entry.size + 1, entry.size):
        tag, kind, count, value = entry.unpack_from(table, place)
        if kind == _SHORT:
            (value,) = struct.unpack_from(f"{order}H", table, place + (12 if big else 8))
        found[tag] = (kind, count, value)
    return found


def _below(file: io.BufferedIOBase, tags: TiffImagePlugin.ImageFileDirectory_v2) -> tuple[int, ...]:
    """Where the tags of the pictures below the first one are."""
    _, count, value = _entries(file, tags, tags.offset).get(Tag.SubIFDs, (0, 0, 0))
    if not count or Tag.SubIFDs in tags:
        return _values(tags, Tag.SubIFDs)
    if count == 1:  # of BigTIFF's own kind, which Pillow does not know
        return (value,)
    file.seek(value)
    places = np.frombuffer(file.read(8 * min(count, _SUB_FILES)), "<u8" if tags.prefix == b"II" else ">u8")
    return tuple(places.tolist())


def _jpegs(file: io.BufferedIOBase, tags: Mapping[int, Any]) -> Iterator[bytes]:
    """Each strip or tile as a JPEG of its own, with the tables that all of them share."""
    tables = tags.get(Tag.JPEGTables, b"")[:-2]  # without the mark of their end
    sizes = _values(tags, Tag.StripByteCounts) + _values(tags, Tag.TileByteCounts)
    if sum(sizes) > file.seek(0, io.SEEK_END):
        raise ValueError("a TIFF whose tags are damaged: its parts are larger than the file; save it anew")
    for offsets, sizes in ((Tag.StripOffsets, Tag.StripByteCounts), (Tag.TileOffsets, Tag.TileByteCounts)):
        for offset, size in zip(_values(tags, offsets), _values(tags, sizes), strict=True):
            file.seek(offset)
            data = file.read(size)
            yield tables + data[2:] if tables else data
