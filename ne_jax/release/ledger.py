"""The ledger: which image was released in which artefact, under one secret (contract 2).

It lies beside the secret, is as private, and holds digests that tell nothing without the secret. Any number of processes may use it at
once; what was claimed stays claimed, also after a kill.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import pathlib
import sqlite3
from collections.abc import Collection, Iterator, Sequence

from ne_jax.errors import UserError

_IMAGE, _ARTEFACT = (
    b"ne_jax ledger image 1",
    b"ne_jax ledger artefact 1",
)  # keep digests apart from any other use of the secret
_PATIENCE = 600  # seconds that one process waits for others
_TABLE = "CREATE TABLE IF NOT EXISTS released (image BLOB, artefact BLOB, PRIMARY KEY (image, artefact)) WITHOUT ROWID"


def place(secret_file: pathlib.Path) -> pathlib.Path:
    """Where the ledger of a secret lies."""
    return secret_file.with_name(secret_file.name + ".ledger")


def image_digest(secret: bytes, content: bytes) -> bytes:
    """What stands for an image. content: its pixels and their shape, or a digest of them."""
    return hmac.digest(secret, _IMAGE + content, hashlib.sha256)[:16]


def artefact_digest(secret: bytes, content: bytes) -> bytes:
    """What stands for an artefact. content: all that decides an image's pixels, or a digest of it."""
    return hmac.digest(secret, _ARTEFACT + content, hashlib.sha256)[:16]


def elsewhere(path: pathlib.Path, images: Sequence[Collection[bytes]], artefacts: Collection[bytes]) -> list[int]:
    """Of each image, given by all of its digests, how many artefacts beside `artefacts` the ledger has."""
    with _opened(path) as ledger:
        return [_others(ledger, image, artefacts) for image in images]


def claim(
    path: pathlib.Path, images: Sequence[Collection[bytes]], artefacts: Collection[bytes], again: bool
) -> list[int] | None:
    """Note that images are released in `artefacts`, all or none of them, before they are. Gives how many other artefacts each image is in
    for each of `artefacts`; None, and notes nothing, if any is in another and not `again`. Claiming twice changes nothing."""
    with _opened(path) as ledger:
        ledger.execute("BEGIN IMMEDIATE")
        others = [_others(ledger, image, artefacts) + len(set(artefacts)) - 1 for image in images]
        if any(others) and not again:
            ledger.execute("ROLLBACK")
            return None
        rows = ((digest, artefact) for image in images for digest in image for artefact in artefacts)
        ledger.executemany("INSERT OR IGNORE INTO released VALUES (?, ?)", rows)
        ledger.execute("COMMIT")
        return others


def _others(ledger: sqlite3.Connection, image: Collection[bytes], artefacts: Collection[bytes]) -> int:
    found: set[bytes] = set()
    for digest in image:
        found.update(row[0] for row in ledger.execute("SELECT artefact FROM released WHERE image = ?", (digest,)))
    return len(found - set(artefacts))


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[sqlite3.Connection]:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite's own files beside it get the same mode
        with contextlib.closing(sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)) as ledger:
            ledger.execute(_TABLE)
            yield ledger
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"ledger {path}: {reason}; it lies beside the secret and knows which image was released in which artefact: make it readable "
            "and writable, or keep the secret in a folder where it can be, and give the same command again"
        ) from error
