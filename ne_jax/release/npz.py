"""NumPy's npz with the arrays `images` (n, H, W, C) and `names`: written whole, read a block at a time, so that memory does not grow with
what a file says that it unpacks to."""

from __future__ import annotations

import pathlib
import sys
import zipfile
from collections.abc import Iterator
from io import BufferedIOBase

import numpy as np

from ne_jax.files import write_file
from ne_jax.release.blocks import Block, Budget, Expected
from ne_jax.release.reasons import Reason, Unreadable

_DIRECTORY = 1 << 20  # bytes of a zip file's list of members; ours has two
_HEADER = 1000  # characters of an array's header; ours have 118
_NAME = 4 * 4096  # bytes of a name, four a character
_PACKED = 100  # bytes that a packed one may stand for
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others unpack without a limit


def write(release: pathlib.Path, shard, num_shards, names, images, metadata, pool) -> dict[str, str]:
    """A shard, as `Format.write` says."""

    def fill(partial: pathlib.Path) -> None:
        with open(partial, "wb") as file:
            np.savez(file, allow_pickle=False, images=images, names=np.array(names, np.str_))

    relative = f"shards/{shard:05d}.npz"
    return {relative: write_file(release / relative, fill)}


def read(file: BufferedIOBase, relative: str, expected: Expected) -> Iterator[Block]:
    """A shard, as `Format.read` says."""
    limited = Budget(file, _DIRECTORY)
    try:
        archive = zipfile.ZipFile(limited)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise Unreadable(Reason("no npz")) from error
    with archive, _member(archive, "names.npy") as names, _member(archive, "images.npy") as images:
        limited.left = None
        if (known := archive.getinfo("images.npy")).file_size > _PACKED * known.compress_size + _DIRECTORY:
            raise ValueError(f"unpacks to more than {_PACKED} times its size, as no noise does")
        (count, *rest), name_type = _header(names)
        shape, dtype = _header(images)
        if rest or name_type.kind != "U" or name_type.itemsize > _NAME:
            raise ValueError(f"names are {name_type} {(count, *rest)}")
        if dtype != expected.dtype or shape != (count, *expected.shape):
            found, wanted = str(dtype), str(np.dtype(expected.dtype))
            own = (found, shape, wanted, (count, *expected.shape))
            raise Unreadable(Reason("other arrays", (found, shape[1:], wanted, expected.shape), own=own))
        expected.check(count)
        for start in range(0, count, expected.block) or [0]:
            some = min(expected.block, count - start)
            yield _texts(_array(names, name_type, (some,))), _finite(_array(images, dtype, (some, *expected.shape)))


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipExtFile:
    known = archive.getinfo(name)
    if known.compress_type not in _METHODS:
        raise ValueError(f"{name} is packed by method {known.compress_type}")
    return archive.open(known)


def _header(member: zipfile.ZipExtFile) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, whose numbers come next."""
    if (version := np.lib.format.read_magic(member)) != (1, 0):  # the others have headers of any length
        raise ValueError(f"npy version {version}")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(member, max_header_size=_HEADER)
    if not shape or min(shape) < 0 or (fortran_order and len(shape) > 1):
        raise ValueError(f"an array of shape {shape}" + ", in Fortran's order" * fortran_order)
    return shape, dtype


def _array(member: zipfile.ZipExtFile, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    size = dtype.itemsize * int(np.prod(shape, dtype=object))
    data = member.read(size)
    if len(data) < size:
        raise Unreadable(Reason("cut short"))
    return np.frombuffer(data, dtype).reshape(shape) if size else np.zeros(shape, dtype)


def _texts(names: np.ndarray) -> list[str]:
    letters = names.view(np.dtype(np.uint32).newbyteorder(names.dtype.byteorder)) if names.size else np.zeros(1)
    if letters.max() > sys.maxunicode:  # which NumPy makes a SystemError of
        raise ValueError("names hold what is no character")
    return names.tolist()


def _finite(images: np.ndarray) -> np.ndarray:
    if not np.isfinite(images).all():
        raise Unreadable(Reason("not finite"))
    return images
