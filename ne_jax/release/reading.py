"""What is read back of a release: its sums, and its images file by file, each error in one line."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from ne_jax.core.pixels import Stored, float_pixels
from ne_jax.errors import UserError
from ne_jax.files import ahead, line, sha256
from ne_jax.release.formats import FAULTS, FORMATS
from ne_jax.release.manifest import MANIFEST, SUMS, Facts, read_manifest, read_sums_sha256
from ne_jax.release.reasons import Reason, Unreadable, words

_SUMS_LINE = re.compile(rb"(\\?)([0-9a-f]{64}) [ *](.+)\n?")


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


def open_file(release: pathlib.Path, facts: Facts, relative: str) -> tuple[list[str], Stored]:
    """Names and stored images of one file. facts: of which format and shape of an image count. Raises Unreadable, with the reason, for
    a file that is missing or is not what was written."""
    path, kept = release / relative, FORMATS[facts.format]
    try:
        if not path.is_file():
            raise Unreadable(Reason("missing"))
        if not path.stat().st_size:
            raise Unreadable(Reason("empty"))
        return kept.read(path, relative, facts.image_shape, kept.dtype)
    except FAULTS as error:
        raise Unreadable(Reason("unreadable", (line(error),))) from error


def read_file(release: pathlib.Path, facts: Facts, relative: str) -> tuple[list[str], Stored]:
    """`open_file`, for whoever needs the file: raises UserError, in one line, with what the file is now."""
    try:
        return open_file(release, facts, relative)
    except Unreadable as error:
        raise UserError(
            f"release file {release / relative} {words(error.reason)}; restore it as it was made"
        ) from error


def image_files(release: pathlib.Path, facts: Facts) -> list[str]:
    """The files of the release that hold images, in order. Raises UserError if SHA256SUMS is not the one of the manifest."""
    sums = read_sums(release)
    if sha256(release / SUMS) != read_sums_sha256(release):
        raise UserError(f"{release / SUMS} is not the one that {MANIFEST} names; restore both as they were made")
    return [relative for relative in sums if FORMATS[facts.format].holds_images(relative)]


def read_release(
    release: pathlib.Path, batch_size: int
) -> Iterator[tuple[list[str], Float32[np.ndarray, "n height width channels"]]]:
    """Names and stored images of a release from its files, float32 in pixel units, in batches of at most `batch_size`.

    Raises UserError for a file that is missing or that no longer is what was written.
    """
    facts = read_manifest(release)
    files = image_files(release, facts)
    rows: list[tuple[str, np.ndarray]] = []
    for names, images in ahead(
        lambda relative: read_file(release, facts, relative), files, FORMATS[facts.format].ahead
    ):
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
