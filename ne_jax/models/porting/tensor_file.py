"""An opened checkpoint, whatever kind of file it came from, and what all its readers share."""

from __future__ import annotations

import functools
import importlib
import pathlib
import struct
import types
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Float32

from ne_jax.errors import UserError
from ne_jax.files import sha256_of

# What other packages' readers raise for bytes that are cut or changed.
BROKEN = (
    AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError, struct.error,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_WEIGHTS = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)
# What training scripts and compilers put in front of every name.
_WRAPPING = ("module.", "_orig_mod.", "model.")


class TensorFile(NamedTuple):
    """An opened checkpoint.

    files: what its bytes lie in. shapes: tensor's name -> shape. read: name -> the tensor, on the host, float32; safe in threads. It
    raises UserError for numbers of other kinds than floating point, which `read(name, integers=True)` gives as they are: buffers, no
    weights.
    """

    files: tuple[pathlib.Path, ...]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[..., np.ndarray]

    def digest(self) -> Callable[[], str]:
        """SHA-256 of the file (of the files' hashes, in order, if there are several), taken when it is first asked for, because it
        takes as long as reading. It raises UserError if the files were changed in between."""
        known = [_state(path) for path in self.files]

        @functools.cache
        def digest() -> str:
            found = sha256_of(self.files)
            changed = [path for path, state in zip(self.files, known, strict=True) if _state(path) != state]
            if changed:
                raise UserError(f"checkpoint {changed[0]} was changed after it was loaded; load it again")
            return found

        return digest

    def sha256(self) -> str:
        """The digest, taken now."""
        return self.digest()()

    def unwrapped(self) -> TensorFile:
        """Without what data-parallel training, compiling or Lightning put in front of every name."""
        prefix = wrapping(self.shapes)
        if not prefix:
            return self
        shapes = {name.removeprefix(prefix): shape for name, shape in self.shapes.items()}
        return TensorFile(self.files, shapes, lambda name, **how: self.read(prefix + name, **how))


def wrapping(names: Mapping[str, object]) -> str:
    """What stands in front of all of the names and is no part of the network's own; empty for none."""
    prefix = ""
    while names:
        more = [each for each in _WRAPPING if all(name.startswith(prefix + each) for name in names)]
        if not more:
            break
        prefix += more[0]
    return prefix


def _state(path: pathlib.Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def line(error: BaseException) -> str:
    """What an error of another package says, in one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def optional(module: str, package: str, path: pathlib.Path) -> types.ModuleType:
    """The module, which a file of this kind needs. Raises UserError if its package is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"checkpoint {path}: reading it needs {package}; pip install {package}") from error


def as_float32(tensor: np.ndarray, place: str) -> Float32[np.ndarray, "..."]:
    """A tensor of weights. Raises UserError, with its `place`, for one of integers, truth values, complex numbers or the like: no
    network's weights are, so it is mislabelled or another quantity."""
    if tensor.dtype.kind == "V" and tensor.dtype.itemsize == 2:  # NumPy writes bfloat16 as two nameless bytes
        tensor = tensor.view(ml_dtypes.bfloat16)
    if tensor.dtype not in _WEIGHTS:
        raise refused(place, str(tensor.dtype))
    return tensor if tensor.dtype == np.float32 else tensor.astype(np.float32)


def refused(place: str, kind: str) -> UserError:
    """That a tensor of numbers of this kind is no weight."""
    return UserError(f"{place} is of {kind}, and weights are floating point (16, 32 or 64 bits); export it so")
