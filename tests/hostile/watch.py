"""What a verify opens, takes and tells."""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import numpy as np

from ne_jax.errors import UserError
from ne_jax.models.model import Model
from ne_jax.release import verify
from ne_jax.release.verdict import describe


class Seen(NamedTuple):
    """What a verify did. told: its verdict, or the line of its refusal. outside: files and folders that it opened and that are not the
    release's. seconds: of processors, of all threads; waited: by the clock, which other programs make longer. mebibytes: memory that
    it took at most, beyond what the process had."""

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
    ctypes.CDLL(None).malloc_trim(0)  # what is free already would hide what is taken
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
