"""Releases: NEs as ordinary files that prove themselves, written whole or not at all, and read back.

    RELEASE/manifest.json    what the files are and for whom (`manifest`); written last, so its presence says the release is complete
    RELEASE/SHA256SUMS       every other file, so that `sha256sum -c SHA256SUMS` proves the release
    RELEASE/...              the images, in one of the formats of `formats`

Nothing in a release gives the secret, the subspace, a label or a prediction.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from jaxtyping import Float32

from ne_jax.core.pixels import Stored
from ne_jax.errors import UserError
from ne_jax.files import write_file
from ne_jax.release.formats import FORMATS
from ne_jax.release.manifest import SUMS
from ne_jax.release.png import encode_png

_BLOCK = 4096  # bytes; a file takes whole blocks of a disk
_NAME_BYTES = 200  # of an image's name in SHA256SUMS or in its shard, about


def to_stored(recoded: Float32[np.ndarray, "n height width channels"], release_format: str) -> Stored:
    """What the format keeps of recoded pixels: floating point of its width, or rounded to 8 bits."""
    dtype = FORMATS[release_format].dtype
    if dtype != np.uint8:
        return recoded.astype(dtype, copy=False)
    return np.round(np.clip(recoded, 0, 1) * 255).astype(np.uint8)


def check_finite(stored: Stored, release_format: str) -> None:
    """Raise UserError for NaN and infinite numbers: an image that has them is no image."""
    if np.isfinite(stored).all():
        return
    share, largest = 1 - np.isfinite(stored).mean(), np.finfo(stored.dtype).max
    raise UserError(
        f"{release_format} holds numbers up to {largest:.6g}, and at this strength {share:.2%} of them become infinite; raise "
        "recode.psnr_db, or release float32"
    )


def write_shard(
    release: pathlib.Path,
    release_format: str,
    shard: int,
    num_shards: int,
    names: Sequence[str],
    images: Stored,
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
    sample: Stored,
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
