"""What is read back of a release: its sums, and its images block by block, each error in one line."""

from __future__ import annotations

import itertools
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from ne_jax.core.pixels import Stored, float_pixels
from ne_jax.errors import UserError
from ne_jax.files import ahead, line
from ne_jax.release.blocks import FAULTS, Block, Expected
from ne_jax.release.confined import open_inside, sha256_inside
from ne_jax.release.formats import FORMATS
from ne_jax.release.manifest import MANIFEST, SUMS, Facts, limits, open_manifest
from ne_jax.release.reasons import Reason, Unreadable, words

_SUMS_LINE = re.compile(rb"(\\?)([0-9a-f]{64}) [ *](.+)\n?")
_LINE_BYTES = 70 + 2 * 4096  # a name has 4,096 bytes at most, each with a backslash before it
MORE_FILES = 10_000  # than images: a release's own, and shards of whose images none could be read


def read_sums(release: pathlib.Path, most: int | None = None) -> dict[str, str]:
    """SHA-256 of every file of the release by its relative path, in order. most: lines that it may have. Raises UserError for a broken
    SHA256SUMS."""
    path, sums = release / SUMS, {}
    try:
        file = open_inside(release, SUMS)
    except Unreadable as error:
        if error.reason == Reason("missing"):
            raise UserError(f"{release}: no {SUMS}, so no complete release; run --stage=encode first") from error
        raise UserError(f"{path} {words(error.reason)}; restore it as it was made") from error
    with file:
        for number in itertools.count(1):
            row = file.readline(_LINE_BYTES + 1)
            if not row:
                return sums
            found = _SUMS_LINE.fullmatch(row) if len(row) <= _LINE_BYTES else None
            if found is None:
                raise UserError(f"{path}: line {number} is no line of sha256sum; restore it as it was made")
            escape, digest, name = found.groups()
            name = re.sub(rb"\\(.)", lambda match: b"\n" if match[1] == b"n" else match[1], name) if escape else name
            sums[os.fsdecode(name)] = digest.decode()
            if len(sums) < number:
                raise UserError(f"{path}: line {number} names a file again; restore it as it was made")
            if most is not None and number > most:
                raise UserError(f"{path}: has more lines than {MANIFEST} has images; restore both as they were made")
    raise AssertionError  # `count` has no end


def blocks(release: pathlib.Path, facts: Facts, relative: str) -> Iterator[Block]:
    """Names and stored images of one file, a few at a time. facts: of which format, shape and number of images count. Raises
    Unreadable, with the reason, for a file that is missing or is not what was written, perhaps after some of its images."""
    kept = FORMATS[facts.format]
    try:
        with open_inside(release, relative) as file:
            size, most = os.fstat(file.fileno()).st_size, limits(facts).file_bytes(images_of(facts, relative))
            if not size:
                raise Unreadable(Reason("empty"))
            if size > most:
                raise Unreadable(Reason("too large", (most,)))
            yield from kept.read(file, relative, Expected(facts.image_shape, kept.dtype, facts.images))
    except FAULTS as error:
        raise Unreadable(Reason("unreadable", (line(error),))) from error


def images_of(facts: Facts, relative: str) -> int:
    """How many images a file may hold."""
    kept = FORMATS[facts.format]
    if not kept.holds_images(relative):
        return 0
    return 1 if kept.single else facts.images


def read_file(release: pathlib.Path, facts: Facts, relative: str) -> tuple[list[str], Stored]:
    """All images of a file, for whoever needs it: raises UserError, in one line, with what the file is now."""
    parts = list(file_blocks(release, facts, relative))
    return [name for names, _ in parts for name in names], np.concatenate([images for _, images in parts])


def file_blocks(release: pathlib.Path, facts: Facts, relative: str) -> Iterator[Block]:
    """`blocks`, for whoever needs the file: raises UserError, in one line, with what the file is now."""
    try:
        yield from blocks(release, facts, relative)
    except Unreadable as error:
        raise UserError(
            f"release file {release / relative} {words(error.reason)}; restore it as it was made"
        ) from error


def begun(found: Iterator[Block]) -> Iterator[Block]:
    """The same blocks, of which the first is read already: what threads do ahead."""
    first = list(itertools.islice(found, 1))
    return itertools.chain(first, found)


def image_files(release: pathlib.Path, facts: Facts) -> list[str]:
    """The files of the release that hold images, in order. Raises UserError if SHA256SUMS is not the one of the manifest."""
    sums = read_sums(release)
    if sha256_inside(release, SUMS) != open_manifest(release).sums_sha256:
        raise UserError(f"{release / SUMS} is not the one that {MANIFEST} names; restore both as they were made")
    return [relative for relative in sums if FORMATS[facts.format].holds_images(relative)]


def read_release(
    release: pathlib.Path, batch_size: int
) -> Iterator[tuple[list[str], Float32[np.ndarray, "n height width channels"]]]:
    """Names and stored images of a release from its files, float32 in pixel units, in batches of at most `batch_size`.

    Raises UserError for a file that is missing or that no longer is what was written.
    """
    facts = open_manifest(release).facts
    files = image_files(release, facts)
    rows: list[tuple[str, np.ndarray]] = []
    found = ahead(lambda relative: begun(file_blocks(release, facts, relative)), files, FORMATS[facts.format].ahead)
    for names, images in itertools.chain.from_iterable(found):
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
