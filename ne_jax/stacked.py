"""Several authorized models at once: their first layers as one, which sees what any of them sees."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from ne_jax.errors import UserError
from ne_jax.first_layer import FirstLayer
from ne_jax.polyphase import pads


def stacked(layers: Sequence[FirstLayer], image_shape: tuple[int, int, int], *, unit_norm: bool = False) -> FirstLayer:
    """One layer with the outputs of all `layers`, one after another, on images of `image_shape` (H, W, C).

    A change that it does not see none of them sees: its null space is the intersection of theirs, in general d - M_1 - M_2 - ...
    directions of a window's d, and `certify` holds for each of them in a subspace of the stack (T1). Where the outputs together
    are d or more nothing exactly null is left.

    In pixel units: each kernel / its std, then std = 1. mean = that of the first layer; only `response` depends on it.
    Not scaled by default: the outputs are the layers' own, and a threshold relative to sigma_1 favours the loudest of them.
    unit_norm: each is first divided by the largest singular value of its window's map, so that a threshold means about the same
    for every one. Null directions are the same either way.

    Raises UserError for no layers, and for one whose windows, strides or padding are not those of the first.
    """
    if not layers:
        raise UserError("there are no layers; give the first layers of the models that are authorized together")
    first, padding = layers[0], _padding(layers[0], image_shape)
    for place, layer in enumerate(layers[1:], 2):
        if (layer.window, layer.strides, _padding(layer, image_shape)) != (first.window, first.strides, padding):
            raise UserError(
                f"layer {place} of {len(layers)}, {layer}, does not cut images {image_shape} into the windows of {first}; models "
                "authorized together must cut the image into the same windows"
            )
    kernels = [layer.matrix.T / (_largest(layer) if unit_norm else 1) for layer in layers]
    kernel = jnp.concatenate(kernels, axis=1).reshape(*first.window, -1)
    return FirstLayer(kernel, first.strides, padding, first.mean, np.ones(first.window[2]))


def _padding(layer: FirstLayer, image_shape: tuple[int, int, int]) -> tuple[tuple[int, ...], ...]:
    """In pixels, since "SAME" may add nothing."""
    return tuple(tuple(map(int, side)) for side in pads(layer, image_shape))


def _largest(layer: FirstLayer):
    # A layer of zeros stays one.
    return jnp.maximum(jnp.linalg.norm(layer.matrix, ord=2), np.finfo(np.float32).tiny)
