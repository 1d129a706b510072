from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import FirstLayer
from ne_jax.core.enclosure import UNIT_ROUNDOFF
from ne_jax.core.first_layer import pads
from ne_jax.core.layer_products import ExactLayer, covering

APPLY = jax.jit(lambda layer, delta: ExactLayer.of(layer).apply(delta))
LAYERS = {
    "patches that leave pixels out": ((4, 4, 3), (4, 4), "VALID", (18, 17, 3)),
    "7x7 / 2": ((7, 7, 3), (2, 2), ((3, 3), (3, 3)), (16, 14, 3)),
    "3x3 / 1": ((3, 3, 1), (1, 1), "SAME", (9, 11, 1)),
    "uneven": ((7, 5, 2), (4, 2), "SAME", (24, 20, 2)),
    "much padding": ((4, 4, 3), (2, 2), ((5, 0), (1, 7)), (12, 12, 3)),
    "windows that leave the end out": ((3, 3, 1), (2, 2), "VALID", (10, 12, 1)),
}


def convolved(layer, delta) -> np.ndarray:
    """T delta in float64, by loops over the taps."""
    kernel = np.asarray(layer.kernel / layer.std[:, None], np.float64)
    padded = np.pad(np.asarray(delta, np.float64), [*pads(layer, delta.shape), (0, 0)])
    (kh, kw), (down, across) = kernel.shape[:2], layer.strides
    rows, columns = (padded.shape[0] - kh) // down + 1, (padded.shape[1] - kw) // across + 1
    return sum(
        padded[top : top + down * (rows - 1) + 1 : down, left : left + across * (columns - 1) + 1 : across]
        @ kernel[top, left]
        for top in range(kh)
        for left in range(kw)
    )


@pytest.mark.parametrize("name", LAYERS)
def test_the_error_is_at_most_what_is_claimed(name):
    """T delta of any window, stride and padding is as near to float64 as claimed, and the claim is a few roundings of the result."""
    window, strides, padding, shape = LAYERS[name]
    generator = np.random.default_rng(0)
    kernel, std = 30 * generator.standard_normal((*window, 5)), generator.uniform(0.2, 0.4, window[2])
    layer = FirstLayer(kernel, strides, padding, window[2] * [0.5], std)
    delta = jnp.asarray(generator.standard_normal(shape), jnp.float32)
    found = APPLY(layer, delta)
    exact = convolved(layer, delta)
    assert found.value.shape == (exact.shape[0] * exact.shape[1], 5)
    error = np.linalg.norm(np.asarray(found.value, np.float64) - exact.reshape(found.value.shape))
    assert error <= float(found.error) <= 8 * np.finfo(np.float32).eps * np.linalg.norm(exact)


def test_what_a_layer_does_not_see_is_measured_as_that():
    """A change in the null space of a layer of large outputs: float32's convolution gives rounding, this what is there."""
    generator = np.random.default_rng(1)
    layer = FirstLayer(100 * generator.standard_normal((8, 8, 3, 20)), (8, 8), "VALID", 3 * [0.5], 3 * [0.3])
    null = np.linalg.svd(np.asarray(layer.matrix, np.float64))[2][20:]
    patch = (generator.standard_normal((4, 172)) @ null).reshape(2, 2, 8, 8, 3).transpose(0, 2, 1, 3, 4)
    delta = jnp.asarray(patch.reshape(16, 16, 3), jnp.float32)
    exact, found = np.linalg.norm(convolved(layer, delta)), APPLY(layer, delta)
    assert abs(np.linalg.norm(found.value) - exact) <= 0.05 * exact
    plain = UNIT_ROUNDOFF * np.linalg.norm(layer.matrix) * np.linalg.norm(delta)
    assert abs(np.linalg.norm(found.value) - exact) <= float(found.error) < 0.1 * plain
    assert np.linalg.norm(layer.apply(delta)) > 2 * exact


@pytest.mark.parametrize(
    ("window", "strides", "count"), [((4, 4, 3), (4, 4), 1), ((7, 7, 3), (2, 2), 16), ((7, 5, 2), (4, 2), 6)]
)
def test_how_many_windows_see_a_pixel(window, strides, count):
    """Counted from the sides: patches 1, 7x7 by steps of 2 up to 16."""
    assert covering(FirstLayer(np.ones((*window, 2)), strides, "VALID", window[2] * [0.5], window[2] * [0.5])) == count
