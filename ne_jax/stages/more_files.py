"""Second moments of more files than there are: pictures recoded again and again, each time under fresh keys. Nothing is written.

Noise is as fresh as in a release of that size; of different pictures there are no more than the source has, or than memory holds.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from ne_jax.attacks.moments import Moments, growing
from ne_jax.core.linear_estimate import Unit
from ne_jax.core.pixels import Images, float_pixels
from ne_jax.core.subspace import PatchSubspace, Subspace
from ne_jax.data.sources import num_workers
from ne_jax.recoding.design import Recipe
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.noise_keys import noise_keys
from ne_jax.stages.job import Job

Pictures = UInt8[np.ndarray, "n height width channels"]
_BYTES = 1 << 27  # of pictures of the source
_BATCH = 64
_WITHOUT_WINDOWS = (8, 8)  # patches for attacks, where the authorized model's windows overlap


def unit_of(space: Subspace) -> Unit:
    """What attacks cut images into."""
    return space.window if isinstance(space, PatchSubspace) else (*_WITHOUT_WINDOWS, space.image_shape[2])


def affordable(space: Subspace, products: float) -> int:
    """Files whose moments take so many products; 1 at least."""
    (height, width, _), unit = space.image_shape, unit_of(space)
    rows, columns = height // unit[0], width // unit[1]
    units_and_pairs = 3 * rows * columns - rows - columns
    return max(1, int(products // (units_and_pairs * float(np.prod(unit)) ** 2)))


def pictures_for(job: Job, files: int) -> Pictures:
    """Clean pictures, as many as files are wanted, the source has and memory holds, spread evenly."""
    return job.sample_pixels(min(files, _BYTES // int(np.prod(job.space.image_shape))))


def recoded(job: Job, recipe: Recipe, pictures: Pictures, files: int) -> Iterator[Images]:
    """So many files, in batches: the pictures as they would be stored, in every round under other keys than the release's and those of
    other rounds. The same pictures have the same files in the first round, whatever the number of files."""
    secret = hashlib.sha256(job.secret() + b"more files").digest()

    def batch(start: int, place: int) -> Images:
        pixels = pictures[place : place + _BATCH][: files - start - place]
        keys = noise_keys(secret, f"{recipe.design.name} {start}".encode(), pixels)
        return float_pixels(np.asarray(encode_batch(keys, pixels, recipe).stored))

    places = (
        (start, place)
        for start in range(0, files, len(pictures))
        for place in range(0, min(len(pictures), files - start), _BATCH)
    )
    workers = num_workers(job.config.data.workers)
    with ThreadPoolExecutor(workers) as pool:
        coming = deque(pool.submit(batch, *each) for each in itertools.islice(places, workers))
        while coming:
            images = coming.popleft().result()
            coming.extend(pool.submit(batch, *each) for each in itertools.islice(places, 1))
            yield images


def moments_of_more(
    job: Job, recipe: Recipe, pictures: Pictures, at: Sequence[int], release_format: str
) -> list[Moments]:
    """Of the ascending numbers of files `at`, with a bar. Raises UserError for images that are a single patch."""
    with tqdm(total=at[-1], desc=f"more files, {recipe.design.name} {release_format}", unit="file") as bar:

        def told() -> Iterator[Images]:
            for images in recoded(job, recipe, pictures, at[-1]):
                yield images
                bar.update(len(images))

        return growing(told(), unit_of(job.space), at)
