"""What is read back of a release: its sums, and its images file by file, each error in one line."""

from __future__ import annotations

import fnmatch
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from ne_jax.core.pixels import float_pixels
from ne_jax.errors import UserError
from ne_jax.files import ahead, line, sha256
from ne_jax.release.formats import FAULTS, FORMATS, Format, Unreadable
from ne_jax.release.manifest import MANIFEST, SUMS, read_manifest, read_sums_sha256

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
