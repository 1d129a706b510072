"""What a release must not show: the secret, and which image got which name. Files that their owner alone may read, outside of it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import json
import os
import pathlib
import secrets
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ne_jax.data.sources import Source
from ne_jax.errors import UserError
from ne_jax.files import write_file

SECRET, NAMES, CERTIFICATES = "secret.key", "names.jsonl", "certificates.jsonl"
_SECRET_BYTES = 32
_NAME_PURPOSE = b"ne_jax name 1"  # keeps names apart from any other use of the secret


def write_lines(path: pathlib.Path, lines: Iterable[str]) -> None:
    """A text file with mode 0600 in a folder with mode 0700, whole or not at all."""

    def write(partial: pathlib.Path) -> None:
        partial.unlink(missing_ok=True)  # one that another program made may be open to others
        with open(partial, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.writelines(line + "\n" for line in lines)

    with contextlib.suppress(OSError):  # `write_file` tells of it
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_file(path, write)


def load_secret(path: pathlib.Path) -> bytes:
    """The secret in the file; a new one where there is no file yet."""
    if not os.path.exists(path):  # also where one may not look, which is told when it is read
        write_lines(path, [secrets.token_hex(_SECRET_BYTES)])
    try:
        secret = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise UserError(
            f"secret {path}: cannot be read ({error.strerror}); make it readable, or give another"
        ) from error
    except ValueError as error:
        raise UserError(f"secret {path}: not hexadecimal; give {2 * _SECRET_BYTES} hexadecimal digits") from error
    if len(secret) < _SECRET_BYTES:
        raise UserError(
            f"secret {path}: {len(secret)} bytes; give at least {_SECRET_BYTES} ({2 * _SECRET_BYTES} digits)"
        )
    return secret


def opaque(source: Source, secret: bytes) -> tuple[Source, list[str]]:
    """The source under names that tell nothing without the secret, ordered by them, so that order tells nothing either; and the
    names that it had, in the new order."""
    names = [hmac.digest(secret, _NAME_PURPOSE + os.fsencode(name), hashlib.sha256)[:16].hex() for name in source.names]
    order = np.argsort(np.array(names), kind="stable")
    former = [source.names[index] for index in order]
    return source.take(order, [f"{names[index][:2]}/{names[index][2:]}" for index in order]), former


def keep_names(folder: pathlib.Path, names: Sequence[str], former: Sequence[str]) -> None:
    """Write which image is released under which name, one a line, or raise UserError if that was written before and differs: the
    source has changed since."""
    path = folder / NAMES
    if not path.is_file():
        write_lines(path, (json.dumps([name, old]) for name, old in zip(names, former, strict=True)))
        return
    if any(was != now for was, now in itertools.zip_longest(_read_former(path), former)):
        gone, come = set(_read_former(path)) - set(former), set(former) - set(_read_former(path))
        told = [f"{len(some)} {what} ({min(some)})" for some, what in ((gone, "gone"), (come, "new")) if some]
        raise UserError(
            f"the data source changed since this workdir was made: {', '.join(told) or 'the order of its images'}; restore it, or "
            "give another --workdir"
        )


def _read_former(path: pathlib.Path) -> Iterator[str]:
    with open(path) as file:
        for line in file:
            yield json.loads(line)[1]
