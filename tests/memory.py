"""What the process has of the system's memory, where the system tells."""

from __future__ import annotations

from pathlib import Path

_MAPS = Path("/proc/self/maps")  # of Linux; elsewhere there is none, and nothing is known


def mappings() -> int:
    """How many stretches of memory are mapped; 0 where it is not known."""
    return _MAPS.read_bytes().count(b"\n") if _MAPS.exists() else 0
