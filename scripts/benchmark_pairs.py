"""Runs side by side in one process: a machine that is busy is busy for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Row = dict[str, float]


def spread(values: list[float]) -> Row:
    """Median, least and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def seconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, `repeats` times in turn, after a round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                found[name].append(time.perf_counter() - start)
    return found


def ratio(found: dict[str, list[float]], one: str, other: str) -> Row:
    """Seconds of `one` over those of `other`, pair by pair: how many times as fast `other` is."""
    return spread([a / b for a, b in zip(found[one], found[other], strict=True)])


def rate(found: dict[str, list[float]], name: str, images: int) -> Row:
    """Images a second."""
    return spread([images / value for value in found[name]])
