"""A set of images in a fixed order, wherever they come from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

NO_LABEL = -1


class Source(NamedTuple):
    """A set of images in a fixed order.

    names: one unique name each, with "/" between folders, without the ending of a file. read: index -> upright image of mode "L"
    or "RGB", from many threads at once; raises BrokenImage. labels: gives class numbers, or NO_LABEL; slow the first time where
    they are in the records. classes: the names behind the labels, empty where there are none.
    """

    names: Sequence[str]
    read: Callable[[int], Image.Image]
    labels: Callable[[], Int[np.ndarray, " n"]]
    classes: Sequence[str]

    def take(self, indices: Sequence[int] | Int[np.ndarray, " m"], names: Sequence[str] | None = None) -> Source:
        """The images at `indices`, in that order, as a source of its own; under other names if given, one an index."""
        if names is None:
            names = [self.names[index] for index in indices]
        labels = functools.cache(lambda: self.labels()[np.asarray(indices, np.int64)])
        return Source(names, lambda place: self.read(int(indices[place])), labels, self.classes)

    def first(self, limit: int) -> Source:
        """The first `limit` images; all of them for 0."""
        return self.take(range(min(limit, len(self.names)))) if limit else self


def without_labels(names: Sequence[str], read: Callable[[int], Image.Image]) -> Source:
    """A source of which no class is known."""
    return Source(names, read, lambda: np.full(len(names), NO_LABEL, np.int32), ())
