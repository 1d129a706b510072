"""How the C library hands out memory to this process."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, malloc.h
_LARGEST = 1 << 30


def keep_freed() -> None:
    """Keep freed memory instead of giving it back to the system. glibc returns buffers of more than 32 MB at once, and the system
    fills each new one with zeros, page by page, which takes longer than recoding what goes in. Elsewhere nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _LARGEST)
