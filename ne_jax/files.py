"""Bytes: files that appear whole or not at all, their hashes, JSON, and work done ahead in threads."""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import GenericAlias
from typing import Any, BinaryIO, TypeVar

import msgspec
import numpy as np

from ne_jax.errors import UserError

# What stops a file -> our words, and the way out.
_STOPPED = {
    errno.ENOSPC: ("no space left on the device", "free some"),
    errno.EDQUOT: ("no disk quota left", "free some"),
    errno.EFBIG: ("larger than a file may be here", "allow larger files, or set smaller shards,"),
    errno.EROFS: ("read-only file system", "make it writable"),
    errno.EACCES: ("permission denied", "make it writable"),
}
_UNDER_WAY: set[pathlib.Path] = set()  # what `write_file` fills now, in any thread


def write_file(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> str:
    """Let `write` fill PATH.partial, and put that under its name when it is whole. Gives the SHA-256.

    Raises UserError where the file cannot be written, with the reason. What was written until then is removed; after a kill it
    stays as PATH.partial, and the next run writes that anew.
    """
    partial = path.with_name(path.name + ".partial")
    _UNDER_WAY.add(partial)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        digest = sha256(partial)
        os.replace(partial, path)
    except OSError as error:
        reason, way_out = _STOPPED.get(error.errno, (error.strerror or str(error), "put that right"))
        raise UserError(
            f"{reason} while writing {path}; {way_out} and give the same command again: what is written is kept"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        _UNDER_WAY.discard(partial)
    return digest


def abandon() -> None:
    """Remove what is half-written now, for a process that ends at once: its threads must not go on."""
    for partial in list(_UNDER_WAY):
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_atomic(path: pathlib.Path, data: bytes | str) -> str:
    """`write_file` with `data` for content, text in UTF-8."""
    content = data.encode() if isinstance(data, str) else data
    return write_file(path, lambda partial: partial.write_bytes(content))


def line(error: BaseException) -> str:
    """What an error of another package says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


_THREADS = min(8, os.cpu_count() or 1)


R = TypeVar("R")


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written as JSON and read back by the same class: its fields and their types are the one schema of the file.

    Fields keep the order of their definition. One that is absent and not null has the type `... | UnsetType` and the default UNSET.
    Subclasses say kw_only=True too, which is not inherited.
    """

    def to_json(self) -> dict[str, Any]:
        """Dicts, lists and plain numbers, for `write_json` and `json.dumps`."""
        return msgspec.to_builtins(self, enc_hook=_plain)

    @classmethod
    def from_json(cls: type[R], value: Any, place: str) -> R:
        """The record in `value`. Raises UserError that names `place` and the field that is missing, surplus or of another type."""
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise UserError(f"{place}: {told(error)}") from error


def told(error: msgspec.MsgspecError) -> str:
    """What msgspec says of a value, with the field first: "psnr_db: expected `float`, got `str`"."""
    what, _, where = str(error).partition(" - at `$")
    field = where.rstrip("`").lstrip(".")
    what = what if what.startswith("JSON") else what[:1].lower() + what[1:]
    return f"{field}: {what}" if field else what


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"{type(value).__name__} has no place in a record")


def _dumped(value: Any, indent: int | None) -> str:
    return json.dumps(msgspec.to_builtins(value, enc_hook=_plain), indent=indent, allow_nan=False)


def write_json(path: pathlib.Path, value: Any) -> None:
    """`value`, a Record or what may stand in one, as indented JSON, atomic. NaN and infinity are refused: they are no JSON."""
    write_atomic(path, json_text(value))


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    return _dumped(value, 1) + "\n"


def write_json_lines(path: pathlib.Path, rows: Iterable[Record]) -> None:
    """A record a line, atomic."""
    write_atomic(path, "".join(_dumped(row, None) + "\n" for row in rows))


def read_json(path: pathlib.Path, kind: type[R] | GenericAlias) -> R:
    """The record, or list or dict of records, of a JSON file. Raises UserError that names the file and the field that is wrong."""
    return _decoded(path.read_bytes(), kind, str(path))


def read_json_lines(path: pathlib.Path, kind: type[R]) -> list[R]:
    """The records of a file of JSON lines; empty lines are passed over. Raises UserError that names the line and the field."""
    lines = enumerate(path.read_bytes().splitlines(), 1)
    return [_decoded(line, kind, f"{path} line {number}") for number, line in lines if line.strip()]


def _decoded(data: bytes, kind: type[R] | GenericAlias, place: str) -> R:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{place}: {told(error)}") from error
    except msgspec.DecodeError as error:
        raise UserError(f"{place}: no JSON ({told(error)})") from error


def finite(values: Iterable) -> list[float | None]:
    """Numbers as JSON has them: None for NaN and infinity, such as the PSNR of an image that was left as it is."""
    return [float(value) if np.isfinite(value) else None for value in values]


def ahead(function: Callable, items: Iterable, count: int) -> Iterator:
    """function(item) of each item, in order, with `count` more under way in threads."""
    waiting: collections.deque[Future] = collections.deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return digest_of(file)


def digest_of(file: BinaryIO) -> str:
    """SHA-256 of what an open file still holds, hexadecimal."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(files: Sequence[pathlib.Path]) -> str:
    """SHA-256 of a file; of the files' hashes, in order, if there are several. Hexadecimal."""
    hashes = [sha256(path) for path in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
