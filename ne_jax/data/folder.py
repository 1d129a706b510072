"""The files of a folder, of a million as well, and names for images under which no file system mixes two of them up."""

from __future__ import annotations

import collections
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

# Of pictures, whether they are taken or not: a broken one has a class too.
_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif",
    ".jp2", ".jxl", ".ppm", ".pgm", ".pbm", ".dng",
)  # fmt: skip


class Entry(NamedTuple):
    """path: inside the folder, with "/"; ends with "/" for a folder that could not be entered. fault: why not to read it, or ""."""

    path: str
    fault: str


def scan(root: str, follow_links: bool = False) -> Iterator[Entry]:
    """Every file below `root` except hidden ones, in the order of their paths' parts.

    A symbolic link to a file outside of `root`, and any link to a folder, is an entry with a fault. With `follow_links` both are
    followed, but for a link to a folder that it lies in, which would only show the same files again and is left out.
    A name that is no UTF-8, a folder that may not be listed and what is no file (a pipe, say) are entries with a fault too. Raises
    OSError if `root` itself cannot be listed.
    """
    for path, fault in _scan(root, "", follow_links, (os.path.realpath(root),)):
        yield Entry(path, fault or ("" if printable(path) == path else "the name is not UTF-8; rename it"))


def _scan(root: str, inside: str, follow_links: bool, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Entries of the folder `inside`, which ends with "/" if not empty. above: real paths of it and of the folders it lies in."""
    try:
        with os.scandir(os.path.join(root, inside)) as found:
            entries = sorted((entry for entry in found if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        if not inside:
            raise
        yield inside, f"the folder cannot be listed ({error.strerror})"
        return
    for entry in entries:
        path = inside + entry.name
        if entry.is_symlink():
            yield from _link(root, path, follow_links, above)
        elif entry.is_dir():
            yield from _scan(root, f"{path}/", follow_links, (*above, os.path.join(above[-1], entry.name)))
        else:
            yield path, "" if entry.is_file() else "not a file"


def _link(root: str, path: str, follow_links: bool, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    target = os.path.realpath(os.path.join(root, path))
    if os.path.isdir(target):
        if not follow_links:
            yield f"{path}/", "a symbolic link to a folder; copy the folder, or set data.follow_links=True"
        elif target not in above:
            yield from _scan(root, f"{path}/", follow_links, (*above, target))
    elif not os.path.exists(target):
        yield path, "no such file"
    elif not os.path.isfile(target):
        yield path, "not a file"
    elif follow_links or os.path.commonpath((above[0], target)) == above[0]:
        yield path, ""
    else:
        yield path, "a symbolic link out of the folder; copy the file, or set data.follow_links=True"


def classes(paths: Sequence[str], is_image: Callable[[int], bool]) -> list[str] | None:
    """The top folders of `paths` that hold an image, sorted; None where an image lies beside them, so that they are no classes.

    Notes, lists and what an archiver leaves (`__MACOSX`) make no class. An image is known by its name's ending; is_image is asked
    about the file at a place only where no name of its folder tells. A folder that could not be entered may hold some.
    """
    tops = [path.partition("/")[0] if "/" in path else "" for path in paths]
    found = {top for top, path in zip(tops, paths, strict=True) if path.lower().endswith((*_ENDINGS, "/"))}
    for place, top in enumerate(tops):
        if top not in found and is_image(place):
            found.add(top)
    return None if "" in found else sorted(found)


def printable(path: str) -> str:
    """`path` with the bytes that are no UTF-8 written as \\xe9, so that it can be printed and put into JSON."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def unique_names(short: Sequence[str], full: Sequence[str]) -> list[str]:
    """Names as in `short`, but as in `full` where two would be one, and with ~2, ~3 ... added where that is not enough.

    Two are one if they differ only in case or in how Unicode composes their letters, as on the file systems of Windows and macOS;
    and a name is taken if NAME.png is a folder that another name needs.
    """
    names, keys = list(short), [_key(name) for name in short]
    folders = _folders([*short, *full])
    while True:
        times = collections.Counter(keys)
        clashes = [place for place, key in enumerate(keys) if times[key] > 1 or f"{key}.png" in folders]
        longer = [place for place in clashes if names[place] != full[place]]
        if not longer:
            break
        for place in longer:
            names[place], keys[place] = full[place], _key(full[place])
    taken = set(keys) - {keys[place] for place in clashes}
    for place in clashes:
        number = 1
        while keys[place] in taken or f"{keys[place]}.png" in folders:
            number += 1
            names[place] = f"{full[place]}~{number}"
            keys[place] = _key(names[place])
        taken.add(keys[place])
    return names


def _key(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name.casefold())


def _folders(names: Sequence[str]) -> set[str]:
    """Keys of the folders that the names lie in, and of those that these lie in."""
    found = {name.rpartition("/")[0] for name in names}
    todo = list(found)
    for folder in todo:
        parent = folder.rpartition("/")[0]
        if parent not in found:
            found.add(parent)
            todo.append(parent)
    return {_key(folder) for folder in found}
