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
import io
import itertools
import pathlib
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import msgspec
import numpy as np
from google.protobuf.message import DecodeError
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from ne_jax.core.pixels import Stored
from ne_jax.files import line, write_atomic, write_file
from ne_jax.release import array_record
from ne_jax.release.array_record import TFDS_FOLDER, TFDS_NAME
from ne_jax.release.reasons import Reason, Unreadable

# What readers of broken files raise, seen with thousands of them.
FAULTS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile,
    tarfile.TarError, DecodeError, Image.DecompressionBombError,
)  # fmt: skip
_MODES = {"L": "grey", "P": "a palette image", "1": "black and white"}


class Format(NamedTuple):
    """One way to store a release.

    dtype: of a stored number. globs: its files with images. media_type: of these.
    contents: what is in one of them. ahead: files worth reading ahead. write: (release, shard, num_shards, names, images, metadata,
    pool) -> SHA-256 by relative path. read: (file, relative path, image shape, dtype) -> names and images; raises Unreadable or FAULTS.
    """

    dtype: type[np.generic]
    globs: tuple[str, ...]
    media_type: str
    contents: str
    ahead: int
    write: Callable[..., dict[str, str]]
    read: Callable[[pathlib.Path, str, tuple[int, ...], type[np.generic]], tuple[list[str], Stored]]

    def holds_images(self, relative: str) -> bool:
        """Whether a file of the release is one of those with images."""
        return any(fnmatch.fnmatchcase(relative, glob) for glob in self.globs)


def encode_png(pixels: UInt8[np.ndarray, "height width channels"], metadata: dict[str, Any]) -> bytes:
    """An 8-bit PNG, grey or RGB, with the bytes "exif" and "icc_profile" of `metadata`, if it holds any."""
    kept = {key: metadata[key] for key in ("exif", "icc_profile") if metadata.get(key)}
    buffer = io.BytesIO()
    # Runs only: noise has no longer matches, and looking for them takes a third of the time.
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(buffer, "PNG", compress_type=zlib.Z_RLE, **kept)
    return buffer.getvalue()


def decode_png(data: bytes, shape: tuple[int, ...]) -> UInt8[np.ndarray, "height width channels"]:
    """The pixels of a PNG file of `shape`, (height, width, channels). Raises Unreadable for anything else, with what it is."""
    height, width, channels = shape
    mode = {1: "L", 3: "RGB"}[channels]
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format != "PNG":
                raise Unreadable(Reason("another type", (image.format,)))
            if image.size != (width, height):
                raise Unreadable(Reason("resized", (image.width, image.height, width, height)))
            if image.mode != mode:
                found, wanted = (_MODES.get(name, name) for name in (image.mode, mode))
                raise Unreadable(Reason("recoloured", (found, wanted)))
            return np.asarray(image).reshape(shape)
    except UnidentifiedImageError as error:
        raise Unreadable(Reason("cut short" if data.startswith(b"\x89PNG") else "no image")) from error
    except FAULTS as error:
        raise Unreadable(Reason("broken", (line(error),))) from error


def _write_pngs(release, shard, num_shards, names, images, metadata, pool: Executor) -> dict[str, str]:
    files = [f"images/{name}.png" for name in names]
    hashes = pool.map(_write_png, itertools.repeat(release), files, images, metadata)
    return dict(zip(files, hashes, strict=True))


def _write_png(release: pathlib.Path, relative: str, pixels: np.ndarray, metadata: dict[str, Any]) -> str:
    return write_atomic(release / relative, encode_png(pixels, metadata))


def _read_png(path: pathlib.Path, relative: str, shape: tuple[int, ...], dtype) -> tuple[list[str], Stored]:
    name = relative.removeprefix("images/").removesuffix(".png")
    return [name], decode_png(path.read_bytes(), shape)[None]


def _write_npz(release, shard, num_shards, names, images, metadata, pool) -> dict[str, str]:
    def write(partial: pathlib.Path) -> None:
        with open(partial, "wb") as file:
            np.savez(file, allow_pickle=False, images=images, names=np.array(names, np.str_))

    relative = f"shards/{shard:05d}.npz"
    return {relative: write_file(release / relative, write)}


def _read_npz(path: pathlib.Path, relative: str, shape: tuple[int, ...], dtype) -> tuple[list[str], Stored]:
    if not zipfile.is_zipfile(path):
        raise Unreadable(Reason("no npz"))
    with np.load(path, allow_pickle=False) as arrays:
        names, images = arrays["names"].tolist(), arrays["images"]
    if images.dtype != dtype or images.shape != (len(names), *shape):
        found, wanted = str(images.dtype), str(np.dtype(dtype))
        own = (found, images.shape, wanted, (len(names), *shape))
        raise Unreadable(Reason("other arrays", (found, images.shape[1:], wanted, shape), own=own))
    return names, images


def _write_tar(release, shard, num_shards, names, images, metadata, pool: Executor) -> dict[str, str]:
    def write(partial: pathlib.Path) -> None:
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in zip(names, pool.map(encode_png, images, metadata), strict=True):
                member = tarfile.TarInfo(webdataset_key(name) + ".png")  # its time, owner and mode are 0, 0 and 0644
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    relative = f"shards/{shard:05d}.tar"
    return {relative: write_file(release / relative, write)}


def _read_tar(path: pathlib.Path, relative: str, shape: tuple[int, ...], dtype) -> tuple[list[str], Stored]:
    if path.stat().st_size % tarfile.RECORDSIZE:  # a tar that ends between two members would only seem shorter
        raise Unreadable(Reason("no tar"))
    names, images = [], []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                data = b"" if file is None else file.read()
                names.append(webdataset_name(member.name.removesuffix(".png")))
                images.append(decode_png(data, shape))
    except Unreadable as error:
        raise Unreadable(msgspec.structs.replace(error.reason, member=member.name)) from error
    return names, np.array(images, np.uint8).reshape(-1, *shape)


def webdataset_key(name: str) -> str:
    """The key of image `name` in a webdataset tar."""
    folder, slash, base = name.replace("%", "%25").rpartition("/")
    return folder + slash + base.replace(".", "%2E")


def webdataset_name(key: str) -> str:
    """The name of the image under `key`."""
    return key.replace("%2E", ".").replace("%25", "%")


def write_index(
    release: pathlib.Path, release_format: str, shape: Sequence[int], counts: Sequence[int], description: str
) -> dict[str, str]:
    """What a format needs beside its shards: the two files of TFDS's metadata, nothing for the others. Gives SHA-256 by path.

    shape: of an image. counts: images of each shard, in order; may hold zeros.
    """
    if release_format != "array_record":
        return {}
    return array_record.write_index(release, shape, counts, description)


_NPZ = "https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"
_PNG_GLOBS = ("images/*.png", "images/**/*.png")  # with and without folders: readers differ in what * stands for
_ARRAYS = "NumPy arrays `images` (n, height, width, channels) and `names`, for numpy.load(FILE, allow_pickle=False)"
FORMATS = {
    "png8": Format(np.uint8, _PNG_GLOBS, "image/png", "one 8-bit PNG image, named as its source", 64, _write_pngs, _read_png),
    "float32": Format(np.float32, ("shards/*.npz",), _NPZ, _ARRAYS, 1, _write_npz, _read_npz),
    "float16": Format(np.float16, ("shards/*.npz",), _NPZ, _ARRAYS, 1, _write_npz, _read_npz),
    "array_record": Format(
        np.uint8, (f"{TFDS_FOLDER}/*.array_record-*",), "https://github.com/google/array_record",
        f'`image` and `name`, for tfds.data_source("{TFDS_NAME}", split="all", data_dir=RELEASE)', 1,
        array_record.write, array_record.read,
    ),
    "webdataset": Format(
        np.uint8, ("shards/*.tar",), "application/x-tar",
        'PNG images KEY.png for webdataset; "%2E" in a key stands for "." and "%25" for "%"', 1, _write_tar, _read_tar,
    ),
}  # fmt: skip
