"""Patches, and a first layer's map of one, in float64 by NumPy."""

from __future__ import annotations

import numpy as np

EPS = float(np.finfo(np.float32).eps)


def patches_of(images, window) -> np.ndarray:
    """Patches in float64, cut by loops: (images, patches, d)."""
    images, (kh, kw, _) = np.asarray(images, np.float64), window
    return np.stack(
        [
            images[:, row : row + kh, column : column + kw].reshape(len(images), -1)
            for row in range(0, images.shape[1] - kh + 1, kh)
            for column in range(0, images.shape[2] - kw + 1, kw)
        ],
        axis=1,
    )


def matrix_of(layer) -> np.ndarray:
    """One patch's map, in float64, from the kernel."""
    kernel = np.asarray(layer.kernel, np.float64) / np.asarray(layer.std, np.float64)[:, None]
    return kernel.reshape(-1, kernel.shape[-1]).T
