"""Files that unpack to gigabytes, lie about their length, or are no such files."""

from __future__ import annotations

import io
import itertools
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

GIB = 1 << 30


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, colour: int = 0, *, before: bytes = b"", after: bytes = b"", inflated: int = 0
) -> bytes:
    """A PNG of zeros; `inflated`: bytes that its data unpack to, whatever its head says."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    packer, parts = zlib.compressobj(9), []
    left = inflated or height * (width * (3 if colour == 2 else 1) + 1)
    while left:
        parts.append(packer.compress(bytes(min(left, 1 << 24))))
        left -= min(left, 1 << 24)
    data = b"".join([*parts, packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + before + head + after + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _npz(**members: Any) -> Callable[[], bytes]:
    """Arrays, or the bytes of a member; `method`: how they are packed."""
    method = members.pop("method", zipfile.ZIP_STORED)

    def make() -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, value in members.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    for part in [value] if isinstance(value, bytes) else value() if callable(value) else [_npy(value)]:
                        member.write(part)
        return buffer.getvalue()

    return make


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _head(text: str, version: bytes = b"\x01\x00") -> bytes:
    data = text.encode() + b"\n"
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(data))
    return b"\x93NUMPY" + version + size + data


def _says(shape: Any, descr: str = "'<f4'", order: bool = False) -> bytes:
    return _head(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}")


def _zeros(head: bytes, size: int) -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.chain([head], (bytes(1 << 24) for _ in range(size >> 24)))


ONE, NAME = np.zeros((1, 112, 112, 1), np.float32), np.array(["a"])
_N = 1 << 18
NPZ: dict[str, Callable[[], bytes]] = {
    "inflates to 1 GiB of images": _npz(
        names=_zeros(_says(f"({GIB // (4 * 112 * 112)},)", "'<U1'"), 1 << 24), method=zipfile.ZIP_DEFLATED,
        images=_zeros(_says(f"({GIB // (4 * 112 * 112)}, 112, 112, 1)"), GIB),
    ),
    "inflates to 1 GiB of names": _npz(names=_zeros(_says(f"({_N // 2},)", "'<U2048'"), GIB), images=ONE, method=zipfile.ZIP_DEFLATED),
    "long names": _npz(names=_zeros(_says("(1,)", "'<U250000000'"), GIB), images=ONE, method=zipfile.ZIP_DEFLATED),
    "packed by bzip2": _npz(names=NAME, images=_zeros(_says("(1, 112, 112, 1)"), GIB // 8), method=zipfile.ZIP_BZIP2),
    "packed by lzma": _npz(names=NAME, images=_zeros(_says("(1, 112, 112, 1)"), GIB // 8), method=zipfile.ZIP_LZMA),
    "shape larger than its data": _npz(names=NAME, images=_says("(1, 112, 112, 1)") + b"1234"),
    "shape of a billion": _npz(names=_says("(1000000000,)", "'<U1'"), images=_says("(1000000000, 112, 112, 1)")),
    "shape of 10 ** 30": _npz(names=_says(f"({10**30},)", "'<U1'"), images=_says(f"({10**30}, 112, 112, 1)")),
    "negative shape": _npz(names=_says("(-1,)", "'<U1'"), images=_says("(-1, 112, 112, 1)")),
    "a shape that is a text": _npz(names=NAME, images=_says("'abcd'")),
    "no shape": _npz(names=NAME, images=_says("()")),
    "objects": _npz(names=NAME, images=_says("(1, 112, 112, 1)", "'|O'") + b"cos\nsystem\n(S'true'\ntR."),
    "names are objects": _npz(names=np.array(["a"], object), images=ONE),
    "names are numbers": _npz(names=np.zeros(1), images=ONE),
    "names beyond Unicode": _npz(names=_says("(1,)", "'<U1'") + b"\xff\xff\xff\xff", images=ONE),
    "records": _npz(names=NAME, images=_says("(1, 112, 112, 1)", "[('a', '<f4'), ('b', '<f8', (1000000,))]")),
    "Fortran's order": _npz(names=NAME, images=_says("(1, 112, 112, 1)", order=True) + ONE.tobytes()),
    "another byte order": _npz(names=NAME, images=ONE.astype(">f4")),
    "a head of nested brackets": _npz(names=NAME, images=_head("(" * 900 + ")" * 900)),
    "a head of minus signs": _npz(names=NAME, images=_head("-" * 900 + "1")),
    "a head of 60,000 characters": _npz(names=NAME, images=_head("[" * 60_000)),
    "a head of 4 GB": _npz(names=NAME, images=b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"{" * 100),
    "a version of the future": _npz(names=NAME, images=b"\x93NUMPY\x09\x09aaaa"),
    "no arrays": _npz(names=b"", images=b""),
    "one array": _npz(images=ONE),
    "not finite": _npz(names=NAME, images=ONE + np.float32(np.nan)),
    "infinite": _npz(names=NAME, images=ONE + np.float32(np.inf)),
    "the largest float": _npz(names=NAME, images=ONE + np.finfo(np.float32).max),
    "more images than the release": _npz(names=np.array(list("abcdefgh")), images=np.zeros((8, 112, 112, 1), np.float32)),
    "no zip": lambda: b"PK\x03\x04" + b"a" * 100,
    "half a zip": lambda: _npz(names=NAME, images=ONE)()[:4000],
    "a wrong checksum": lambda: _npz(names=NAME, images=ONE)().replace(bytes(64), b"1" * 64, 1),
    "a list of members of 100 MB": lambda: bytes(100_000_000) + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, 99_000_000, 0, 0),
    "a list of members of 4 GB": lambda: bytes(100) + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, 0xFFFFFFF0, 0, 0),
}  # fmt: skip


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _member(name: str = "a.png", size: int = 0, **fields: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def _raw(member: tarfile.TarInfo, data: bytes = b"", form: int = tarfile.GNU_FORMAT) -> bytes:
    made = member.tobuf(form) + data
    made += bytes(-len(made) % 512) + bytes(1024)
    return made + bytes(-len(made) % tarfile.RECORDSIZE)


def _gnu_sparse(size: int) -> bytes:
    """A member of `size` bytes, all of them a hole, as GNU tar had it."""
    head = bytearray(_member(type=tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    head[386:398] = b"%011o\0" % 0
    head[398:410] = b"%011o\0" % 0
    head[483:495] = b"\x80" + size.to_bytes(11, "big")
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 256 + sum(head[156:512]))
    made = bytes(head) + bytes(1024)
    return made + bytes(-len(made) % tarfile.RECORDSIZE)


def _links(kind: bytes) -> bytes:
    return _raw(_member(type=kind, linkname="/etc/passwd"))


def _many(count: int) -> bytes:
    one = _raw(_member("a.png", 70), png(112, 112)[:70])[:1024]
    return one * count + bytes(-1024 * count % tarfile.RECORDSIZE)


TARS: dict[str, Callable[[], bytes]] = {
    "a sparse member of 6 GB": lambda: _gnu_sparse(6 * 10**9),
    "a sparse member by PAX": lambda: _tar(
        (_member(pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(6 * 10**9),
                              "GNU.sparse.name": "a.png"}, size=512), b"1\n0\n0\n".ljust(512, b"\0"))
    ),
    "a sparse map of 40 MB": lambda: _tar(
        (_member(pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}, size=20_000_000),
         b"9999999\n" + b"1\n" * 9_999_996)
    ),
    "a million members": lambda: _many(1_000_000 // 16),
    "a member of 6 GB that ends": lambda: _raw(_member(size=6 * 10**9), b"\x89PNG"),
    "a name of 8 GB": lambda: _raw(_member("././@LongLink", 8 * 10**9, type=tarfile.GNUTYPE_LONGNAME)),
    "a PAX head of 6 GB": lambda: _raw(_member("pax", 6 * 10**9, type=tarfile.XHDTYPE)),
    "a PAX head of 1 MB": lambda: _tar((_member(pax_headers={"comment": "a" * 1_000_000}), b"")),
    "PAX heads in PAX heads": lambda: (_member("p", 0, type=tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT) * 4000)[: 200 * tarfile.RECORDSIZE],
    "a PAX size that is negative": lambda: _tar((_member(pax_headers={"size": "-1024"}), b"")),
    "a negative size": lambda: _raw(_member(size=-512)),
    "a link": lambda: _links(tarfile.SYMTYPE),
    "a hard link": lambda: _links(tarfile.LNKTYPE),
    "a device": lambda: _links(tarfile.CHRTYPE),
    "a pipe": lambda: _links(tarfile.FIFOTYPE),
    "a folder": lambda: _links(tarfile.DIRTYPE),
    "a member that leads out": lambda: _tar((_member("../../x.png", 4), b"\x89PNG")),
    "a name with line breaks": lambda: _tar((_member("a\n\x1b[2J\x00b.png", 4), b"\x89PNG")),
    "a member that is a bomb": lambda: _tar((_member(size=len(BOMB)), BOMB)),
    "an empty member": lambda: _tar((_member(), b"")),
    "no tar": lambda: b"no tar at all".ljust(tarfile.RECORDSIZE, b"\0"),
    "zeros": lambda: bytes(tarfile.RECORDSIZE),
    "noise": lambda: random.Random(1).randbytes(tarfile.RECORDSIZE),
}  # fmt: skip

BOMB = png(65_000, 65_000, inflated=1 << 24)
PNGS: dict[str, Callable[[], bytes]] = {
    "65,000 x 65,000": lambda: BOMB,
    "2 ** 31 squared": lambda: png(2**31 - 1, 2**31 - 1, inflated=1 << 20),
    "12,000 x 12,000": lambda: png(12_000, 12_000, inflated=1 << 20),
    "right size, 1 GiB of data": lambda: png(112, 112, inflated=GIB),
    "two heads": lambda: png(112, 112, after=_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))),
    "a head after another": lambda: png(112, 112, before=_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))),
    "a text of 1 GiB": lambda: png(112, 112, after=_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(GIB // 4)))),
    "a profile of 1 GiB": lambda: png(112, 112, after=_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(GIB // 4)))),
    "a thousand texts": lambda: png(112, 112, after=_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000))) * 1000),
    "a chunk of 4 GB": lambda: png(112, 112)[:33] + b"\xff\xff\xff\xffIDAT",
    "no data": lambda: png(112, 112)[:40],
    "a wrong checksum": lambda: png(112, 112)[:-20] + b"\0" * 20,
    "0 x 0": lambda: png(0, 0, inflated=10),
    "colour type 9": lambda: png(112, 112, 9),
    "an EPS file": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 112 112\n",
    "a TIFF of loops": lambda: b"II*\0\x08\0\0\0\xff\xff" + b"\0\0\0\0\x08\0\0\0" * 100,
}  # fmt: skip
