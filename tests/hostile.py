"""Releases that somebody made to harm whoever verifies them: manifests with something wrong at every place, and folders."""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import itertools
import json
import os
import pathlib
import random
import shutil
import socket
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np
from array_record.python import array_record_module

from ne_jax.errors import UserError
from ne_jax.files import write_json
from ne_jax.models.model import Model
from ne_jax.release import reading, verify, writing
from ne_jax.release.formats import write_index
from ne_jax.release.manifest import MANIFEST, SUMS, build, read_manifest
from ne_jax.release.signature import SIGNATURE
from ne_jax.release.verdict import describe
from tests.pins import OLD_RELEASE

GIB = 1 << 30
BAIT = "bait.txt"  # beside the release: nothing that lies there is opened

# --- Manifests ---

# Whatever may stand where something else is expected; texts of JSON that Python cannot write stand as such.
_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 10**9, 2**31, 2**63, 2**64, -(2**63) - 1, 10**19, 0.5, -0.0, 1e-320, 1e30, -1e308, 1.7e308,
    "", "a", "x" * 5000, "\x1b[2J", "\n", "é\u2028", "../../etc/passwd", "\0", [], {}, [None], [[]], [1, 2, 3], [1e308] * 3,
    [112, 112, 1], [0, 0, 0], [65535, 65535, 65535], [-1, -1, -1], ["a"] * 100, {"a": 1}, {"": {}}, {"@id": "SHA256SUMS"},
    [{"@id": "SHA256SUMS"}],
]  # fmt: skip
_RAW = [
    "NaN", "Infinity", "-Infinity", "1e400", "-1e999", "9" * 400, "-" + "9" * 5000, '"\\ud800"', '"\\udfff\\ud800"', "[" * 100_000,
    '{"a":' * 100_000, "[" * 500 + "]" * 500, "[" * 33 + "]" * 33, '{"a": 1, "a": 2}', "0x1", "01", "1.", "'a'", "nul", "tru", "[1,]",
    "{,}", '"\\x"', '"' + "\\" * 4001, "/* */1", "",
]  # fmt: skip
_MARK = "\ue000here\ue000"


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inside:
        yield from _places(below, (*path, key))


def _put(whole: Any, path: tuple, value: Any) -> Any:
    if not path:
        return value
    whole = copy.deepcopy(whole)
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return whole


def _drop(whole: Any, path: tuple) -> Any:
    whole = copy.deepcopy(whole)
    place = whole
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return whole


def manifests(whole: dict[str, Any]) -> Iterator[bytes]:
    """Manifests with something wrong, without end and always the same: every place in turn with every value, bytes flipped, cut."""
    chance = random.Random(0)
    # The block's own places first and most: nothing reads the context.
    places = [path for path in _places(whole) if path[:1] not in (("@context",), ("recordSet",))]
    data = json.dumps(whole).encode()
    while True:
        path = chance.choice(places)
        kind = chance.random()
        if kind < 0.55:
            yield json.dumps(_put(whole, path, chance.choice(_VALUES)), ensure_ascii=False).encode(errors="replace")
        elif kind < 0.75:
            text = json.dumps(_put(whole, path, _MARK), ensure_ascii=False)
            yield text.replace(json.dumps(_MARK, ensure_ascii=False), chance.choice(_RAW)).encode()
        elif kind < 0.85 and path:
            yield json.dumps(_drop(whole, path)).encode()
        elif kind < 0.95:
            spoilt = bytearray(data)
            for _ in range(chance.choice((1, 1, 2, 8))):
                spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
            yield bytes(spoilt)
        else:
            yield data[: chance.randrange(len(data))] + chance.choice((b"", b"\xff\xfe", b"\0", data))


# --- Folders ---


def honest(folder: pathlib.Path, release_format: str) -> None:
    """The release that the first version made, in any format, under a manifest without a certificate."""
    facts = read_manifest(OLD_RELEASE / "png8")
    ((names, pixels),) = reading.read_release(OLD_RELEASE / "png8", 100)
    shape, images = facts.image_shape, writing.to_stored(pixels, release_format)
    with ThreadPoolExecutor(1) as pool:
        files = writing.write_shard(folder, release_format, 0, 1, names, images, None, pool)
    files |= write_index(folder, release_format, shape, [len(names)], "")
    made = msgspec.structs.replace(facts, format=release_format, certificate=msgspec.UNSET)
    write_json(folder / MANIFEST, build(made, *writing.write_sums(folder, files.items())))


def forge(folder: pathlib.Path, files: Any = None, **entries: Any) -> None:
    """Make SHA256SUMS and the manifest fit: what lies in the folder, or (name, SHA-256) of `files`; and entries of the block "ne"."""
    if files is None:
        found = (
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in (MANIFEST, SUMS, SIGNATURE)
        )
        files = [(str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in found]
    digest, size = writing.write_sums(folder, files)
    reseal(folder, digest, size, **entries)


def reseal(folder: pathlib.Path, digest: str = "", size: int = 0, **entries: Any) -> None:
    """The manifest for a SHA256SUMS as it lies there."""
    whole = json.loads((folder / MANIFEST).read_text())
    whole["distribution"][0] |= {"sha256": digest or hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()}
    whole["ne"] |= entries
    (folder / MANIFEST).write_text(json.dumps(whole))


def named(name: str | bytes, digest: str = "0" * 64) -> Callable[[pathlib.Path], None]:
    """A line of SHA256SUMS more, with any name."""

    def make(folder: pathlib.Path) -> None:
        line = digest.encode() + b"  " + (name if isinstance(name, bytes) else os.fsencode(name)) + b"\n"
        with open(folder / SUMS, "ab") as file:
            file.write(line)
        reseal(folder)

    return make


def swapped(
    make: Callable[[pathlib.Path], Any], relative: str = "images/test/00001.png"
) -> Callable[[pathlib.Path], None]:
    """A file of the release gone, and what `make` puts into its place."""

    def do(folder: pathlib.Path) -> None:
        (folder / relative).unlink()
        make(folder / relative)

    return do


def _to_bait(folder: pathlib.Path) -> pathlib.Path:
    return next(parent for parent in folder.parents if (parent / BAIT).is_file()) / BAIT


def _link(path: pathlib.Path) -> None:
    path.symlink_to(_to_bait(path))


def _linked_folder(folder: pathlib.Path) -> None:
    away = folder.parent / "away"
    shutil.move(folder / "images", away)
    (folder / "images").symlink_to(away)


def _link_inside(folder: pathlib.Path) -> None:
    (folder / "images/test/00001.png").unlink()
    (folder / "images/test/00001.png").symlink_to("00000.png")


def _socket(path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        place = os.getcwd()
        os.chdir(path.parent)  # its whole path may be too long for a socket
        made.bind(path.name)
        os.chdir(place)


def _sparse(size: int, head: bytes = b"") -> Callable[[pathlib.Path], None]:
    def make(path: pathlib.Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(head)
            file.truncate(size)

    return make


def _names_again(folder: pathlib.Path) -> None:
    data = (folder / SUMS).read_bytes()
    (folder / SUMS).write_bytes(data + data)
    reseal(folder)


def _long_line(folder: pathlib.Path) -> None:
    with open(folder / SUMS, "ab") as file:
        file.write(b"0" * 64 + b"  ")
        for _ in range(300):
            file.write(b"a" * 1_000_000)


def _long_lines(count: int, **entries: Any) -> Callable[[pathlib.Path], None]:
    def make(folder: pathlib.Path) -> None:
        with open(folder / SUMS, "ab") as file:
            file.writelines(b"%064x  images/%07d.png\n" % (number, number) for number in range(count))
        reseal(folder, **entries)

    return make


def _surplus(count: int) -> Callable[[pathlib.Path], None]:
    def make(folder: pathlib.Path) -> None:
        for number in range(count):
            (folder / f"{number}.txt").touch()

    return make


def _deep(folder: pathlib.Path) -> None:
    """Folders in folders, beyond what a path may say."""
    place = os.getcwd()
    os.chdir(folder)
    for _ in range(1100):
        os.mkdir("aaa")
        os.chdir("aaa")
    pathlib.Path("file").touch()
    os.chdir(place)


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


def _forged(relative: str, data: Callable[[], bytes] | bytes, **entries: Any) -> Callable[[pathlib.Path], None]:
    """A file with other content, under sums and manifest that say so."""

    def make(folder: pathlib.Path) -> None:
        (folder / relative).write_bytes(data() if callable(data) else data)
        forge(folder, **entries)

    return make


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

RECORD = "ne_release/1.0.0/ne_release-release.array_record-00000-of-00001"


def _records(rows: Callable[[], Iterator[bytes]], options: str = "group_size:1") -> Callable[[pathlib.Path], None]:
    def make(folder: pathlib.Path) -> None:
        writer = array_record_module.ArrayRecordWriter(str(folder / RECORD), options)
        for row in rows():
            writer.write(row)
        writer.close()
        forge(folder)

    return make


def _record_bytes(change: Callable[[bytearray], bytes | bytearray | None]) -> Callable[[pathlib.Path], None]:
    def make(folder: pathlib.Path) -> None:
        data = bytearray((folder / RECORD).read_bytes())
        made = change(data)
        (folder / RECORD).write_bytes(data if made is None else made)
        forge(folder)

    return make


def _claims(place: int, value: int) -> Callable[[bytearray], None]:
    """Eight bytes of the first record's head: 64 is where it begins; stored size, kind and number, unpacked size."""

    def change(data: bytearray) -> None:
        data[64 + place : 72 + place] = struct.pack("<Q", value)

    return change


def _index(name: str, data: bytes) -> Callable[[pathlib.Path], None]:
    return _forged(f"ne_release/1.0.0/{name}", data)


class Hostile(NamedTuple):
    """A folder: of which format, and what is done to a good one."""

    format: str
    make: Callable[[pathlib.Path], Any]


def _each(format: str, relative: str, contents: dict[str, Callable[[], bytes]], **entries: Any) -> dict[str, Hostile]:
    return {f"{format}: {name}": Hostile(format, _forged(relative, data, **entries)) for name, data in contents.items()}


def _claimed(
    format: str, relative: str, contents: dict[str, Callable[[], bytes]], names: tuple[str, ...]
) -> dict[str, Hostile]:
    """Some of them under a manifest that claims a million images."""
    some = _each(format, relative, {name: contents[name] for name in names}, **HUGE)
    return {f"{name}, as claimed": each for name, each in some.items()}


_MIB = 1 << 20
HUGE = {"images": 1_000_000}
FOLDERS: dict[str, Hostile] = {
    **{
        f"sums: {shown}": Hostile("png8", named(name))
        for shown, name in {
            "absolute": "/etc/passwd", "absolute twice": "//etc/passwd", "up": f"../{BAIT}", "up and up": "../" * 40 + "etc/passwd",
            "up in the middle": f"images/../../{BAIT}", "another way": "./images/test/00000.png", "two slashes": "images//test/00000.png",
            "a dot": ".", "two dots": "..", "a slash at its end": "images/", "backslashes": f"..\\\\{BAIT}", "a drive": "C:/x",
            "NUL": b"images/a\0.png", "no text": b"images/\xff\xfe.png", "a long name": "a" * 5000, "a long path": "a/" * 2500 + "a",
            "a device": "/dev/zero", "proc": "/proc/self/mem", "itself": SUMS, "the manifest": MANIFEST, "a tilde": "~/x",
            "escapes": b"images/\x1b[2J.png", "an address": "file:///etc/passwd",
        }.items()
    },
    "a file is a link": Hostile("png8", swapped(_link)),
    "a file is a link to its neighbour": Hostile("png8", _link_inside),
    "a file is a link to a device": Hostile("png8", swapped(lambda path: path.symlink_to("/dev/zero"))),
    "a file is a link to itself": Hostile("png8", swapped(lambda path: path.symlink_to(path.name))),
    "a folder is a link": Hostile("png8", _linked_folder),
    "a file is a pipe": Hostile("png8", swapped(os.mkfifo)),
    "a file is a socket": Hostile("png8", swapped(_socket)),
    "a file is a folder": Hostile("png8", swapped(pathlib.Path.mkdir)),
    "the sums are a link": Hostile("png8", swapped(_link, SUMS)),
    "the sums are a pipe": Hostile("png8", swapped(os.mkfifo, SUMS)),
    "the sums are a device": Hostile("png8", swapped(lambda path: path.symlink_to("/dev/zero"), SUMS)),
    "the manifest is a pipe": Hostile("png8", swapped(os.mkfifo, MANIFEST)),
    "the manifest is a device": Hostile("png8", swapped(lambda path: path.symlink_to("/dev/zero"), MANIFEST)),
    "the manifest is a folder": Hostile("png8", swapped(pathlib.Path.mkdir, MANIFEST)),
    "the manifest has 6 GB": Hostile("png8", swapped(_sparse(6 * GIB), MANIFEST)),
    "the signature is a pipe": Hostile("png8", lambda folder: os.mkfifo(folder / f"{MANIFEST}.sig")),
    "the signature is a link": Hostile("png8", lambda folder: _link(folder / f"{MANIFEST}.sig")),
    "the signature is noise": Hostile("png8", lambda folder: (folder / f"{MANIFEST}.sig").write_bytes(b"\xff" * 3000)),
    "the signature has 6 GB": Hostile("png8", lambda folder: _sparse(6 * GIB)(folder / f"{MANIFEST}.sig")),
    "sums: all names again": Hostile("png8", _names_again),
    "sums: a line of 300 MB": Hostile("png8", _long_line),
    "sums: 6 GB of nothing": Hostile("png8", swapped(_sparse(6 * GIB), SUMS)),
    "sums: a million lines": Hostile("png8", _long_lines(1_000_000)),
    "sums: a million lines, as claimed": Hostile("png8", _long_lines(1_000_000, images=1_000_004)),
    "10,100 files more": Hostile("png8", _surplus(10_100)),
    "folders in folders": Hostile("png8", _deep),
    "a file of 6 GB": Hostile("png8", swapped(_sparse(6 * GIB))),
    "a shard of 6 GB": Hostile("float32", lambda folder: (_sparse(6 * GIB)(folder / "shards/00000.npz"), reseal(folder, **HUGE))),
    "a tar of 6 GB": Hostile("webdataset", lambda folder: (_sparse(6 * GIB)(folder / "shards/00000.tar"), reseal(folder, **HUGE))),
    "100 files of 15 MB": Hostile("png8", lambda folder: (
        [_sparse(15 * _MIB)(folder / f"x/{number}.txt") for number in range(100)],
        forge(folder, [(f"x/{number}.txt", "0" * 64) for number in range(100)]),
    )),
    **_each("png8", "images/test/00001.png", PNGS),
    **_each("float32", "shards/00000.npz", NPZ),
    **_claimed("float32", "shards/00000.npz", NPZ, ("a list of members of 100 MB", "inflates to 1 GiB of images", "shape of a billion")),
    **_each("webdataset", "shards/00000.tar", TARS),
    **_claimed("webdataset", "shards/00000.tar", TARS, ("a million members", "a sparse member of 6 GB", "a PAX head of 6 GB")),
    "array_record: a record of 1 GiB": Hostile("array_record", _records(lambda: iter([bytes(GIB)]))),
    "array_record: a record of 1 GiB, as claimed": Hostile("array_record", lambda folder: (
        _records(lambda: iter([bytes(GIB)]))(folder), reseal(folder, **HUGE))),
    "array_record: many records of 64 MiB": Hostile("array_record", _records(lambda: (bytes(64 * _MIB) for _ in range(16)))),
    "array_record: records in one group": Hostile("array_record", _records(lambda: (bytes(_MIB) for _ in range(512)), "group_size:512")),
    "array_record: 100,000 records": Hostile("array_record", _records(lambda: (b"a" for _ in range(100_000)), "group_size:1000")),
    "array_record: transposed": Hostile("array_record", _records(lambda: (b"\x0a\x02ab" for _ in range(100)), "transpose:true")),
    "array_record: no protobuf": Hostile("array_record", _records(lambda: iter([b"\xff" * 50]))),
    "array_record: an empty protobuf": Hostile("array_record", _records(lambda: iter([b""]))),
    "array_record: half": Hostile("array_record", _record_bytes(lambda data: data[: len(data) // 2])),
    "array_record: its first 30 bytes": Hostile("array_record", _record_bytes(lambda data: data[:30])),
    "array_record: none": Hostile("array_record", _record_bytes(lambda data: b"no array_record" * 10_000)),
    "array_record: noise": Hostile("array_record", _record_bytes(lambda data: random.Random(2).randbytes(200_000))),
    "array_record: unpacks to 2 ** 60": Hostile("array_record", _record_bytes(_claims(32, 2**60))),
    "array_record: 2 ** 50 records": Hostile("array_record", _record_bytes(_claims(24, 2**58 + ord("r")))),
    "array_record: stored size of 2 ** 63": Hostile("array_record", _record_bytes(_claims(8, 2**63))),
    "array_record: stored size of 0": Hostile("array_record", _record_bytes(_claims(8, 0))),
    "array_record: zeros": Hostile("array_record", _record_bytes(lambda data: bytes(len(data)))),
    "TFDS: another number": Hostile("array_record", _index("dataset_info.json", b'{"splits": [{"shardLengths": ["1000000000"]}]}')),
    "TFDS: no JSON": Hostile("array_record", _index("dataset_info.json", b"[" * 100_000)),
    "TFDS: another shape": Hostile("array_record", _index("features.json", b'{"pythonClassName": "os.system"}')),
    "TFDS: empty": Hostile("array_record", _index("features.json", b"")),
    "TFDS: 6 GB": Hostile("array_record", lambda folder: (_sparse(6 * GIB)(folder / "ne_release/1.0.0/features.json"), reseal(folder))),
}  # fmt: skip


# --- What must not happen ---


class Seen(NamedTuple):
    """What a verify did. told: its verdict, or the line of its refusal. outside: files and folders that it opened and that are not the
    release's. seconds: of processors, of all threads, and `waited` by the clock, which other programs make longer. mebibytes: memory that it took at most, beyond what the process had."""

    told: str
    refused: bool
    outside: list[str]
    seconds: float
    waited: float
    mebibytes: float


_WATCHED: list[tuple[str, list[str]]] = []
_hooked: list[bool] = []
# Where Python, packages and compiled programs come from.
_OWN = (
    sys.prefix,
    sys.base_prefix,
    pathlib.Path(np.__file__).parents[1],
    pathlib.Path(verify.__file__).parents[1],
    "/proc",
    "/sys",
)


def _hook(event: str, arguments: tuple) -> None:
    if not _WATCHED or event not in ("open", "os.listdir", "os.scandir"):
        return
    path, (folder, outside) = arguments[0], _WATCHED[-1]
    if isinstance(path, int) or path is None:
        return
    path = os.path.abspath(os.fsdecode(path))
    inside = f"{path}/".startswith(f"{folder}/")
    own = (os.path.realpath(place) for place in (*_OWN, jax.config.jax_compilation_cache_dir or sys.prefix))
    if not _plain(path) if inside else not os.path.realpath(path).startswith(tuple(own)):
        outside.append(path)


@functools.cache
def _plain(path: str) -> bool:
    """Whether neither it nor a folder above it is a link."""
    return path == "/" or (not os.path.islink(path) and _plain(os.path.dirname(path)))


def _status(key: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024


def watched(folder: pathlib.Path, model: Model, batch_size: int = 4) -> Seen:
    """A verify of the folder. Anything but a UserError goes through: it would be a traceback."""
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before, outside, begin = _status("VmRSS"), [], (time.process_time(), time.perf_counter())
    folder = pathlib.Path(os.path.realpath(folder))
    _plain.cache_clear()
    _WATCHED.append((str(folder), outside))
    try:
        told, refused = describe(verify.run(folder, model, None, batch_size)), False
    except UserError as error:
        told, refused = str(error), True
    finally:
        _WATCHED.pop()
    seconds, waited = time.process_time() - begin[0], time.perf_counter() - begin[1]
    return Seen(told, refused, outside, seconds, waited, _status("VmHWM") - before)
