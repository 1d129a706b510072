"""Compiled programs are kept on disk, so that the next process does not compile them again (JAX's persistent compilation cache)."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform

import jax
from absl import logging

from ne_jax.errors import UserError

_LARGEST = 2 << 30  # bytes; what was used longest ago goes first
_WORTH = 0.05  # seconds; what compiles faster is not kept


def use(folder: str | None) -> None:
    """Keep compiled programs in `folder`; None: where JAX_COMPILATION_CACHE_DIR says, else in the user's cache folder; "": nowhere.

    Each kind of processor has a folder inside: JAX's own keys do not tell processors apart, and a program for another one may add
    in another order, or not run. Only its owner may write there, as what lies there is run.
    Raises UserError if a folder that was asked for cannot be made; without one that was not asked for, programs are compiled anew.
    """
    if folder is None and "JAX_COMPILATION_CACHE_DIR" in os.environ or folder == "":
        jax.config.update("jax_enable_compilation_cache", folder is None)
        return
    place = pathlib.Path(folder or _of_user()) / _processor()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if folder is not None:
            raise UserError(
                f"--compilation_cache={folder}: cannot write ({error.strerror}); give another, or nothing"
            ) from error
        logging.info("%s: %s; compiled programs are not kept", place, error.strerror)
        return
    jax.config.update("jax_compilation_cache_dir", os.fspath(place))
    jax.config.update("jax_compilation_cache_max_size", _LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH)


def _of_user() -> pathlib.Path:
    """XDG's rule; macOS and others do with it too."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "ne_jax" / "compiled"


def _processor() -> str:
    """A name for this kind of processor: its architecture, and a digest of its model and of what it can."""
    told = pathlib.Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else [platform.processor()]
    facts = {line for line in lines if line.split(":")[0].strip() in ("model name", "flags", "Features", "CPU part")}
    return f"{platform.machine()}-{hashlib.sha256(' '.join(sorted(facts)).encode()).hexdigest()[:12]}"
