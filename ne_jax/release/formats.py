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

import io
import itertools
import os
import pathlib
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
from array_record.python import array_record_module
from google.protobuf.message import DecodeError
from jaxtyping import Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from ne_jax.files import line, write_atomic, write_file

TFDS_NAME, TFDS_VERSION, _SPLIT = "ne_release", "1.0.0", "release"
_TFDS_FOLDER = f"{TFDS_NAME}/{TFDS_VERSION}"
# What readers of broken files raise, seen with thousands of them.
FAULTS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile,
    tarfile.TarError, DecodeError, Image.DecompressionBombError,
)  # fmt: skip
_MODES = {"L": "grey", "P": "a palette image", "1": "black and white"}

Images = Shaped[np.ndarray, "n height width channels"]


class Unreadable(Exception):
    """A file of a release is not what was written. The message goes on after the file's name: "is empty"."""


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
    read: Callable[[pathlib.Path, str, tuple[int, ...], type[np.generic]], tuple[list[str], Images]]


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
                raise Unreadable(f"is a {image.format} file now, and not a PNG")
            if image.size != (width, height):
                raise Unreadable(f"was resized: {image.width} x {image.height} and not {width} x {height}")
            if image.mode != mode:
                found, wanted = (_MODES.get(name, name) for name in (image.mode, mode))
                raise Unreadable(f"is {found} now, and not {wanted}")
            return np.asarray(image).reshape(shape)
    except UnidentifiedImageError as error:
        raise Unreadable("is cut short" if data.startswith(b"\x89PNG") else "is no image") from error
    except FAULTS as error:
        raise Unreadable(f"is broken ({line(error)})") from error


def _write_pngs(release, shard, num_shards, names, images, metadata, pool: Executor) -> dict[str, str]:
    files = [f"images/{name}.png" for name in names]
    hashes = pool.map(_write_png, itertools.repeat(release), files, images, metadata)
    return dict(zip(files, hashes, strict=True))


def _write_png(release: pathlib.Path, relative: str, pixels: np.ndarray, metadata: dict[str, Any]) -> str:
    return write_atomic(release / relative, encode_png(pixels, metadata))


def _read_png(path: pathlib.Path, relative: str, shape: tuple[int, ...], dtype) -> tuple[list[str], Images]:
    name = relative.removeprefix("images/").removesuffix(".png")
    return [name], decode_png(path.read_bytes(), shape)[None]


def _write_npz(release, shard, num_shards, names, images, metadata, pool) -> dict[str, str]:
    def write(partial: pathlib.Path) -> None:
        with open(partial, "wb") as file:
            np.savez(file, allow_pickle=False, images=images, names=np.array(names, np.str_))

    relative = f"shards/{shard:05d}.npz"
    return {relative: write_file(release / relative, write)}


def _read_npz(path: pathlib.Path, relative: str, shape: tuple[int, ...], dtype) -> tuple[list[str], Images]:
    if not zipfile.is_zipfile(path):
        raise Unreadable("is cut short, or no npz file")
    with np.load(path, allow_pickle=False) as arrays:
        names, images = arrays["names"].tolist(), arrays["images"]
    if images.dtype != dtype or images.shape != (len(names), *shape):
        wanted = f"{np.dtype(dtype)} {(len(names), *shape)}"
        raise Unreadable(f"holds images of another kind: {images.dtype} {images.shape} and not {wanted}")
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


def _read_tar(path: pathlib.Path, relative: str, shape: tuple[int, ...], dtype) -> tuple[list[str], Images]:
    if path.stat().st_size % tarfile.RECORDSIZE:  # a tar that ends between two members would only seem shorter
        raise Unreadable("is cut short, or no tar file")
    names, images = [], []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                data = b"" if file is None else file.read()
                names.append(webdataset_name(member.name.removesuffix(".png")))
                images.append(decode_png(data, shape))
    except Unreadable as error:
        raise Unreadable(f"has a member {member.name} that {error}") from error
    return names, np.array(images, np.uint8).reshape(-1, *shape)


def webdataset_key(name: str) -> str:
    """The key of image `name` in a webdataset tar."""
    folder, slash, base = name.replace("%", "%25").rpartition("/")
    return folder + slash + base.replace(".", "%2E")


def webdataset_name(key: str) -> str:
    """The name of the image under `key`."""
    return key.replace("%2E", ".").replace("%25", "%")


def _features(shape: tuple[int, ...]):
    import tensorflow_datasets as tfds  # here, because it takes half a second

    image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict({"image": image, "name": tfds.features.Text()})


def _write_array_record(release, shard, num_shards, names, images, metadata, pool) -> dict[str, str]:
    from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

    features = _features(images.shape[1:])

    def write(partial: pathlib.Path) -> None:
        try:
            writer = array_record_module.ArrayRecordWriter(os.fspath(partial), "group_size:1")
            for name, image in zip(names, images, strict=True):
                row = Example.FromString(features.serialize_example({"image": image, "name": os.fsencode(name)}))
                writer.write(row.SerializeToString(deterministic=True))  # else each process has an order of its own
            writer.close()
        except RuntimeError as error:  # all that its C++ says of a full disk
            raise OSError(line(error)) from error

    relative = f"{_TFDS_FOLDER}/{TFDS_NAME}-{_SPLIT}.array_record-{shard:05d}-of-{num_shards:05d}"
    return {relative: write_file(release / relative, write)}


def _read_array_record(path: pathlib.Path, relative: str, shape: tuple[int, ...], dtype) -> tuple[list[str], Images]:
    features = _features(shape)
    reader = array_record_module.ArrayRecordReader(os.fspath(path))
    rows = [features.deserialize_example_np(record) for record in reader.read_all()]
    reader.close()
    names = [os.fsdecode(row["name"]) for row in rows]
    return names, np.array([row["image"] for row in rows], np.uint8).reshape(len(rows), *shape)


def write_index(
    release: pathlib.Path, release_format: str, shape: Sequence[int], counts: Sequence[int], description: str
) -> dict[str, str]:
    """What a format needs beside its shards: the two files of TFDS's metadata, nothing for the others. Gives SHA-256 by path.

    shape: of an image. counts: images of each shard, in order; may hold zeros.
    """
    if release_format != "array_record":
        return {}
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    folder, features = release / _TFDS_FOLDER, _features(tuple(shape))
    template = tfds.core.ShardedFileTemplate(
        folder, dataset_name=TFDS_NAME, split=_SPLIT, filetype_suffix=release_format
    )
    size = sum(file.stat().st_size for file in folder.glob("*.array_record-*"))
    split = tfds.core.SplitInfo(name=_SPLIT, shard_lengths=list(counts), num_bytes=size, filename_template=template)
    version = tfds.core.Version(TFDS_VERSION)
    identity = tfds.core.DatasetIdentity(TFDS_NAME, version, data_dir=os.fspath(folder), module_name="")
    info = tfds.core.DatasetInfo(builder=identity, features=features, description=description)
    info.set_file_format("array_record")
    info.set_splits(tfds.core.SplitDict([split]))
    texts = {
        "dataset_info.json": info.as_json,
        "features.json": json_format.MessageToJson(features.to_proto(), sort_keys=True),
    }
    return {f"{_TFDS_FOLDER}/{name}": write_atomic(folder / name, text) for name, text in texts.items()}


_NPZ = "https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"
_PNG_GLOBS = ("images/*.png", "images/**/*.png")  # with and without folders: readers differ in what * stands for
_ARRAYS = "NumPy arrays `images` (n, height, width, channels) and `names`, for numpy.load(FILE, allow_pickle=False)"
FORMATS = {
    "png8": Format(np.uint8, _PNG_GLOBS, "image/png", "one 8-bit PNG image, named as its source", 64, _write_pngs, _read_png),
    "float32": Format(np.float32, ("shards/*.npz",), _NPZ, _ARRAYS, 1, _write_npz, _read_npz),
    "float16": Format(np.float16, ("shards/*.npz",), _NPZ, _ARRAYS, 1, _write_npz, _read_npz),
    "array_record": Format(
        np.uint8, (f"{_TFDS_FOLDER}/*.array_record-*",), "https://github.com/google/array_record",
        f'`image` and `name`, for tfds.data_source("{TFDS_NAME}", split="all", data_dir=RELEASE)', 1,
        _write_array_record, _read_array_record,
    ),
    "webdataset": Format(
        np.uint8, ("shards/*.tar",), "application/x-tar",
        'PNG images KEY.png for webdataset; "%2E" in a key stands for "." and "%25" for "%"', 1, _write_tar, _read_tar,
    ),
}  # fmt: skip
