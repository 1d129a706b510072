"""What attacks on the whole release would give if it had more files: a growth curve through what fewer files gave.

What a reader has back of what it lost, r = (value - as it is) / (clean - as it is), goes with the number of files n as a logistic curve
of log n: nothing at first, then more with each multiple, then everything. A straight line of log(r / (1 - r)) over log n goes through
the last points; it never falls. Like every extrapolation it is a guess, the wider the further.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import UNSET

from ne_jax.measure.records import RELEASED, Growth, lost

TIMES = 10  # more files that the report tells of
_POINTS = 3  # the last so many counts
_SIGMAS = 1.96


class Forecast(NamedTuple):
    """The measured figure with all files, and the extrapolated one with `times` as many; `then_low`, `then_high`: its 95 % interval, of the
    counting alone."""

    last: Growth
    times: float
    then: float
    then_low: float
    then_high: float


def forecasts(growth: Iterable[Growth], times: float = TIMES) -> list[Forecast]:
    """For each release the reader and attack that have most with `times` as many files, by accuracy or agreement; releases in which no
    reader lost anything, or whose curves have a single point, are left out."""
    lines: dict[tuple, list[Growth]] = {}
    for row in growth:
        if row.of == RELEASED and row.metric != "feature_cosine" and _lost(row):
            lines.setdefault((row.release_format, row.reader, row.attack), []).append(row)
    best: dict[object, Forecast] = {}
    for (release_format, _, _), line in lines.items():
        made = forecast(line, times)
        if made and (release_format not in best or made.then > best[release_format].then):
            best[release_format] = made
    return list(best.values())


def _lost(row: Growth) -> bool:
    return row.value_ne is not UNSET and lost(row.value_ne, row.value_clean)


def forecast(line: Sequence[Growth], times: float = TIMES) -> Forecast | None:
    """From the rows of one reader and attack, with `value_ne` and `value_clean`; None for fewer than two counts."""
    rows = sorted(line, key=lambda row: row.count)[-_POINTS:]
    if len(rows) < 2:
        return None
    last, room = rows[-1], rows[-1].value_clean - rows[-1].value_ne
    halves = np.array([row.ci95[1] - row.ci95[0] for row in rows]) / 2 / room
    least = np.minimum(halves, 0.5)  # what cannot be told from nothing, or from everything
    share = np.clip([(row.value - row.value_ne) / room for row in rows], least, 1 - least)
    heights, errors = np.log(share / (1 - share)), halves / _SIGMAS / (share * (1 - share))
    places = np.log([row.count for row in rows]) - np.log(last.count * times)
    # Weighted least squares; the height at place 0, which stands for `times` as many files, and its standard error.
    design, weights = np.stack([np.ones(len(rows)), places], 1), 1 / np.maximum(errors, 1e-6) ** 2
    spread = np.linalg.inv(design.T @ (weights[:, None] * design))
    height, slope = spread @ design.T @ (weights * heights)
    reach = _SIGMAS * np.sqrt(spread[0, 0])
    if slope < 0:  # more files give nothing less: the mean of the points
        height, reach = np.average(heights, weights=weights), _SIGMAS / np.sqrt(weights.sum())
    low, then, high = (last.value_ne + room / (1 + np.exp(-each)) for each in (height - reach, height, height + reach))
    return Forecast(last, times, float(then), float(low), float(high))
