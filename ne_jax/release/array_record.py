"""Releases as TensorFlow Datasets sets of ArrayRecord files, written and read without TensorFlow."""

from __future__ import annotations

import errno
import os
import pathlib
import re
import threading
from collections.abc import Iterator, Sequence
from io import BufferedIOBase
from types import ModuleType

import numpy as np
from array_record.python import array_record_module

from ne_jax.files import line, write_atomic, write_file
from ne_jax.release import riegeli
from ne_jax.release.blocks import Block, Expected

TFDS_NAME, TFDS_VERSION, _SPLIT = "ne_release", "1.0.0", "release"
TFDS_FOLDER = f"{TFDS_NAME}/{TFDS_VERSION}"
_NUMBERS = {os.strerror(number): number for number in errno.errorcode}


_LOADING = threading.Lock()


def _tfds() -> ModuleType:
    """TFDS, whole, which takes half a second. While it loads, it changes what `import` does for all threads, and has a lock of its own
    beside Python's: a second thread that imports it meanwhile and the first would wait for each other for ever."""
    with _LOADING:
        import tensorflow_datasets as tfds
        import tensorflow_datasets.core.features
        import tensorflow_datasets.proto.tf_example_generated_pb2  # noqa: F401

        return tfds


def _features(shape: tuple[int, ...]):
    tfds = _tfds()
    image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict({"image": image, "name": tfds.features.Text()})


def write(release: pathlib.Path, shard, num_shards, names, images, metadata, pool) -> dict[str, str]:
    """A shard, as `Format.write` says."""
    features = _features(images.shape[1:])
    from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

    def fill(partial: pathlib.Path) -> None:
        try:
            writer = array_record_module.ArrayRecordWriter(os.fspath(partial), "group_size:1")
            for name, image in zip(names, images, strict=True):
                row = Example.FromString(features.serialize_example({"image": image, "name": os.fsencode(name)}))
                writer.write(row.SerializeToString(deterministic=True))  # else each process has an order of its own
            writer.close()
        except RuntimeError as error:
            raise _system_error(error) from error

    relative = f"{TFDS_FOLDER}/{TFDS_NAME}-{_SPLIT}.array_record-{shard:05d}-of-{num_shards:05d}"
    return {relative: write_file(release / relative, fill)}


def _system_error(error: RuntimeError) -> OSError:
    """What stopped ArrayRecord's writer. Its C++ tells the system's error in words alone, "write() failed: No space left on device;
    writing PATH", so that the number, by which `write_file` knows it, has to be found from them."""
    found = re.search(r"\w+\(\) failed: ([^;]+)", str(error))
    number = _NUMBERS.get(found[1]) if found else None
    return OSError(line(error)) if number is None else OSError(number, os.strerror(number))


def read(file: BufferedIOBase, relative: str, expected: Expected) -> Iterator[Block]:
    """A shard, as `Format.read` says."""
    riegeli.check(file, expected)
    features = _features(expected.shape)
    reader = array_record_module.ArrayRecordReader(file.name)
    count = reader.num_records()
    expected.check(count)
    for start in range(0, count, expected.block) or [0]:
        records = reader.read(start, min(start + expected.block, count)) if count else []
        rows = [features.deserialize_example_np(record) for record in records]
        names = [os.fsdecode(row["name"]) for row in rows]
        yield names, np.array([row["image"] for row in rows], np.uint8).reshape(len(rows), *expected.shape)
    reader.close()


def write_index(release: pathlib.Path, shape: Sequence[int], counts: Sequence[int], description: str) -> dict[str, str]:
    """The two files of TFDS's metadata. Gives their SHA-256 by path. shape: of an image. counts: images of each shard, in order."""
    from google.protobuf import json_format

    tfds = _tfds()
    folder, features = release / TFDS_FOLDER, _features(tuple(shape))
    template = tfds.core.ShardedFileTemplate(
        folder, dataset_name=TFDS_NAME, split=_SPLIT, filetype_suffix="array_record"
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
    return {f"{TFDS_FOLDER}/{name}": write_atomic(folder / name, text) for name, text in texts.items()}
