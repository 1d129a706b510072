"""What an attack would read from more files than there are: a curve over few files carried on, with how unsure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ne_jax.measure.records import Foretold

_MODEL_ERROR = 0.04  # curves that were measured are no exact logistic ones
# Growth of the logit per e-fold of files, of curves that were measured: most of them between the half and twice this.
_SLOPE, _SPREAD = 1.2, 0.4
_FILES = 1e9  # nobody has more: where nothing was found yet, it may begin at any number up to this one
_MIDDLES, _SLOPES, _TOPS = 300, 15, 20


class Point(NamedTuple):
    """A value that was measured with so many files, and its 95 % interval."""

    files: int
    value: float
    ci95: tuple[float, float]


def reached(points: Sequence[Point], floor: float, ceiling: float, files: int) -> Foretold:
    """The value at `files`, from points in ascending order: of the last one where that has as many, else `ahead`. No less than at fewer
    files: who has more needs not use them."""
    last, best = points[-1], max(points, key=lambda point: point.value)
    if last.files < files:
        value, ci95 = ahead(points, floor, max(ceiling, best.value), files)
        how = "extrapolated"
    else:
        (value, ci95), how = last[1:], "simulated"
    value = max(value, best.value)
    return Foretold(files=files, value=value, ci95=(min(ci95[0], value), max(ci95[1], value)), how=how)


def ahead(points: Sequence[Point], floor: float, ceiling: float, files: int) -> tuple[float, tuple[float, float]]:
    """The value at `files`, and where it lies with 95 %, by a curve that is logistic in log files and rises from `floor`, on the files
    as they are, to at most `ceiling`, what the attack leaves of clean images.

    All such curves are weighed by how well they go through the points, and by how steep curves are that were measured. Half of the
    weight is with those that rise to the ceiling, the other half with those that end before. So where nothing is found yet, the
    interval says that it may begin at any time.
    """
    middles = np.linspace(0, np.log(_FILES), _MIDDLES)[:, None, None]
    spread = np.linspace(-2.5, 2.5, _SLOPES)[:, None]
    rise = (ceiling - floor) * np.linspace(1 / _TOPS, 1, _TOPS)

    def values(count: int) -> Float[np.ndarray, "middles slopes tops"]:
        steepness = _SLOPE * np.exp(_SPREAD * spread)
        return floor + rise / (1 + np.exp(np.clip(-steepness * (np.log(count) - middles), -50, 50)))

    fit = -0.5 * spread**2 + np.log(np.append(np.full(_TOPS - 1, 0.5 / (_TOPS - 1)), 0.5))
    for count, value, (low, high) in points:
        error = np.hypot((high - low) / 3.92, _MODEL_ERROR)
        fit = fit - 0.5 * ((values(count) - value) / error) ** 2
    found, weights = values(files).ravel(), np.exp(fit - fit.max()).ravel()
    order = np.argsort(found)
    shares = np.cumsum(weights[order]) / weights.sum()
    low, middle, high = (float(found[order[np.searchsorted(shares, share)]]) for share in (0.025, 0.5, 0.975))
    return middle, (low, high)
