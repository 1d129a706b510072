"""How much of a file of a release is read at once, and that no file makes its reader take more."""

from __future__ import annotations

import struct
import tarfile
import zipfile
import zlib
from io import BufferedIOBase
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image

from ne_jax.core.pixels import Stored
from ne_jax.release.reasons import Reason, Unreadable

Block = tuple[list[str], Stored]  # names and stored numbers of a few images
# What readers of broken files raise, seen with thousands of them. MemoryError: of Python's parser, for brackets in brackets.
FAULTS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, ArithmeticError, MemoryError, struct.error,
    zlib.error, zipfile.BadZipFile, tarfile.TarError, DecodeError, Image.DecompressionBombError,
)  # fmt: skip
_BLOCK_IMAGES, _BLOCK_BYTES = 64, 1 << 25


class Expected(NamedTuple):
    """What a file must hold: images of `shape`, (height, width, channels), and `dtype`; `most` of them at most."""

    shape: tuple[int, ...]
    dtype: type[np.generic]
    most: int

    @property
    def image_bytes(self) -> int:
        """Of the numbers of an image."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def block(self) -> int:
        """Images that are in memory at once."""
        return max(1, min(_BLOCK_IMAGES, _BLOCK_BYTES // max(1, self.image_bytes)))

    def check(self, count: int) -> None:
        """Raise Unreadable for a file of `count` images if they are more than the whole release has."""
        if count > self.most:
            raise Unreadable(Reason("too many", (self.most,)))


class Budget:
    """An open file that reads `left` bytes and no more, until `left` is set anew; None: any number. Readers of archives believe what a
    file says of its lists' lengths, and would take gigabytes for them. Raises Unreadable."""

    def __init__(self, file: BufferedIOBase, left: int | None) -> None:
        self._file, self.left = file, left

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        if self.left is None:
            return self._file.read(size)
        data = self._file.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        if size > self.left or len(data) > self.left:
            raise Unreadable(Reason("too long a list"))
        self.left -= len(data)
        return data

    def seek(self, *place: int) -> int:
        """As of a file."""
        return self._file.seek(*place)

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell()

    def seekable(self) -> bool:
        """As of a file."""
        return True

    def close(self) -> None:
        """Nothing: whoever opened the file closes it."""
