"""Other people's networks as models: what `from_onnx` and `from_torch` hand to the registry, and what both need."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Shaped

from ne_jax.data.preprocess import Preprocess
from ne_jax.errors import UserError

Sides = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right)), pixels


class Adapted(NamedTuple):
    """A network that another library runs, with the first convolution that this package needs to see.

    first_layer_kernel: (kh, kw, C, M), HWIO, float32, finite, for inputs normalised as (x - mean) / std.
    strides: (vertical, horizontal). padding: "VALID", "SAME" (XLA's: the odd pixel after) or ((top, bottom), (left, right)).
    mean, std: (C,), pixel units; the whole way from pixels to that convolution, whoever walks it. std > 0.
    preprocess: how an image becomes the pixels that `forward` takes; its mean and std are the same two.
    num_classes: length of the logits; 0 if there are only features.
    forward: pixels in [0, 1] units (a float NE may leave the range), (n, size, size, C) float32, not normalised, n >= 1
        -> (logits (n, num_classes) or None, features (n, F)), float32.
    sha256: of the file or files, hexadecimal; "" if unknown.
    """

    first_layer_kernel: Float32[np.ndarray, "kh kw channels outputs"]
    strides: tuple[int, int]
    padding: str | Sides
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocess: Preprocess
    num_classes: int
    forward: Callable[[np.ndarray], tuple[np.ndarray | None, np.ndarray]]
    sha256: str


def needed(package: str) -> types.ModuleType:
    """The optional `package`, imported. Raises UserError that says what to install."""
    try:
        return importlib.import_module(package)
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"this model needs {package} ({reason}); pip install {package}") from error


def normalise(
    pixels: Float32[np.ndarray, "n height width channels"], mean: Sequence[float], std: Sequence[float]
) -> Float32[np.ndarray, "n height width channels"]:
    """(pixels - mean) / std, float32."""
    return (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def pooled(output: Shaped[np.ndarray, "..."], label: str) -> Float32[np.ndarray, "n features"]:
    """An output as one vector an image: (n, F) as it is, the first of (n, T, F) tokens, the mean of an (n, F, H, W) map.

    Raises UserError, with `label`, for any other rank.
    """
    if output.ndim not in (2, 3, 4):
        raise UserError(f"{label} puts out an array of shape {output.shape}; features have 2, 3 or 4 axes")
    output = output.astype(np.float32)
    if output.ndim == 3:
        return output[:, 0]
    return output if output.ndim == 2 else output.mean((2, 3))


def kernel_of(weight: Float[np.ndarray, "outputs channels kh kw"]) -> Float32[np.ndarray, "kh kw channels outputs"]:
    """A convolution's weight, OIHW of any float type, as HWIO float32."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0), np.float32)


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros (before, after) that XLA's "SAME" adds to `side` pixels: the odd one comes after."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2
