"""JPEG files, read strictly. libjpeg makes of a damaged file what it can, grey where nothing is left, and only warns; Pillow does not
hand its warnings on. Here a warning is an error.

    taken      baseline, extended and progressive, of 8 bits: grey, RGB, YCbCr, CMYK and YCCK, with restart markers or without. What
               follows the end of the picture (a phone's film, further pictures) is not looked at
    refused    12 bits, lossless, hierarchical; arithmetic coding, in which libjpeg sees no damage; a sampling of the colours that
               the strict decoder does not know
    damaged    what libjpeg warns of: data that end too early, codes that do not exist, bytes that belong to nothing. And a picture of
               several scans that lacks some, and holes of zeros. JPEG has no checksum: what was changed into good code that gives
               as many blocks as before cannot be seen

The pixels are libjpeg-turbo's, as Pillow's are, bit for bit.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image, JpegImagePlugin

_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)  # what follows an 0xff, but for data and restarts
_END, _SCAN, _PROGRESSIVE, _CODES = 0xD9, 0xDA, 0xC2, 0xC4
# Two blocks with all the detail there is, which no picture has, unless zeros are the code of a block without any.
_HOLE = bytes(64)
_WITHOUT_LENGTH = (0x01, 0xD8)
_REMARKS = (*range(0xE0, 0xF0), 0xFE)  # APPn and COM
_REFUSED = {
    **dict.fromkeys((0xC3, 0xC7), "lossless"),
    **dict.fromkeys((0xC5, 0xC6), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), "arithmetic-coded"),
}
_FRAMES = (0xC0, 0xC1, _PROGRESSIVE, *_REFUSED)
_TAKEN = "save it as an ordinary JPEG of 8 bits, or as PNG"


def sides(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG, pixels. Raises ValueError, which says what it is, for a kind that is not taken."""
    for marker, start, end in _segments(data):
        if marker in _REFUSED:
            raise ValueError(f"a JPEG that is {_REFUSED[marker]}; {_TAKEN}")
        if marker in _FRAMES and end >= start + 9:
            bits, height, width = struct.unpack_from(">BHH", data.ljust(start + 9, b"\0"), start + 4)
            if bits != 8:
                raise ValueError(f"a JPEG of {bits} bits; {_TAKEN}")
            return width, height
    raise ValueError(_told("it ends before its picture begins"))


def decode(data: bytes, opened: JpegImagePlugin.JpegImageFile) -> Image.Image:
    """The picture in `data`, which Pillow has opened but not decoded: mode "L", "RGB" or "CMYK". Raises ValueError for damage."""
    if sides(data) != opened.size:
        raise ValueError(_told("two sizes in one header"))
    if opened.mode == "CMYK":  # whose inks the two would turn into different numbers
        check(data)
        opened.load()
        return opened
    try:
        pixels = simplejpeg.decode_jpeg(data, {"L": "GRAY", "RGB": "RGB"}[opened.mode])
    except ValueError:
        check(data)  # raises again, unless it was a remark that libjpeg did not like
        opened.load()
        return opened
    _check_scans(data)
    _check_holes(data)
    return Image.fromarray(pixels[..., 0] if opened.mode == "L" else pixels)


def check(data: bytes) -> None:
    """Raise ValueError if a JPEG is damaged. Decodes it to an eighth of its size, a third to four fifths of the work."""
    try:
        simplejpeg.decode_jpeg(_without_remarks(data), "GRAY", min_height=1, min_width=1)
    except ValueError as error:
        raise ValueError(_told(str(error))) from error
    _check_scans(data)
    _check_holes(data)


def _told(reason: str) -> str:
    if "subsampling" in reason:
        return "a JPEG with an unusual sampling of colours, which cannot be checked for damage; save it anew"
    return f"a damaged JPEG ({reason.removeprefix('Corrupt JPEG data: ')}); fetch it again, or save it anew if it looks whole"


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment, from its 0xff to past its last byte. The data of a scan are between two segments."""
    place = 2
    while match := _MARKER.search(data, place):
        marker, place = match[1][0], match.end()
        if marker == _END:
            return
        if marker not in _WITHOUT_LENGTH:
            place += int.from_bytes(data[place : place + 2])
        yield marker, match.start(), place


def _without_remarks(data: bytes) -> bytes:
    """`data` without what libjpeg warns of and what is no damage: an unknown JFIF or Adobe version, a strange profile; and numbers of
    a scan that mean something in progressive files only, which some cameras leave zero."""
    parts, place, progressive = [], 0, False
    for marker, start, end in _segments(data):
        progressive = progressive or marker == _PROGRESSIVE
        if marker in _REMARKS:
            parts.append(data[place:start])
        elif marker == _SCAN and not progressive:
            parts += data[place : end - 3], b"\0\x3f\0"
        else:
            continue
        place = end
    return b"".join((*parts, data[place:]))


def _check_scans(data: bytes) -> None:
    """Raise ValueError if a component, or in a progressive file a bit of a coefficient, is in no scan: the file was cut between two."""
    bits: dict[int, np.ndarray] = {}  # component -> of each coefficient, how many bits are still to come
    progressive = False
    for marker, start, _ in _segments(data):
        if marker in _FRAMES:
            progressive = marker == _PROGRESSIVE
            bits = {number: np.full(64, 16) for number in data[start + 10 : start + 10 + 3 * data[start + 9] : 3]}
        elif marker == _SCAN:
            numbers = start + 5 + 2 * data[start + 4]
            first, last, depth = data[numbers : numbers + 3] if progressive else (0, 63, 0)
            for number in data[start + 5 : numbers : 2]:
                bits[number][first : last + 1] = depth & 15
            if not any(left.any() for left in bits.values()):
                return
    raise ValueError(_told("its last scans are missing"))


def _check_holes(data: bytes) -> None:
    """Raise ValueError for a hole of zeros in the data, as lost sectors and broken downloads leave. To libjpeg it is good code."""
    if _HOLE not in data:
        return
    codes: dict[int, int] = {}  # table of codes for detail -> what zeros say in it
    for marker, start, end in _segments(data):
        if marker == _PROGRESSIVE:
            return
        if marker == _CODES:
            codes.update(_codes_of_zeros(data[start + 4 : end]))
        elif marker == _SCAN and any(codes.get(table & 15) for table in data[start + 6 : end - 3 : 2]):
            following = _MARKER.search(data, end)
            if data.find(_HOLE, end, following.start() if following else len(data)) >= 0:
                raise ValueError(_told("a hole of zeros in its data"))


def _codes_of_zeros(tables: bytes) -> Iterator[tuple[int, int]]:
    """Of each table of codes for detail, its number, and what the shortest code, which is of zeros, says; 0 is that nothing more comes."""
    place = 0
    while place + 17 < len(tables):
        if tables[place] >> 4:
            yield tables[place] & 15, tables[place + 17]
        place += 17 + sum(tables[place + 1 : place + 17])
