"""Releases: NEs as ordinary files that prove themselves, written whole or not at all, and read back.

    RELEASE/manifest.json    what the files are and for whom (`manifest`); written last, so its presence says the release is complete
    RELEASE/SHA256SUMS       every other file, so that `sha256sum -c SHA256SUMS` proves the release
    RELEASE/...              the images, in one of the formats of `formats`

Nothing in a release gives the secret, the subspace, a label or a prediction.
"""

from __future__ import annotations

import collections
import fnmatch
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from ne_jax.errors import UserError
from ne_jax.formats import FAULTS, FORMATS, Format, Unreadable, encode_png, line, write_atomic, write_file
from ne_jax.manifest import MANIFEST, SUMS, read_manifest, read_sums_sha256
from ne_jax.pixels import float_pixels
from ne_jax.tensor_files import sha256

_THREADS = min(8, os.cpu_count() or 1)
_BLOCK = 4096  # bytes; a file takes whole blocks of a disk
_NAME_BYTES = 200  # of an image's name in SHA256SUMS or in its shard, about
_SUMS_LINE = re.compile(rb"(\\?)([0-9a-f]{64}) [ *](.+)\n?")


def write_json(path: pathlib.Path, value: Any) -> None:
    """`value` as indented JSON, atomic. NaN and infinity are refused: they are no JSON."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def finite(values: Iterable) -> list[float | None]:
    """Numbers as JSON has them: None for NaN and infinity, such as the PSNR of an image that was left as it is."""
    return [float(value) if np.isfinite(value) else None for value in values]


def to_stored(
    recoded: Float32[np.ndarray, "n height width channels"], release_format: str
) -> Shaped[np.ndarray, "n height width channels"]:
    """What the format keeps of recoded pixels: floating point of its width, or rounded to 8 bits."""
    dtype = FORMATS[release_format].dtype
    if dtype != np.uint8:
        return recoded.astype(dtype, copy=False)
    return np.round(np.clip(recoded, 0, 1) * 255).astype(np.uint8)


def write_shard(
    release: pathlib.Path,
    release_format: str,
    shard: int,
    num_shards: int,
    names: Sequence[str],
    images: Shaped[np.ndarray, "n height width channels"],
    metadata: Sequence[dict[str, Any]] | None,
    pool: Executor,
) -> dict[str, str]:
    """Write one shard and give the SHA-256 of each of its files by relative path, in the order of `names`.

    images: as stored (`to_stored`). num_shards: of the release; file names may carry it. metadata: for each image a dict that may
    hold the bytes "exif" and "icc_profile", which PNGs keep. pool: compresses and writes single images.
    Raises UserError where a file cannot be written, with the reason.
    """
    metadata = [{}] * len(names) if metadata is None else metadata
    return FORMATS[release_format].write(release, shard, num_shards, names, images, metadata, pool)


def estimate(
    release_format: str,
    image_shape: Sequence[int],
    count: int,
    sample: Shaped[np.ndarray, "n height width channels"],
) -> int:
    """Bytes that a release of `count` images takes on disk, about. sample: some of its images as stored, for how they compress."""
    if FORMATS[release_format].media_type == "image/png" or release_format == "webdataset":
        sizes = np.array([len(encode_png(image, {})) for image in sample])
        sizes = -(-sizes // _BLOCK) * _BLOCK if release_format == "png8" else sizes + 1024
        return int(count * (sizes.mean() + _NAME_BYTES))
    return count * (int(np.prod(image_shape)) * np.dtype(FORMATS[release_format].dtype).itemsize + _NAME_BYTES)


def free_bytes(path: pathlib.Path) -> int:
    """Bytes that are free where `path` is, or will be."""
    path = path.absolute()
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def write_sums(release: pathlib.Path, files: Iterable[tuple[str, str]]) -> tuple[str, int]:
    """Write SHA256SUMS from (relative path, SHA-256) of every file, in order. Gives its own SHA-256 and its bytes."""

    def write(partial: pathlib.Path) -> None:
        with open(partial, "wb") as file:
            for relative, digest in files:
                name = os.fsencode(relative)
                escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
                file.write(b"\\" * (escaped != name) + digest.encode() + b"  " + escaped + b"\n")

    digest = write_file(release / SUMS, write)
    return digest, (release / SUMS).stat().st_size


def read_sums(release: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file of the release by its relative path, in order. Raises UserError for a broken SHA256SUMS."""
    path = release / SUMS
    if not path.is_file():
        raise UserError(f"{release}: no {SUMS}, so no complete release; run --stage=encode first")
    sums = {}
    with open(path, "rb") as file:
        for number, row in enumerate(file, 1):
            found = _SUMS_LINE.fullmatch(row)
            if found is None:
                raise UserError(f"{path}: line {number} is no line of sha256sum; restore it as it was made")
            escape, digest, name = found.groups()
            name = re.sub(rb"\\(.)", lambda match: b"\n" if match[1] == b"n" else match[1], name) if escape else name
            sums[os.fsdecode(name)] = digest.decode()
    return sums


def read_file(
    release: pathlib.Path, ne: dict[str, Any], relative: str
) -> tuple[list[str], Shaped[np.ndarray, "n height width channels"]]:
    """Names and stored images of one file. ne: the manifest's block, of which `format` and `image_shape` count.

    Raises UserError, in one line, for a file that is missing or is not what was written, with what it is now.
    """
    path, kept = release / relative, _format(release, ne)
    try:
        if not path.is_file():
            raise Unreadable("is missing")
        if not path.stat().st_size:
            raise Unreadable("is empty")
        return kept.read(path, relative, tuple(ne["image_shape"]), kept.dtype)
    except (Unreadable, *FAULTS) as error:
        reason = error if isinstance(error, Unreadable) else f"cannot be read ({line(error)})"
        raise UserError(f"release file {path} {reason}; restore it as it was made") from error


def _format(release: pathlib.Path, ne: dict[str, Any]) -> Format:
    if ne.get("format") not in FORMATS:
        raise UserError(
            f"{release}: its format is {ne.get('format')}, which is unknown; choose from {', '.join(FORMATS)}"
        )
    return FORMATS[ne["format"]]


def image_files(release: pathlib.Path, ne: dict[str, Any]) -> list[str]:
    """The files of the release that hold images, in order. Raises UserError if SHA256SUMS is not the one of the manifest."""
    kept = _format(release, ne)
    sums = read_sums(release)
    if sha256(release / SUMS) != read_sums_sha256(release):
        raise UserError(f"{release / SUMS} is not the one that {MANIFEST} names; restore both as they were made")
    return [relative for relative in sums if any(fnmatch.fnmatchcase(relative, glob) for glob in kept.globs)]


def read_release(
    release: pathlib.Path, batch_size: int
) -> Iterator[tuple[list[str], Float32[np.ndarray, "n height width channels"]]]:
    """Names and stored images of a release from its files, float32 in pixel units, in batches of at most `batch_size`.

    Raises UserError for a file that is missing or that no longer is what was written.
    """
    ne = read_manifest(release)
    files = image_files(release, ne)
    rows: list[tuple[str, np.ndarray]] = []
    for names, images in ahead(lambda relative: read_file(release, ne, relative), files, _format(release, ne).ahead):
        for row in zip(names, images, strict=True):
            rows.append(row)
            if len(rows) == batch_size:
                yield _stack(rows)
                rows = []
    if rows:
        yield _stack(rows)


def _stack(rows: list[tuple[str, np.ndarray]]) -> tuple[list[str], np.ndarray]:
    images = np.stack([image for _, image in rows])
    return [name for name, _ in rows], float_pixels(images)


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
