"""The formats of a release: how a shard of images becomes ordinary files, and how one file becomes images again.

    png8          images/NAME.png                 8-bit PNG, grey or RGB, one file an image
    float32       shards/00000.npz                arrays `images` (n, H, W, C) and `names`, no pickles
    float16       shards/00000.npz                the same, half the size
    array_record  ne_release/1.0.0/               a TensorFlow Datasets set: uint8 `image` and UTF-8 `name`, read without TensorFlow by
                                                  tfds.data_source("ne_release", split="all", data_dir=RELEASE)
    webdataset    shards/00000.tar                members KEY.png; KEY is the name, with "%25" for "%" and, after its last "/",
                                                  "%2E" for ".", because webdataset cuts keys at the first dot

The same content gives the same bytes. Every file appears whole or not at all.
"""

from __future__ import annotations

import fnmatch
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from io import BufferedIOBase
from typing import Any, NamedTuple

import numpy as np

from ne_jax.files import write_atomic
from ne_jax.release import array_record, npz, tar, tfds_index
from ne_jax.release.array_record import TFDS_FOLDER, TFDS_NAME
from ne_jax.release.blocks import Block, Expected
from ne_jax.release.png import decode_png, encode_png
from ne_jax.release.reasons import Reason


class Format(NamedTuple):
    """One way to store a release.

    dtype: of a stored number. globs: its files with images. media_type: of these.
    contents: what is in one of them. ahead: files worth reading ahead. single: a file holds one image. write: (release, shard,
    num_shards, names, images, metadata, pool) -> SHA-256 by relative path. read: (open file, relative path, what it must hold) -> names
    and images of each block; raises Unreadable or FAULTS.
    """

    dtype: type[np.generic]
    globs: tuple[str, ...]
    media_type: str
    contents: str
    ahead: int
    single: bool
    write: Callable[..., dict[str, str]]
    read: Callable[[BufferedIOBase, str, Expected], Iterator[Block]]

    def holds_images(self, relative: str) -> bool:
        """Whether a file of the release is one of those with images."""
        return any(fnmatch.fnmatchcase(relative, glob) for glob in self.globs)


def _write_pngs(release, shard, num_shards, names, images, metadata, pool: Executor) -> dict[str, str]:
    files = [f"images/{name}.png" for name in names]
    hashes = pool.map(_write_png, itertools.repeat(release), files, images, metadata)
    return dict(zip(files, hashes, strict=True))


def _write_png(release: pathlib.Path, relative: str, pixels: np.ndarray, metadata: dict[str, Any]) -> str:
    return write_atomic(release / relative, encode_png(pixels, metadata))


def _read_png(file: BufferedIOBase, relative: str, expected: Expected) -> Iterator[Block]:
    name = relative.removeprefix("images/").removesuffix(".png")
    yield [name], decode_png(file.read(), expected.shape)[None]


def write_index(
    release: pathlib.Path, release_format: str, shape: Sequence[int], counts: Sequence[int], description: str
) -> dict[str, str]:
    """What a format needs beside its shards: the two files of TFDS's metadata, nothing for the others. Gives SHA-256 by path.

    shape: of an image. counts: images of each shard, in order; may hold zeros.
    """
    if release_format != "array_record":
        return {}
    return array_record.write_index(release, shape, counts, description)


def index_faults(release: pathlib.Path, release_format: str, shape: Sequence[int], images: int) -> dict[str, Reason]:
    """Why what `write_index` wrote does not tell of so many images, by path."""
    return tfds_index.faults(release, TFDS_FOLDER, shape, images) if release_format == "array_record" else {}


_NPZ = "https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"
_PNG_GLOBS = ("images/*.png", "images/**/*.png")  # with and without folders: readers differ in what * stands for
_ARRAYS = "NumPy arrays `images` (n, height, width, channels) and `names`, for numpy.load(FILE, allow_pickle=False)"
FORMATS = {
    "png8": Format(np.uint8, _PNG_GLOBS, "image/png", "one 8-bit PNG image, named as its source", 64, True, _write_pngs, _read_png),
    "float32": Format(np.float32, ("shards/*.npz",), _NPZ, _ARRAYS, 1, False, npz.write, npz.read),
    "float16": Format(np.float16, ("shards/*.npz",), _NPZ, _ARRAYS, 1, False, npz.write, npz.read),
    "array_record": Format(
        np.uint8, (f"{TFDS_FOLDER}/*.array_record-*",), "https://github.com/google/array_record",
        f'`image` and `name`, for tfds.data_source("{TFDS_NAME}", split="all", data_dir=RELEASE)', 1, False,
        array_record.write, array_record.read,
    ),
    "webdataset": Format(
        np.uint8, ("shards/*.tar",), "application/x-tar",
        'PNG images KEY.png for webdataset; "%2E" in a key stands for "." and "%25" for "%"', 1, False, tar.write, tar.read,
    ),
}  # fmt: skip
