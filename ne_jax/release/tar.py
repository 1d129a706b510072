"""Tars of PNG files for webdataset: members KEY.png; KEY is the image's name, with "%25" for "%" and, after its last "/", "%2E" for "."."""

from __future__ import annotations

import io
import os
import pathlib
import tarfile
from collections.abc import Iterator
from concurrent.futures import Executor
from io import BufferedIOBase

import msgspec
import numpy as np

from ne_jax.files import ahead, write_file
from ne_jax.release.blocks import Block, Budget, Expected
from ne_jax.release.png import decode_png, encode_png
from ne_jax.release.reasons import Reason, Unreadable

_HEAD = 1 << 16  # bytes of a member's head: its name may be longer than a tar's own field
_AHEAD = 4  # members that are unpacked in threads
_METADATA = 1 << 24  # bytes of a PNG beside twice its pixels: EXIF and colour profile


def write(release: pathlib.Path, shard, num_shards, names, images, metadata, pool: Executor) -> dict[str, str]:
    """A shard, as `Format.write` says."""

    def fill(partial: pathlib.Path) -> None:
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in zip(names, pool.map(encode_png, images, metadata), strict=True):
                member = tarfile.TarInfo(webdataset_key(name) + ".png")  # its time, owner and mode are 0, 0 and 0644
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    relative = f"shards/{shard:05d}.tar"
    return {relative: write_file(release / relative, fill)}


def read(file: BufferedIOBase, relative: str, expected: Expected) -> Iterator[Block]:
    """A shard, as `Format.read` says."""
    if (
        os.fstat(file.fileno()).st_size % tarfile.RECORDSIZE
    ):  # a tar that ends between two members would only seem shorter
        raise Unreadable(Reason("no tar"))
    names, images, count = [], [], 0

    def decoded(member: tuple[str, bytes]) -> tuple[str, np.ndarray]:
        name, data = member
        try:
            return name, decode_png(data, expected.shape)
        except Unreadable as error:
            raise Unreadable(msgspec.structs.replace(error.reason, member=name)) from error

    for name, image in ahead(decoded, _members(file, 2 * expected.image_bytes + _METADATA), _AHEAD):
        expected.check(count := count + 1)
        images.append(image)
        names.append(webdataset_name(name.removesuffix(".png")))
        if len(names) == expected.block:
            yield names, np.stack(images)
            names, images = [], []
    if names or not count:
        yield names, np.array(images, np.uint8).reshape(-1, *expected.shape)


def _members(file: BufferedIOBase, most: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member. Raises Unreadable for one of more than `most` bytes, and for one that is no whole file: a sparse
    one makes gigabytes of nothing."""
    limited = Budget(file, _HEAD)
    with tarfile.open(fileobj=limited, mode="r:") as tar:
        while (member := tar.next()) is not None:
            if not member.isreg() or member.issparse():
                raise Unreadable(Reason("no whole file", member=member.name))
            if member.size > most:
                raise Unreadable(Reason("too large", (most,), member=member.name))
            limited.left = None
            yield member.name, tar.extractfile(member).read()
            tar.members = []  # it would keep all of them
            limited.left = _HEAD


def webdataset_key(name: str) -> str:
    """The key of image `name` in a webdataset tar."""
    folder, slash, base = name.replace("%", "%25").rpartition("/")
    return folder + slash + base.replace(".", "%2E")


def webdataset_name(key: str) -> str:
    """The name of the image under `key`."""
    return key.replace("%2E", ".").replace("%25", "%")
