"""Second moments of the patches of a release of any size, read once, batch by batch: all that linear blind attacks need of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ne_jax.core.linear_estimate import Unit, cut, steps
from ne_jax.core.pixels import Images
from ne_jax.errors import UserError


class Moments(NamedTuple):
    """Of `images` images and their `patches` whole patches, float64, pixel units.

    mean: of patches. covariance: of patches, around `mean`. steps: second moment of differences of neighbours, divided by sqrt 2 as
    `linear_estimate.steps` does: of noise that is fresh in every patch the same as its covariance.
    """

    images: int
    patches: int
    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]
    steps: Float[np.ndarray, "d d"]


def counts(most: int, first: int = 1) -> list[int]:
    """`first`, 4 times as many, 16 times, ... and `most`."""
    return sorted({*(first * 4**power for power in range(20) if first * 4**power < most), most})


def growing(batches: Iterator[Images], unit: Unit, at: Sequence[int]) -> list[Moments]:
    """Moments of the first so many images, for each of the ascending numbers `at`, or of all of them where there are fewer.

    Raises UserError for images that are a single patch.
    """
    numbers, wanted, found = int(np.prod(unit)), list(at), []
    total, products, differences = np.zeros(numbers), np.zeros((numbers, numbers)), np.zeros((numbers, numbers))
    images = patches = pairs = 0

    def now() -> Moments:
        mean = total / patches
        return Moments(images, patches, mean, products / patches - np.outer(mean, mean), differences / pairs)

    for batch in batches:
        while len(batch) and wanted:
            part, batch = batch[: wanted[0] - images], batch[wanted[0] - images :]
            own = cut(part, unit).reshape(-1, numbers).astype(np.float64)
            jumps = steps(part, unit).reshape(-1, numbers).astype(np.float64)
            images, patches, pairs = images + len(part), patches + len(own), pairs + len(jumps)
            total, products, differences = total + own.sum(0), products + own.T @ own, differences + jumps.T @ jumps
            if images == wanted[0]:
                found.append(now())
                wanted.pop(0)
    if not images:
        raise UserError("the release has no image to learn from")
    return found if not wanted else [*found, now()]
