"""Sets in WebDataset's form: tar files in which the members KEY.jpg, KEY.cls ... are one sample. Read at random, not as a stream.

KEY is a member's path up to the first dot of its last part. The image is the first there is of KEY.jpg, .jpeg, .png, .webp, .bmp,
.tif and .tiff; KEY.cls holds the class number as text. What is not of this form, and keys without an image, are left out.
"""

from __future__ import annotations

import glob
import io
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64
from PIL import Image

from ne_jax.data.folder import printable
from ne_jax.data.images import BrokenImage, open_image
from ne_jax.errors import UserError

_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Samples(NamedTuple):
    """Where images lie: image i is the size[i] bytes of tars[tar[i]] that start at byte offset[i]. keys: as the tars have them,
    not unique. labels: class numbers, or None where not every image has one."""

    tars: list[str]
    keys: list[str]
    tar: Int32[np.ndarray, " n"]
    offset: Int64[np.ndarray, " n"]
    size: Int64[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"] | None


def index(path: str) -> Samples:
    """The samples of `path`: a folder of .tar files, one such file, a pattern ("train-*.tar") or a range ("{00000..00012}.tar").

    Reads headers and class numbers only. Raises UserError, which names the tar, for one that is missing, compressed, cut off,
    damaged or without an image, and for a member outside of the tar's own folder, twice there, or whose class is no number.
    """
    tars = _tars(path)
    samples = [(key, number, *sample) for number, tar in enumerate(tars) for key, sample in _samples(tar).items()]
    keys, tar, offset, size, labels = zip(*samples, strict=True)
    whole = None if None in labels else np.array(labels, np.int32)
    return Samples(tars, list(keys), np.array(tar, np.int32), np.array(offset), np.array(size), whole)


def read(samples: Samples, place: int, max_pixels: int) -> Image.Image:
    """The image at `place`, by the rule of `images`. Raises BrokenImage. Threads may read at once: each opens the tar anew."""
    tar = samples.tars[samples.tar[place]]
    label = f"{tar}/{samples.keys[place]}"
    try:
        with open(tar, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), int(samples.size[place]), int(samples.offset[place]))
    except OSError as error:
        raise BrokenImage(f"{label}: {error.strerror}") from error
    return open_image(io.BytesIO(content), label, max_pixels)


def _tars(path: str) -> list[str]:
    """The tar files that `path` stands for, in order."""
    found: list[str] = []
    for place in _in_range(path):
        if os.path.isdir(place):
            here = sorted(glob.glob(os.path.join(glob.escape(place), "*.tar")))
        else:
            here = [place] if os.path.isfile(place) else sorted(glob.glob(place))
        if not here:
            raise _no_tar(place)
        found += here
    if not found:
        raise _no_tar(path)
    return found


def _no_tar(path: str) -> UserError:
    return UserError(f'data.path "{path}": no such .tar file; give a folder of them, a file, a pattern or a range')


def _in_range(path: str) -> Iterator[str]:
    """`path` with every number of its ranges {first..last}, as many digits as the first has."""
    match = _RANGE.search(path)
    if match is None:
        yield path
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _in_range(f"{path[: match.start()]}{number:0{len(first)}d}{path[match.end() :]}")


def _samples(path: str) -> dict[str, tuple[int, int, int | None]]:
    """Key -> byte offset and size of the image, and class number, of one tar."""
    found: dict[str, dict[str, tuple[int, int, bytes]]] = {}
    for name, *place in _members(path):
        match = _MEMBER.fullmatch(posixpath.normpath(name))
        if not match:
            continue
        key, ending = match[1], match[2].lower()
        if key.startswith(("/", "../")):
            raise UserError(f'{path}: member "{name}" lies outside of the tar; make the tar with relative paths')
        if ending in found.setdefault(key, {}):
            raise UserError(f'{path}: member "{name}" is there twice; make the tar anew')
        found[key][ending] = tuple(place)
    samples = {}
    for key, parts in found.items():
        image = next((parts[ending] for ending in _IMAGES if ending in parts), None)
        if image:
            samples[key] = (image[0], image[1], _label(path, key, parts["cls"][2]) if "cls" in parts else None)
    if not samples:
        raise UserError(f"{path}: no member is an image ({', '.join(_IMAGES)}); give tars in WebDataset's form")
    return samples


def _label(path: str, key: str, text: bytes) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise UserError(
            f"{path}: {key}.cls holds {text[:20]!r}, not a class number; write numbers, or leave the .cls members out"
        ) from error


def _members(path: str) -> Iterator[tuple[str, int, int, bytes]]:
    """Name, byte offset and size of every file in a tar, and what it holds if it is a .cls."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            file.seek(0)
            for magic, kind in _COMPRESSED.items():
                if start.startswith(magic):
                    raise UserError(
                        f"{path}: compressed ({kind}), so nothing in it can be found; unpack it to a plain tar"
                    )
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.isreg() and not member.issparse():
                        file.seek(member.offset_data)
                        text = file.read(min(member.size, 100)) if member.name.lower().endswith(".cls") else b""
                        yield printable(member.name), member.offset_data, member.size, text
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile itself lets this pass
                    raise tarfile.ReadError("no mark of its end")
    except (tarfile.TarError, OSError, OverflowError) as error:  # the last from damaged sizes
        raise UserError(f"{path}: not a whole tar file ({error}); fetch it again") from error
