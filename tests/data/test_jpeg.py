"""JPEG: whole files give libjpeg's pixels, damaged ones are told, and strange but whole ones are not taken for damaged."""

import io
import itertools
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from ne_jax.data import jpeg
from ne_jax.data.images import BrokenImage, open_image
from tests.photos import photographs

END = b"\xff\xd9"
ADVICE = "; fetch it again, or save it anew if it looks whole"
OPTIONS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "rows": {"restart_marker_rows": 1},
    "optimised": {"optimize": True},
}


def saved(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def photo(mode: str = "RGB", size: tuple[int, int] = (301, 203)) -> Image.Image:
    return photographs()[4].resize(size).convert(mode)


def read(data: bytes) -> np.ndarray:
    return np.asarray(open_image(io.BytesIO(data), "x"))


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def refused(data: bytes) -> str:
    with pytest.raises(BrokenImage) as caught:
        read(data)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("x: ")


def segment(data: bytes, wanted: int) -> tuple[int, int]:
    """Where the first segment of that marker starts and ends."""
    return next((start, end) for marker, start, end in jpeg._segments(data) if marker == wanted)


def changed(data: bytes, place: int, content: bytes) -> bytes:
    return data[:place] + content + data[place + len(content) :]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_whole_files_give_the_pixels_of_pillow_and_opencv(mode, options):
    """Bit for bit, in odd sizes, every sampling of the colours and quality; the inks of CMYK are Pillow's."""
    samplings = ["4:4:4"] if mode == "CMYK" else ["4:4:4", "4:2:2", "4:2:0"]
    for size, sampling, quality in itertools.product([(1, 1), (17, 9), (301, 203)], samplings, [20, 95]):
        data = saved(photo(mode, size), quality=quality, subsampling=sampling, **OPTIONS[options])
        found = read(data)
        np.testing.assert_array_equal(found, by_pillow(data))
        if mode != "CMYK":
            other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(found, other if mode == "L" else other[..., ::-1])


def test_colours_that_are_stored_as_rgb_stay():
    """A JPEG whose three components are red, green and blue."""
    data = saved(photo(), keep_rgb=True, quality=95)
    np.testing.assert_array_equal(read(data), by_pillow(data))
    assert np.abs(read(data).astype(int) - np.asarray(photo())).mean() < 3


@pytest.mark.parametrize("transform", [0, 2])
def test_inks_may_be_stored_as_luma_and_chroma(transform):
    """CMYK and YCCK, as Adobe's remark says it: Pillow's colours, and checked for damage."""
    data = saved(photo("CMYK"), quality=90)
    data = changed(data, data.index(b"Adobe") + 11, bytes((transform,)))
    np.testing.assert_array_equal(read(data), by_pillow(data))
    assert refused(data[: len(data) // 2] + END) == "a damaged JPEG (premature end of data segment)" + ADVICE


def one_scan_each(planes: list[Image.Image]) -> tuple[bytes, list[int]]:
    """A sequential JPEG in which each component has a scan of its own, and where these scans start."""
    files = [saved(plane) for plane in planes]
    frame, end = segment(files[0], 0xC0)
    scan = segment(files[0], 0xDA)[0]
    components = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    data = (
        files[0][:frame] + b"\xff\xc0\0\x11" + files[0][frame + 4 : frame + 9] + b"\3" + components + files[0][end:scan]
    )
    places = []
    for number, file in enumerate(files, start=1):
        places.append(len(data))
        data += b"\xff\xda\0\x08\x01" + bytes((number, 0)) + b"\0\x3f\0" + file[segment(file, 0xDA)[1] : -2]
    return data + END, places


def test_components_may_have_a_scan_each():
    """Read as Pillow reads it; cut between two scans, which libjpeg takes for whole and shows without colours, it is told."""
    data, scans = one_scan_each(list(photo("YCbCr").split()))
    np.testing.assert_array_equal(read(data), by_pillow(data))
    assert np.abs(read(data).astype(int) - np.asarray(photo())).mean() < 5
    for place in scans[1:]:
        assert by_pillow(data[:place] + END).shape == (203, 301, 3)
        assert refused(data[:place] + END) == "a damaged JPEG (its last scans are missing)" + ADVICE


def test_a_progressive_file_that_lacks_scans_is_told():
    """Cut between any two scans, it is a coarser picture without a warning of libjpeg; all of them are needed."""
    data = saved(photo(), progressive=True)
    scans = [start for marker, start, _ in jpeg._segments(data) if marker == 0xDA]
    assert len(scans) == 10
    for place in scans[1:]:
        tables = max(end for marker, _, end in jpeg._segments(data[:place]) if marker != 0xC4)
        assert "its last scans are missing" in refused(data[:place] + END) and tables <= place
    read(data)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_file_that_was_cut_and_ended_is_told(mode, options):
    """Wherever the data stop, with the mark of their end, which Pillow decodes to grey rows; and without it."""
    data = saved(photo(mode), **OPTIONS[options])
    first = segment(data, 0xDA)[1]
    for place in np.linspace(first + 2, len(data) - 40, 12).astype(int):
        assert by_pillow(data[:place] + END).shape[:2] == (203, 301)
        assert refused(data[:place] + END).startswith("a damaged JPEG (")
        assert refused(data[:place] + END).endswith(ADVICE)
        refused(data[:place])


GARBAGE = bytes(range(1, 41))
DAMAGE = {
    "garbage before the frame": lambda data, scan: (
        data[: segment(data, 0xDB)[0]] + GARBAGE + data[segment(data, 0xDB)[0] :]
    ),
    "garbage before the end": lambda data, scan: data[:-2] + GARBAGE + END,
    "the second half lost": lambda data, scan: data[: (scan + len(data)) // 2] + END,
    "the second half zeros": lambda data, scan: changed(
        data, (scan + len(data)) // 2, bytes((len(data) - scan) // 2 - 2)
    ),
    "half as high": lambda data, scan: changed(data, segment(data, 0xC0)[0] + 5, struct.pack(">H", 101)),
    "twice as high": lambda data, scan: changed(data, segment(data, 0xC0)[0] + 5, struct.pack(">H", 406)),
}


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_and_not_shown(name, mode):
    """Much overwritten, lost or put in: Pillow gives a picture without a word, here the file is broken with libjpeg's."""
    data = saved(photo(mode), quality=90)
    damaged = DAMAGE[name](data, segment(data, 0xDA)[1])
    assert by_pillow(damaged).shape[1] == 301
    assert refused(damaged).startswith("a damaged JPEG (") and refused(damaged).endswith(ADVICE)


@pytest.mark.parametrize("options", ["baseline", "progressive", "restarts"])
def test_most_overwritten_data_are_told(options):
    """JPEG has no checksum: what was overwritten and gives as many blocks as before cannot be told. Of pieces of 512 bytes nearly all
    are; of holes of zeros, which are good code to libjpeg, all in a file of one scan."""
    generator, data = np.random.default_rng(0), saved(photo(), quality=90, **OPTIONS[options])
    scan, told = segment(data, 0xDA)[1], {}
    for name, piece in (
        ("random", lambda: generator.bytes(512)),
        ("zeros", lambda: bytes(512)),
        ("ones", lambda: b"\xff" * 512),
    ):
        told[name] = 0
        for place in np.linspace(scan, len(data) - 514, 100).astype(int):
            try:
                read(changed(data, place, piece()))
            except BrokenImage:
                told[name] += 1
    assert told["random"] >= 95 and told["ones"] >= 95
    assert told["zeros"] >= (80 if options == "progressive" else 100)


def test_even_pictures_have_zeros_that_are_no_holes():
    """Codes made for one even picture may be zeros throughout; what follows the picture may be anything."""
    for mode, options in itertools.product(("L", "RGB"), OPTIONS.values()):
        for size, optimize in itertools.product(((64, 64), (3000, 2000)), (False, True)):
            data = saved(Image.new(mode, size, "gray"), **{**options, "optimize": optimize}) + bytes(999)
            np.testing.assert_array_equal(read(data), by_pillow(data))
    assert bytes(64) in saved(Image.new("L", (3000, 2000), "gray"), optimize=True)


def _remarked(data: bytes, marker: int, content: bytes) -> bytes:
    return data[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content + data[2:]


STRANGE = {
    "a film behind it": lambda data: data + b"\0\0\0\x18ftypmp42" + bytes(5000),
    "another picture behind it": lambda data: data + saved(photo(size=(40, 30))),
    "a cut picture behind it": lambda data: data + saved(photo())[:3000],
    "text behind it": lambda data: data + b"\r\n-- boundary --",
    "filling before the end": lambda data: data[:-2] + b"\xff" * 9 + END,
    "filling before the frame": lambda data: (
        data[: segment(data, 0xDB)[0]] + b"\xff" * 9 + data[segment(data, 0xDB)[0] :]
    ),
    "a few zeros before the end": lambda data: data[:-2] + bytes(2) + END,
    "JFIF of the future": lambda data: changed(data, data.index(b"JFIF\0") + 5, b"\7"),
    "a remark that holds a picture": lambda data: _remarked(data, 0xEA, saved(photo(size=(40, 30)))[:2000]),
    "a damaged profile": lambda data: _remarked(data, 0xE2, b"ICC_PROFILE\0\x09\x02" + bytes(50)),
    "numbers of a scan left zero": lambda data: changed(data, segment(data, 0xDA)[1] - 3, bytes(3)),
    "and a film behind it": lambda data: changed(data, segment(data, 0xDA)[1] - 3, bytes(3)) + bytes(999),
}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", STRANGE)
def test_what_is_strange_but_whole_is_read(name, mode):
    """What follows the picture, fills it up or is said about it costs nothing: the pixels are those of the plain file."""
    data = saved(photo(mode))
    np.testing.assert_array_equal(read(STRANGE[name](data)), by_pillow(data))


@pytest.mark.parametrize("name", ["JFIF of the future", "numbers of a scan left zero"])
def test_strange_and_damaged_is_told(name):
    """libjpeg tells its first warning only: the harmless one does not hide the other."""
    data = STRANGE[name](saved(photo()))
    assert refused(data[: len(data) // 2] + END) == "a damaged JPEG (premature end of data segment)" + ADVICE


def frame(marker: int, bits: int = 8) -> bytes:
    data = saved(photo())
    start = segment(data, 0xC0)[0]
    return changed(data, start, bytes((0xFF, marker))) if bits == 8 else changed(data, start + 4, bytes((bits,)))


WAY_OUT = "; save it as an ordinary JPEG of 8 bits, or as PNG"
KINDS = {
    "arithmetic": (frame(0xC9), "a JPEG that is arithmetic-coded" + WAY_OUT),
    "arithmetic and progressive": (frame(0xCA), "a JPEG that is arithmetic-coded" + WAY_OUT),
    "lossless": (frame(0xC3), "a JPEG that is lossless" + WAY_OUT),
    "hierarchical": (frame(0xC5), "a JPEG that is hierarchical" + WAY_OUT),
    "12 bits": (frame(0xC0, 12), "a JPEG of 12 bits" + WAY_OUT),
    "2 bits": (frame(0xC0, 2), "a JPEG of 2 bits" + WAY_OUT),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_that_are_not_taken_are_named(name):
    """Among them arithmetic coding, in which libjpeg does not see that data are missing."""
    data, told = KINDS[name]
    assert refused(data) == told


def test_a_sampling_that_cannot_be_checked_is_named():
    """Four by two lumas for one colour, or two by two cyans for one of the other inks: libjpeg reads it, the strict decoder does not."""
    data = saved(photo(), subsampling="4:2:0")
    start = segment(data, 0xC0)[0]
    assert data[start + 11] == 0x22
    told = "a JPEG with an unusual sampling of colours, which cannot be checked for damage; save it anew"
    assert refused(changed(data, start + 11, b"\x42")) == told
    assert refused(saved(photo("CMYK"), subsampling="4:2:0")) == told


def test_extended_is_read_as_baseline():
    """SOF1 with 8 bits is the same picture."""
    np.testing.assert_array_equal(read(frame(0xC1)), by_pillow(saved(photo())))


def test_any_damage_is_one_line_or_a_picture_of_its_size():
    """Bytes changed at random: no other exception, no other size."""
    generator, data = np.random.default_rng(0), saved(photo(), quality=90)
    for _ in range(200):
        damaged = changed(data, int(generator.integers(2, len(data) - 9)), generator.bytes(3))
        try:
            open_image(io.BytesIO(damaged), "x", max_pixels=10**6)
        except BrokenImage as error:
            assert str(error).startswith("x: ") and "\n" not in str(error)


def test_sides_are_those_of_the_first_frame():
    """Width and height, pixels; a file in which Pillow reads another frame than libjpeg is told, and nothing of another size decoded."""
    data = saved(photo())
    assert jpeg.sides(data) == (301, 203)
    start, end = segment(data, 0xC0)
    second = changed(data[start:end], 5, struct.pack(">HH", 20_000, 20_000))
    for twice in (data[:start] + second + data[start:], data[:end] + second + data[end:]):
        with pytest.raises(BrokenImage, match=r"^x: [^\n]+$"):
            open_image(io.BytesIO(twice), "x", max_pixels=10**6)
    with pytest.raises(ValueError, match="it ends before its picture begins"):
        jpeg.sides(data[:40] + END)


def test_long_fillings_take_no_time():
    """A million bytes of filling are looked at once."""
    data = saved(photo())
    np.testing.assert_array_equal(read(data[:2] + b"\xff" * 10**6 + data[2:]), by_pillow(data))
    refused(data[:2] + b"\xff" * 10**6 + b"\0" + data[2:])
