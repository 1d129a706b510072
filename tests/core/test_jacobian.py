from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import UserError, spectrum
from ne_jax.core.jacobian import jacobian_spectrum

EPS = float(np.finfo(np.float32).eps)
SHAPE = (8, 8, 3)
NUMBERS = 192
KEY = jax.random.key(1)
IMAGE = jax.random.uniform(jax.random.key(0), SHAPE)
# Share of sigma_1: float32 sums of a few hundred products, through two layers and back.
ROUNDING = 32 * EPS


def convolve(image, kernel):
    return jax.lax.conv_general_dilated(
        image[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )[0]


def network(outputs: int):
    """Two convolutions, tanh between them, and the second's output squared beside it, as a pytree."""
    generator = np.random.default_rng(0)
    first, second = (
        jnp.asarray(generator.standard_normal(shape) / np.sqrt(np.prod(shape[:3])), jnp.float32)
        for shape in ((3, 3, 3, 12), (3, 3, 12, outputs))
    )

    def function(image):
        seen = convolve(jnp.tanh(convolve(image, first)), second)
        return {"seen": seen, "energy": (seen.mean(axis=(0, 1)) ** 2,)}

    return function


WIDE, NARROW = network(8), network(1)  # 520 outputs of 192 numbers; 65


def dense(function) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """J, all its singular values, and its right vectors in rows, in float64."""
    leaves = jax.tree.leaves(jax.jit(jax.jacobian(function))(IMAGE))
    matrix = np.concatenate([np.asarray(leaf, np.float64).reshape(-1, NUMBERS) for leaf in leaves])
    _, values, right = np.linalg.svd(matrix)
    return matrix, np.pad(values, (0, NUMBERS - len(values))), right


def rows(found) -> np.ndarray:
    return np.asarray(found.vectors, np.float64).reshape(len(found.vectors), -1)


def assert_orthonormal(found) -> None:
    vectors = rows(found)
    assert np.linalg.norm(vectors @ vectors.T - np.eye(len(vectors)), ord=2) <= ROUNDING


@pytest.mark.parametrize("end", ["lowest", "largest"])
def test_agrees_with_a_dense_jacobian(end):
    """Both ends of a nonlinear network's Jacobian have the values, sigma_1 and subspaces of numpy's SVD in float64, in order."""
    matrix, values, right = dense(WIDE)
    found = jacobian_spectrum(KEY, WIDE, IMAGE, 6, end=end, iterations=200)
    order = np.arange(NUMBERS) if end == "largest" else np.arange(NUMBERS)[::-1]
    values, right, sigma_1 = values[order], right[order], values[0]
    np.testing.assert_allclose(found.singular_values, values[:6], rtol=0, atol=ROUNDING * sigma_1)
    np.testing.assert_allclose(found.sigma_1, sigma_1, rtol=ROUNDING)
    assert_orthonormal(found)
    gaps = np.abs(np.diff(values[:7] ** 2)) / sigma_1**2
    splits = [split for split in range(1, 7) if gaps[split - 1] > 1e-3]
    assert len(splits) >= 2
    for split in splits:  # Davis and Kahan's bound, of J^T J
        kept = rows(found)[:split]
        difference = kept.T @ kept - right[:split].T @ right[:split]
        assert np.linalg.norm(difference, ord=2) <= ROUNDING / gaps[split - 1]


def test_residuals_are_true():
    """After few iterations as after many, the residuals are those that the dense Jacobian gives; many make them small."""
    matrix, values, _ = dense(WIDE)
    largest = []
    for iterations in (1, 200):
        found = jacobian_spectrum(KEY, WIDE, IMAGE, 6, iterations=iterations)
        vectors, sigma = rows(found), np.asarray(found.singular_values, np.float64)
        left = vectors @ matrix.T @ matrix - sigma[:, None] ** 2 * vectors
        expected = np.linalg.norm(left, axis=1) / values[0] ** 2
        np.testing.assert_allclose(found.residuals, expected, rtol=1e-2, atol=ROUNDING)
        largest.append(expected.max())
    assert largest[0] > 1e-3 and largest[1] <= ROUNDING


def test_fewer_outputs_than_numbers_leave_a_null_space():
    """Where a network has fewer outputs, what comes back as lowest is not seen by it: norm(J v) is rounding."""
    matrix, values, _ = dense(NARROW)
    found = jacobian_spectrum(KEY, NARROW, IMAGE, 24)
    assert_orthonormal(found)
    assert np.linalg.norm(matrix @ rows(found).T, ord=2) <= ROUNDING * values[0]
    assert np.asarray(found.singular_values).max() <= ROUNDING * values[0]
    np.testing.assert_allclose(found.sigma_1, values[0], rtol=ROUNDING)


def test_a_first_layer_has_its_own_spectrum(make_layer):
    """Of a linear layer on patches both ends are those of `ne_jax.spectrum`, each value once for every patch."""
    layer = make_layer(np.geomspace(1, 1e-2, 12), (2, 2, 3)).layer
    expected = np.repeat(spectrum(layer, (4, 6, 3)).singular_values, 6)
    image = jax.random.uniform(KEY, (4, 6, 3))
    for end, values in (("largest", expected), ("lowest", expected[::-1])):
        found = jacobian_spectrum(KEY, layer.apply, image, 9, end=end, iterations=200)
        np.testing.assert_allclose(found.singular_values, values[:9], rtol=0, atol=ROUNDING)
        assert_orthonormal(found)


def test_composes_with_jit_and_vmap():
    """Under jit and vmap, over images and over what the function closes over, each image has the spectrum it has alone."""
    images = jax.random.uniform(jax.random.key(3), (2, 4, 4, 3))
    kernel = jax.random.normal(jax.random.key(4), (3, 3, 3, 5)) / 5

    @jax.jit
    @jax.vmap
    def batched(key, image, gain):
        def function(image):
            return jnp.tanh(gain * convolve(image, kernel))

        return jacobian_spectrum(key, function, image, 2), jax.jacobian(function)(image).reshape(-1, image.size)

    found, matrices = batched(jax.random.split(KEY, 2), images, jnp.array([0.5, 2.0]))
    assert found.vectors.shape == (2, 2, 4, 4, 3)
    for place, matrix in enumerate(np.asarray(matrices, np.float64)):
        values = np.linalg.svd(matrix, compute_uv=False)
        one = jax.tree.map(lambda leaf, place=place: leaf[place], found)
        np.testing.assert_allclose(one.singular_values, values[:-3:-1], rtol=0, atol=ROUNDING * values[0])
        assert_orthonormal(one)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_jacobian_of_rank_zero_or_one_gives_finite_orthonormal_vectors(rank):
    """A search that has exhausted all that J maps goes on in the rest: no NaN, no direction twice."""
    found = jacobian_spectrum(KEY, lambda image: rank * image[0, 0, 0], IMAGE[:3, :4], 4)
    assert_orthonormal(found)
    assert np.abs(np.asarray(found.singular_values)).max() <= ROUNDING
    assert np.isfinite(found.residuals).all()
    np.testing.assert_allclose(found.sigma_1, rank, rtol=ROUNDING)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (0, {}, r"count 0 is not in 1 \.\.\. 24, an eighth of an image of shape \(8, 8, 3\)"),
        (25, {}, "count 25 is not in"),
        (2, {"end": "smallest"}, "end 'smallest' is unknown; choose one of lowest, largest"),
        (2, {"iterations": 0}, "iterations 0 is not positive"),
    ],
)
def test_what_cannot_be_searched_is_refused(count, options, message):
    """Counts out of range, unknown ends and no iterations are refused in one line."""
    with pytest.raises(UserError, match=message):
        jacobian_spectrum(KEY, WIDE, IMAGE, count, **options)
