from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import FirstLayer, low_sensitivity, spectrum
from ne_jax.core.polyphase import gains
from ne_jax.core.utility_bound import BasisSplitter, ComplementSplitter, FourierSplitter, splitter

SPACES = {
    "few directions": ((4, 4, 3), (4, 4), "VALID", (17, 16, 3), 20),
    "many directions": ((4, 4, 3), (4, 4), "VALID", (17, 16, 3), 30),
    "5x5 / 2": ((5, 5, 3), (2, 2), ((2, 2), (2, 2)), (16, 12, 3), 200),
    "3x3 / 1, odd sides": ((3, 3, 1), (1, 1), "SAME", (9, 7, 1), 20),
}
# One program for each case.
SPLIT = jax.jit(lambda ready, delta: ready.split(delta))
PROJECT = jax.jit(lambda space, delta: space.project(delta))
KINDS = {"few directions": BasisSplitter, "many directions": ComplementSplitter}


@pytest.fixture(scope="module", params=SPACES)
def case(request):
    """The name, layer and subspace, and the subspace made ready."""
    window, strides, padding, shape, count = SPACES[request.param]
    kernel = np.random.default_rng(0).standard_normal((*window, 10))
    layer = FirstLayer(kernel, strides, padding, window[2] * [0.5], np.linspace(0.2, 0.4, window[2]))
    space = low_sensitivity(spectrum(layer, shape), "count", count)
    return request.param, layer, space, jax.jit(splitter)(layer, space)


def test_the_limits_are_above_and_near(case):
    """norm(A V) and sigma_1, against float64, are at least these and at most 2 % above; the least work is chosen."""
    name, layer, space, ready = case
    assert isinstance(ready, KINDS.get(name, FourierSplitter))
    if name in KINDS:
        matrix, basis = np.asarray(layer.matrix, np.float64), np.asarray(space.basis, np.float64)
        low, largest = np.linalg.norm(matrix @ basis, 2), np.linalg.norm(matrix, 2)
    else:
        low, largest = map(float, jax.jit(gains, static_argnums=2)(layer, space.projectors, space.image_shape))
    tiny = 1e-6 * largest  # null directions are float32's
    assert low - tiny <= float(ready.low) <= 1.02 * low + tiny
    assert largest * (1 - 1e-6) <= float(ready.largest) <= 1.02 * largest
    assert float(ready.anywhere) >= largest * (1 - 1e-6)


@pytest.mark.parametrize("where", ["inside", "outside", "anywhere"])
def test_a_change_is_split_where_it_lies(case, where):
    """norm(V c) and norm(delta - V c) are those of the projection, to a thousandth; what lies inside leaves roundings alone."""
    _, _, space, ready = case
    noise = jax.random.normal(jax.random.key(1), space.image_shape)
    part = PROJECT(space, noise)
    delta = {"inside": part, "outside": noise - part, "anywhere": noise}[where]
    found, part = SPLIT(ready, delta), PROJECT(space, delta)
    inside, outside, size = (float(np.linalg.norm(each)) for each in (part, delta - part, delta))
    assert float(found.inside) == pytest.approx(inside, rel=2e-2, abs=1e-5 * size)
    assert float(found.outside) == pytest.approx(outside, rel=2e-2, abs=1e-6 * size)
    assert float(found.error) < 2e-6 * size


def test_the_rest_is_what_the_synthesis_leaves(case):
    """Of frequencies: delta less the inverse transform of the projected coordinates, by NumPy in float64, has the norm told."""
    name, _, space, ready = case
    if name in KINDS:
        basis = np.asarray(space.basis, np.float64)
        patches = np.asarray(space.parts(jax.random.normal(jax.random.key(2), space.image_shape)), np.float64)
        delta = space.whole(jnp.asarray(patches @ basis @ basis.T, jnp.float32))
        left = np.asarray(space.parts(delta), np.float64)
        rest = left - left @ basis @ basis.T
    else:
        delta = space.sample(jax.random.key(2))
        rows, columns = np.array(space.image_shape[:2]) // space.strides
        cells = np.asarray(delta, np.float64).reshape(rows, space.strides[0], columns, space.strides[1], -1)
        cells = cells.transpose(0, 2, 1, 3, 4).reshape(rows, columns, -1)
        turned = np.einsum(
            "rcpq,rcq->rcp", np.asarray(space.projectors, np.complex128), np.fft.rfft2(cells, axes=(0, 1))
        )
        rest = cells - np.fft.irfft2(turned, s=(rows, columns), axes=(0, 1))
    found = SPLIT(ready, delta)
    # c is float32's, and so the rest, too, is of these roundings: a few of each number.
    allowed = 3e-6 * np.linalg.norm(delta)
    assert abs(float(found.outside) - np.linalg.norm(rest)) <= allowed
    assert float(found.outside) <= allowed
