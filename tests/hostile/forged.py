"""Releases that are changed and agree with themselves: sums and manifest say what lies there."""

from __future__ import annotations

import hashlib
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from ne_jax.files import write_json
from ne_jax.release import reading, writing
from ne_jax.release.formats import write_index
from ne_jax.release.manifest import MANIFEST, SUMS, build, read_manifest
from ne_jax.release.signature import SIGNATURE
from tests.pins import OLD_RELEASE


def honest(folder: pathlib.Path, release_format: str) -> None:
    """The release that the first version made, in any format, under a manifest without a certificate."""
    facts = read_manifest(OLD_RELEASE / "png8")
    ((names, pixels),) = reading.read_release(OLD_RELEASE / "png8", 100)
    shape, images = facts.image_shape, writing.to_stored(pixels, release_format)
    with ThreadPoolExecutor(1) as pool:
        files = writing.write_shard(folder, release_format, 0, 1, names, images, None, pool)
    files |= write_index(folder, release_format, shape, [len(names)], "")
    made = msgspec.structs.replace(facts, format=release_format, certificate=msgspec.UNSET)
    write_json(folder / MANIFEST, build(made, *writing.write_sums(folder, files.items())))


def forge(folder: pathlib.Path, files: Any = None, **entries: Any) -> None:
    """Make SHA256SUMS and the manifest fit: what lies in the folder, or (name, SHA-256) of `files`; and entries of the block "ne"."""
    if files is None:
        found = (
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in (MANIFEST, SUMS, SIGNATURE)
        )
        files = [(str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in found]
    digest, size = writing.write_sums(folder, files)
    reseal(folder, digest, size, **entries)


def reseal(folder: pathlib.Path, digest: str = "", size: int = 0, **entries: Any) -> None:
    """The manifest for a SHA256SUMS as it lies there."""
    whole = json.loads((folder / MANIFEST).read_text())
    whole["distribution"][0] |= {"sha256": digest or hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()}
    whole["ne"] |= entries
    (folder / MANIFEST).write_text(json.dumps(whole))
