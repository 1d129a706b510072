"""Sets in WebDataset's form: tar files in which the members KEY.jpg, KEY.cls ... are one sample. Read at random, not as a stream.

KEY is a member's path up to the first dot of its last part, as WebDataset has it. The image is the first there is of KEY.jpg, .jpeg,
.png, .webp, .bmp, .tif and .tiff; KEY.cls holds the class number as text. A sample whose image has more dots in its name, or is a link,
is broken. Whatever else a tar holds is left out and counted.
"""

from __future__ import annotations

import collections
import glob
import io
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64
from PIL import Image

from ne_jax.data.folder import printable
from ne_jax.data.images import BrokenImage, open_image
from ne_jax.errors import UserError

_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_NUMBER = re.compile(rb"\s*[+-]?[0-9]{1,80}\s*")
_LAST_CLASS = 999_999
_TOLD = 5  # endings, those of most members
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Samples(NamedTuple):
    """Where images lie: image i is the size[i] bytes of tars[tar[i]] that start at byte offset[i]. keys: as the tars have them,
    not unique. labels: class numbers, or None where not every image has one. faults: by i, why its image cannot be read. left_out: how
    many members of which ending are no part of a sample."""

    tars: list[str]
    keys: list[str]
    tar: Int32[np.ndarray, " n"]
    offset: Int64[np.ndarray, " n"]
    size: Int64[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"] | None
    faults: dict[int, str]
    left_out: dict[str, int]


class _Member(NamedTuple):
    """offset, size: of its bytes in the tar. text: what it holds, of a .cls. fault: why its bytes are not to be read, or ""."""

    offset: int
    size: int
    text: bytes
    fault: str


class _Sample(NamedTuple):
    """image: what and where it is. label: the class number, if there is one."""

    image: _Member
    label: int | None


def index(path: str) -> Samples:
    """The samples of `path`: a folder of .tar files, one such file, a pattern ("train-*.tar") or a range ("{00000..00012}.tar").

    Reads headers and class numbers only. Raises UserError, which names the tar, for one that is missing, compressed, cut off,
    damaged or without an image, and for a member outside of the tar's own folder, twice there, or whose class is no number.
    """
    tars, samples, keys, numbers = _tars(path), [], [], []
    left_out = collections.Counter()
    for number, tar in enumerate(tars):
        found, surplus = _samples(tar)
        samples += found.values()
        keys += found
        numbers += [number] * len(found)
        left_out += surplus
    faults = {place: sample.image.fault for place, sample in enumerate(samples) if sample.image.fault}
    offset, size = (np.array([sample.image[which] for sample in samples], np.int64) for which in (0, 1))
    return Samples(tars, keys, np.array(numbers, np.int32), offset, size, _labels(samples), faults, dict(left_out))


def _labels(samples: list[_Sample]) -> Int32[np.ndarray, " n"] | None:
    """Class numbers, if every sample whose image can be read has one."""
    if any(sample.label is None and not sample.image.fault for sample in samples):
        return None
    return np.array([sample.label or 0 for sample in samples], np.int32)


def remark(path: str, left_out: Mapping[str, int]) -> str:
    """The one line that tells what of the tars is no part of a sample."""
    most = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{count} {ending}" for ending, count in most[:_TOLD]]
    if len(most) > _TOLD:
        told.append(f"{sum(count for _, count in most[_TOLD:])} of {len(most) - _TOLD} other endings")
    return f'data.path "{path}": members that are no image ({", ".join(_IMAGES)}) and no class are left out: {", ".join(told)}'


def read(samples: Samples, place: int, max_pixels: int) -> Image.Image:
    """The image at `place`, by the rule of `images`. Raises BrokenImage. Threads may read at once: each opens the tar anew."""
    tar = samples.tars[samples.tar[place]]
    label = f"{tar}/{samples.keys[place]}"
    if place in samples.faults:
        raise BrokenImage(f"{label}: {samples.faults[place]}")
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


def _samples(path: str) -> tuple[dict[str, _Sample], collections.Counter]:
    """By key, the samples of one tar; and how many members of which ending are in none."""
    found, left_out = _by_key(path)
    samples = {}
    for key, parts in found.items():
        ending = _image(parts)
        left_out.update(f".{other}" for other in parts if other != ending and (other != "cls" or not ending))
        if ending:
            image = parts[ending]
            if ending not in _IMAGES and not image.fault:
                known = f"WebDataset ends a key at its first dot, so its ending is .{ending}; rename it to one dot"
                image = image._replace(fault=f'"{key}.{ending}": {known}')
            samples[key] = _Sample(image, _label(path, key, parts["cls"].text) if "cls" in parts else None)
    if not samples:
        raise UserError(f"{path}: no member is an image ({', '.join(_IMAGES)}); give tars in WebDataset's form")
    return samples, left_out


def _by_key(path: str) -> tuple[dict[str, dict[str, _Member]], collections.Counter]:
    """Key -> ending -> member, of one tar; and how many members have no key or no ending."""
    found: dict[str, dict[str, _Member]] = {}
    without = collections.Counter()
    for name, member in _members(path):
        match = _MEMBER.fullmatch(posixpath.normpath(name))
        if not match:
            without["without a key and an ending"] += 1
            continue
        key, ending = match[1], match[2].lower()
        if key.startswith(("/", "../")):
            raise UserError(f'{path}: member "{name}" lies outside of the tar; make the tar with relative paths')
        if ending in found.setdefault(key, {}):
            raise UserError(f'{path}: member "{name}" is there twice; make the tar anew')
        found[key][ending] = member
    return found, without


def _image(parts: Mapping[str, _Member]) -> str | None:
    """The ending of the image among the members of a key; one with further dots if there is no other."""
    known = (ending for ending in _IMAGES if ending in parts)
    return next(known, None) or next((ending for ending in parts if ending.rpartition(".")[2] in _IMAGES), None)


def _label(path: str, key: str, text: bytes) -> int:
    if not _NUMBER.fullmatch(text):
        raise UserError(
            f"{path}: {key}.cls holds {text[:20]!r}, not a class number; write numbers, or leave the .cls members out"
        )
    if (number := int(text)) > _LAST_CLASS:
        raise UserError(
            f"{path}: {key}.cls holds {text[:20]!r}, and class numbers end at {_LAST_CLASS}; write numbers from 0 on, or leave the "
            ".cls members out"
        )
    return max(number, -1)


def _members(path: str) -> Iterator[tuple[str, _Member]]:
    """Name and place of everything in a tar but folders, with what it holds if it is a .cls."""
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
                    if not member.isdir():
                        yield printable(member.name), _member(file, member)
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile itself lets this pass
                    raise tarfile.ReadError("no mark of its end")
    except (tarfile.TarError, OSError, OverflowError) as error:  # the last from damaged sizes
        raise UserError(f"{path}: not a whole tar file ({error}); fetch it again") from error


def _member(file: io.BufferedIOBase, member: tarfile.TarInfo) -> _Member:
    if not member.isreg() or member.issparse():
        what = "a link" if member.islnk() or member.issym() else "not a plain file"
        return _Member(
            0, 0, b"", f"{what} in the tar; make the tar with --dereference --hard-dereference, without --sparse"
        )
    file.seek(member.offset_data)
    text = file.read(min(member.size, 100)) if member.name.lower().endswith(".cls") else b""
    return _Member(member.offset_data, member.size, text, "")
