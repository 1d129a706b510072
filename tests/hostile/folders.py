"""Folders that harm whoever verifies them, by what is wrong."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from array_record.python import array_record_module

from ne_jax.release.manifest import MANIFEST, SUMS
from tests.hostile.contents import GIB, NPZ, PNGS, TARS
from tests.hostile.forged import forge, reseal

BAIT = "bait.txt"  # beside the release: nothing that lies there is opened


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


def _forged(relative: str, data: Callable[[], bytes] | bytes, **entries: Any) -> Callable[[pathlib.Path], None]:
    """A file with other content, under sums and manifest that say so."""

    def make(folder: pathlib.Path) -> None:
        (folder / relative).write_bytes(data() if callable(data) else data)
        forge(folder, **entries)

    return make


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
