"""Files of a release that a stranger made: no name leads out of it, nothing but ordinary files is opened, and nothing that is larger than
what its manifest tells of can be."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

from ne_jax.files import digest_of
from ne_jax.release.reasons import Reason, Unreadable

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_STEP = r"(?!\.\.?(?:/|\Z))[^/\0" + (r"\\:" if os.name == "nt" else "") + "]+"  # of a path: not "." and not ".."
_PLAIN = re.compile(f"{_STEP}(?:/{_STEP})*")
_MIB = 1 << 20
_FILE_REST = 16 * _MIB  # bytes of a file beside its images: headers, padding, names
_IMAGE_REST = _MIB  # bytes of an image beside its pixels, on average: EXIF and colour profile
_WITH_HOLES = 256 * _MIB  # bytes from which on a file may not consist of holes
MOST_SURPLUS = 10_000  # files that are no part of a release, and are listed


class Limits(NamedTuple):
    """What follows from a manifest. images: of the release. image_bytes: of the numbers of one."""

    images: int
    image_bytes: int

    def file_bytes(self, images: int) -> int:
        """Most bytes of a file with so many images: a packer that finds nothing to pack adds little, and twice as much is given."""
        return images * (2 * self.image_bytes + _IMAGE_REST) + _FILE_REST

    @property
    def release_bytes(self) -> int:
        """Most bytes of all files together."""
        return self.file_bytes(self.images) + 16 * _FILE_REST


def leads_out(relative: str) -> bool:
    """Whether a name is not the plain way from a folder to a file in it: absolute, through "..", or written in more than one way."""
    return _PLAIN.fullmatch(relative) is None


def look(folder: pathlib.Path, relative: str) -> os.stat_result:
    """What an ordinary file of the folder is. Raises Unreadable for anything else: a name that leads out, a link on the way, a pipe or
    device, nothing."""
    found = _found(os.fspath(folder) + os.sep, relative, _fault_above)
    if isinstance(found, Reason):
        raise Unreadable(found)
    return found


def _found(place: str, relative: str, fault_above: Callable[[str, str], Reason | None]) -> os.stat_result | Reason:
    if leads_out(relative):
        return Reason("outside")
    found = fault_above(place, relative.rpartition("/")[0]) or _lstat(place + relative)
    return found if isinstance(found, Reason) else _no_file(found) or found


def _fault_above(place: str, folder: str) -> Reason | None:
    """Why nothing that is in a folder below `place` is to be opened; None: it may be."""
    for end in (index for index, letter in enumerate(folder + "/") if letter == "/" and folder):
        if isinstance(found := _lstat(place + folder[:end]), Reason):
            return found
    return None


def _lstat(path: str) -> os.stat_result | Reason:
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Reason("missing")
    except OSError as error:
        return Reason("unreadable", (error.strerror,))
    return Reason("a link") if stat.S_ISLNK(found.st_mode) else found


def _no_file(found: os.stat_result) -> Reason | None:
    if stat.S_ISREG(found.st_mode):
        return None
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    return Reason("no file", (kind,)) if kind else Reason("missing")


def open_inside(folder: pathlib.Path, relative: str) -> BinaryIO:
    """An ordinary file of the folder, to read. Raises Unreadable for anything else. Never waits for a pipe."""
    look(folder, relative)
    try:
        file = open(os.path.join(folder, relative), "rb", opener=_opener)  # noqa: SIM115  the caller closes it
    except OSError as error:
        raise Unreadable(Reason("unreadable", (error.strerror,))) from error
    if fault := _no_file(os.fstat(file.fileno())):  # another may have taken its place since
        file.close()
        raise Unreadable(fault)
    return file


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def read_inside(folder: pathlib.Path, relative: str, most: int) -> bytes:
    """The bytes of a file of the folder. Raises Unreadable for one of more than `most` bytes, and as `open_inside`."""
    with open_inside(folder, relative) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise Unreadable(Reason("too large", (most,)))
    return data


def sha256_inside(folder: pathlib.Path, relative: str) -> str:
    """SHA-256 of a file of the folder, hexadecimal. Raises Unreadable as `open_inside`."""
    with open_inside(folder, relative) as file:
        return digest_of(file)


def survey(
    folder: pathlib.Path, files: Iterable[str], limits: Limits, images_of: Callable[[str], int]
) -> dict[str, Reason]:
    """Which files of a release are not to be read, and why, by what they are and how large. images_of: how many images a file may hold."""
    faults, total = {}, 0
    place, above = os.fspath(folder) + os.sep, functools.lru_cache(1024)(_fault_above)
    kept: dict[Reason, Reason] = {}  # one of each: a million lines may name files that are not there
    for relative in files:
        found = _found(place, relative, above)
        if isinstance(found, Reason):
            faults[relative] = kept.setdefault(found, found)
            continue
        most = limits.file_bytes(images_of(relative))
        if found.st_size > most:
            faults[relative] = Reason("too large", (most,))
        elif _is_hollow(folder / relative, found):
            faults[relative] = Reason("hollow")
        elif (total := total + found.st_size) > limits.release_bytes:
            faults[relative] = Reason("too much", (limits.release_bytes, limits.images))
    return faults


def _is_hollow(path: pathlib.Path, found: os.stat_result) -> bool:
    """Whether a large file takes next to no disk: its size costs whoever made it nothing, and whoever reads it much. NEs are noise, of
    which no file system makes holes. One that cannot tell says that there are none."""
    if found.st_size < _WITH_HOLES or getattr(found, "st_blocks", found.st_size) * 512 > found.st_size // 8:
        return False
    try:
        with open(path, "rb", opener=_opener) as file:
            return os.lseek(file.fileno(), 0, os.SEEK_HOLE) < found.st_size
    except (OSError, AttributeError):
        return False


def surplus(folder: pathlib.Path, known: Callable[[str], bool]) -> Iterator[str]:
    """Files of the folder that are not known, links to folders among them, by relative path; 10,001 at most. No link is followed."""
    waiting, count = [""], 0
    while waiting and count <= MOST_SURPLUS:
        inside = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, inside)) as entries:
                for entry in entries:
                    relative = f"{inside}/{entry.name}" if inside else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(relative)
                    elif not known(relative):
                        yield relative
                        count += 1
                        if count > MOST_SURPLUS:
                            break
        except OSError:  # a folder that may not be looked into, or whose path is longer than the system allows
            if inside:
                yield inside
                count += 1
