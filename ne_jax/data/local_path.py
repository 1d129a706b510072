"""Paths as people write them."""

from __future__ import annotations

import os
import re

from ne_jax.errors import UserError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def expanded(path: str, name: str) -> str:
    """`path` with ~ and ~USER at its start as a shell has them. `name`: of the flag or setting, for the error.

    Raises UserError for a place that is not on this machine (gs://, s3:// and others), and for a user whom the system does not know.
    """
    scheme = _SCHEME.match(path)
    if scheme:
        raise UserError(
            f"{name} {path}: {scheme[1]}:// is not supported; give a path of this machine, where it is copied or mounted"
        )
    whole = os.path.expanduser(path)
    if path.startswith("~") and whole == path:
        user = path.partition("/")[0]
        raise UserError(f"{name} {path}: there is no user {user[1:]}; give the whole path, or ./{path} for that name")
    return whole
