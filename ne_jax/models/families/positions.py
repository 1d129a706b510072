"""Position embeddings for another image size. Each publisher resizes them in his own way, and the numbers differ."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Weights = Float[np.ndarray, "new old"]


def _cubic(distance: Float[np.ndarray, "..."], sharpness: float) -> Float[np.ndarray, "..."]:
    """Keys' cubic convolution kernel; `sharpness` is his a, below 0."""
    x, a = np.abs(distance), sharpness
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def bicubic(old: int, new: int, scale: float | None = None) -> Weights:
    """torch's bicubic interpolation along one axis, edges repeated. scale: old pixels per new one; old / new unless given."""
    centres = (np.arange(new) + 0.5) * (scale or old / new) - 0.5
    return _spread(centres, old)


def bicubic_corners(old: int, new: int) -> Weights:
    """`bicubic` with align_corners=True."""
    return _spread(np.linspace(0, old - 1, new), old)


def _spread(centres: Float[np.ndarray, " new"], old: int) -> Weights:
    weights = np.zeros((len(centres), old))
    for tap in range(-1, 3):
        places = np.floor(centres).astype(int) + tap
        np.add.at(weights, (np.arange(len(centres)), places.clip(0, old - 1)), _cubic(centres - places, -0.75))
    return weights


def bicubic_antialias(old: int, new: int) -> Weights:
    """torch's bicubic interpolation with antialias=True, which is Pillow's: wider where it shrinks, cut off at edges."""
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale
    weights = _cubic((np.arange(old) + 0.5 - centres) / max(scale, 1), -0.5)
    return weights / weights.sum(axis=1, keepdims=True)


def linear_corners(old: int, new: int) -> Weights:
    """scipy.ndimage.zoom of order 1, as Google's code does it: linear, corners on corners."""
    return np.maximum(0, 1 - np.abs(np.linspace(0, old - 1, new)[:, None] - np.arange(old)))


@dataclasses.dataclass(frozen=True)
class Fit:
    """A `checkpoints.Source.fit` for embeddings (1, prefix + grid * grid, width).

    method: how one axis is resized. prefix: tokens before the patches. stored: how many of them the file has embeddings for; missing
    ones get zeros.
    """

    method: Callable[[int, int], Weights]
    prefix: int
    stored: int

    def __call__(self, tensor: np.ndarray, leaf_shape: tuple[int, ...]) -> np.ndarray | None:
        """The embeddings at the leaf's size; None for what is no square grid of its width."""
        if tensor.ndim != 3 or tensor.shape[::2] != leaf_shape[::2]:
            return None
        old, new = math.isqrt(max(tensor.shape[1] - self.stored, 0)), math.isqrt(leaf_shape[1] - self.prefix)
        if old**2 != tensor.shape[1] - self.stored or old < 2:
            return None
        tokens = np.zeros((1, self.prefix, leaf_shape[2]), tensor.dtype)
        tokens[:, : self.stored] = tensor[:, : self.stored]
        grid = tensor[0, self.stored :].reshape(old, old, -1)
        weights = np.eye(old) if old == new else self.method(old, new)
        grid = np.einsum("ia,jb,abw->ijw", weights, weights, grid, optimize=True)
        return np.concatenate([tokens, grid.reshape(1, -1, leaf_shape[2]).astype(tensor.dtype)], axis=1)


def fit(method: Callable[[int, int], Weights], prefix: int = 1, stored_prefix: int | None = None) -> Fit:
    """`Fit`, by default for a file with embeddings for every token before the patches."""
    return Fit(method, prefix, prefix if stored_prefix is None else stored_prefix)
