"""Which versions of this package and of those that decide numbers are at work."""

from __future__ import annotations

import importlib.metadata

import ne_jax

_UNKNOWN = "unknown"


def versions(*packages: str) -> dict[str, str]:
    """Version by name, as they were asked for. This package's own needs no installation; another one that tells none is "unknown",
    which is no reason to lose a run."""
    return {name: ne_jax.__version__ if name == "ne_jax" else _told(name) for name in packages}


def _told(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return _UNKNOWN
