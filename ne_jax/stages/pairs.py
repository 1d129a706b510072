"""The images of a release beside their clean pixels, read from its files and from the source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int, UInt8

from ne_jax.data import sources
from ne_jax.errors import UserError
from ne_jax.release import reading
from ne_jax.stages.job import Job


class Pairs(NamedTuple):
    """Stored images beside their clean pixels, both padded to the batch size; `kept` rows are real."""

    names: list[str]
    indices: Int[np.ndarray, " kept"]
    clean: UInt8[np.ndarray, "batch height width channels"]
    stored: Float32[np.ndarray, "batch height width channels"]
    kept: int


def pairs(job: Job, release_format: str, limit: int = 0) -> Iterator[Pairs]:
    """The release, read from its files, with the source's clean pixels, in padded batches; the first `limit` images (0: all)."""
    place = {name: index for index, name in enumerate(job.source.names)}
    size, seen = job.config.batch_size, 0
    for names, stored in reading.read_release(job.release_dir(release_format), size):
        names = names[: limit - seen] if limit else names
        strangers = [name for name in names if name not in place]
        if strangers:
            raise UserError(
                f"the release holds {strangers[0]}, which the data source no longer has; restore the source"
            )
        kept, indices = len(names), np.array([place[name] for name in names])
        padded = np.zeros((size, *stored.shape[1:]), np.float32)
        padded[:kept] = stored[:kept]
        yield Pairs(names, indices, _clean(job, indices), padded, kept)
        seen += kept
        if limit and seen >= limit:
            return


def _clean(job: Job, indices: Int[np.ndarray, " kept"]) -> UInt8[np.ndarray, "batch height width channels"]:
    """Clean pixels of images that the release holds, padded. Raises UserError if one can no longer be read."""

    def broken(_: int, why: str) -> None:
        raise UserError(f"the source changed after the release was made: {why}; restore it")

    return next(
        sources.batches(job.source, job.authorized.preprocess, job.config.batch_size, indices.tolist(), broken)
    ).pixels
