"""Second moments of the patches of a release of any size, read once, batch by batch: all that linear blind attacks need of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ne_jax.core.linear_estimate import ROUNDING, Unit, cut, steps
from ne_jax.core.pixels import Images
from ne_jax.errors import UserError

_SIDE = 4  # parts that each side of an image is cut into, to compare places


class Moments(NamedTuple):
    """Of `images` images and their `patches` whole patches, float64, pixel units.

    mean: of patches. covariance: of patches, around `mean`. steps: second moment of differences of neighbours, divided by sqrt 2 as
    `linear_estimate.steps` does: of noise that is fresh in every patch the same as its covariance.
    places: mean over the regions of an image, at most 4 x 4, of (C_r - C) C^-1 (C_r - C), with C_r the second moment there and C that of
    all patches, both around `mean`: how the covariance differs from place to place, in which noise that is the same everywhere cancels.
    """

    images: int
    patches: int
    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]
    steps: Float[np.ndarray, "d d"]
    places: Float[np.ndarray, "d d"]


def counts(most: int, first: int = 1) -> list[int]:
    """`first`, 4 times as many, 16 times, ... and `most`."""
    return sorted({*(first * 4**power for power in range(20) if first * 4**power < most), most})


def growing(batches: Iterator[Images], unit: Unit, at: Sequence[int], *, last: bool = False) -> list[Moments]:
    """Moments of the first so many images, for each of the ascending numbers `at`, or of all of them where there are fewer.

    last: of the last number alone, in the same bits: sums are taken in the same parts.
    Raises UserError for images that are a single patch.
    """
    numbers, wanted, found = int(np.prod(unit)), list(at), []
    total, products, differences = np.zeros(numbers), None, np.zeros((numbers, numbers))
    images = patches = pairs = 0

    def now() -> Moments:
        mean = total / patches
        square = np.outer(mean, mean)
        covariance = products.sum(0) / patches - square
        per_region = images * np.bincount(regions)[:, None, None]
        return Moments(
            images, patches, mean, covariance, differences / pairs, _spread(products / per_region - square, covariance)
        )

    for batch in batches:
        regions = _regions(batch.shape[1] // unit[0], batch.shape[2] // unit[1])
        while len(batch) and wanted:
            part, batch = batch[: wanted[0] - images], batch[wanted[0] - images :]
            own = cut(part, unit).astype(np.float64)
            jumps = steps(part, unit).reshape(-1, numbers).astype(np.float64)
            images, patches, pairs = images + len(part), patches + own.shape[0] * own.shape[1], pairs + len(jumps)
            total = total + own.sum((0, 1))
            differences += jumps.T @ jumps
            products = np.zeros((regions[-1] + 1, numbers, numbers)) if products is None else products
            for region, square in enumerate(products):  # in place: they are large
                each = own[:, regions == region].reshape(-1, numbers)
                square += each.T @ each
            if images == wanted[0]:
                wanted.pop(0)
                if not (last and wanted):
                    found.append(now())
    if not images:
        raise UserError("the release has no image to learn from")
    return found if not wanted else [*found, now()]


def _regions(rows: int, columns: int) -> Int[np.ndarray, " patches"]:
    """Which of at most 4 x 4 parts of the image each patch lies in."""
    row, column = (np.arange(count) * min(count, _SIDE) // count for count in (rows, columns))
    return (row[:, None] * min(columns, _SIDE) + column).ravel()


def _spread(each: Float[np.ndarray, "regions d d"], all_of_them: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    inverse = np.linalg.inv(all_of_them + ROUNDING * np.eye(len(all_of_them)))
    apart = each - all_of_them
    return np.mean([one @ inverse @ one for one in apart], axis=0)
