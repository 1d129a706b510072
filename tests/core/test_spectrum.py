from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import FirstLayer, UserError, spectrum
from ne_jax.core.polyphase import PolyphaseSpectrum

EPS = float(np.finfo(np.float32).eps)


def rounding(dimension: int) -> float:
    """Error of singular values, as a share of sigma_1: LAPACK's backward error d eps, doubled for float32 kernels."""
    return 2 * dimension * EPS


def projector(vectors) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors @ vectors.T


CHOSEN = {
    "graded": np.geomspace(3, 3e-3, 12),
    "flat": np.full(12, 0.7),
    "pairs": np.repeat([8.0, 2.0, 0.5], 4),
    "rank 5": [5, 4, 3, 2, 1] + 7 * [0],
}


@pytest.mark.parametrize("name", CHOSEN)
def test_chosen_singular_values_come_back(make_layer, name):
    """The spectrum of a layer built from U diag(sigma) V^T is sigma."""
    chosen = make_layer(CHOSEN[name])
    found = spectrum(chosen.layer, (4, 6, 3))
    np.testing.assert_allclose(found.singular_values, chosen.sigma, rtol=0, atol=rounding(12) * chosen.sigma[0])
    assert (found.window, found.image_shape, found.num_patches) == ((2, 2, 3), (4, 6, 3), 6)


@pytest.mark.parametrize(("name", "split"), [("graded", 5), ("pairs", 4), ("pairs", 8), ("rank 5", 5)])
def test_chosen_subspaces_come_back(make_layer, name, split):
    """The last d - split right vectors span what was chosen (projectors: single vectors may turn), within Wedin's bound."""
    chosen = make_layer(CHOSEN[name])
    found = spectrum(chosen.layer, (2, 2, 3)).vectors
    difference = projector(found[:, split:]) - projector(chosen.vectors[:, split:])
    gap = chosen.sigma[split - 1] - chosen.sigma[split]
    assert np.linalg.norm(difference, ord=2) <= 2 * rounding(12) * chosen.sigma[0] / gap


@pytest.mark.parametrize(("window", "outputs"), [((4, 4, 1), 40), ((4, 4, 1), 16), ((4, 4, 3), 20)])
def test_agrees_with_numpy_in_float64(window, outputs):
    """Values, null space and reconstruction of a random layer agree with numpy's SVD in float64."""
    generator = np.random.default_rng(0)
    std = np.linspace(0.2, 0.3, window[2])
    kernel = generator.standard_normal((*window, outputs)).astype(np.float32)
    matrix = (kernel / std[:, None]).reshape(-1, outputs).T
    dimension, rank = matrix.shape[1], min(matrix.shape)
    _, values, right = np.linalg.svd(matrix)
    found = spectrum(FirstLayer(kernel, window[:2], "VALID", np.zeros(window[2]), std), (8, 8, window[2]))
    limit = rounding(dimension) * values[0]
    np.testing.assert_allclose(found.singular_values, np.pad(values, (0, dimension - rank)), rtol=0, atol=limit)
    assert np.linalg.norm(projector(found.vectors) - np.eye(dimension), ord=2) <= rounding(dimension)
    null = projector(found.vectors[:, rank:]) - projector(right[rank:].T)
    assert np.linalg.norm(null, ord=2) <= 2 * limit / values[-1]
    scaled = np.asarray(found.vectors, np.float64) * np.asarray(found.singular_values)
    assert np.linalg.norm(scaled @ scaled.T - matrix.T @ matrix, ord=2) <= 4 * limit * values[0]


def test_exact_null_space_when_a_patch_has_more_numbers_than_the_layer_outputs():
    """d = 588 inputs to 384 outputs: exactly 204 singular values are 0, and the layer does not see those directions."""
    kernel = np.random.default_rng(0).standard_normal((14, 14, 3, 384))
    layer = FirstLayer(kernel, (14, 14), "VALID", 3 * [0.5], 3 * [0.5])
    found = spectrum(layer, (28, 28, 3))
    values = np.asarray(found.singular_values)
    assert values.shape == (588,) and found.vectors.shape == (588, 588)
    assert np.sum(values == 0) == 204 and not values[384:].any()
    assert (np.diff(values) <= 0).all()
    seen = np.asarray(layer.matrix, np.float64) @ np.asarray(found.vectors[:, 384:], np.float64)
    assert np.linalg.norm(seen, ord=2) <= rounding(588) * values[0]


def test_singular_values_are_those_of_the_whole_image_s_map(make_layer):
    """The map of an image (5 x 7, so with pixels of no patch) has each patch's singular values once for every patch."""
    layer = make_layer(np.geomspace(2, 0.02, 12)).layer
    dense = jax.jit(jax.jacobian(layer.apply))(jnp.zeros((5, 7, 3))).reshape(2 * 3 * 12, 5 * 7 * 3)
    expected = np.linalg.svd(np.asarray(dense, np.float64), compute_uv=False)
    found = spectrum(layer, (5, 7, 3))
    assert found.num_patches == 6
    repeated = np.repeat(found.singular_values, found.num_patches)
    np.testing.assert_allclose(repeated, expected, rtol=0, atol=rounding(12) * expected[0])


def test_composes_with_jit(make_layer):
    """Inside jit a layer is an argument: the spectrum is the same, its shapes stay static."""
    layer = make_layer(np.geomspace(2, 0.02, 12)).layer
    outside, inside = spectrum(layer, (4, 4, 3)), jax.jit(lambda layer: spectrum(layer, (4, 4, 3)))(layer)
    np.testing.assert_allclose(inside.singular_values, outside.singular_values, rtol=0, atol=2 * rounding(12))
    assert inside.image_shape == (4, 4, 3)


@pytest.mark.parametrize("padding", ["SAME", ((0, 0), (0, 0))])
def test_padding_that_adds_nothing_is_accepted(make_layer, padding):
    """SAME on whole patches and explicit zeros are the same map as VALID."""
    chosen = make_layer(np.geomspace(2, 0.02, 12), padding=padding)
    found = spectrum(chosen.layer, (4, 6, 3)).singular_values
    np.testing.assert_allclose(found, chosen.sigma, rtol=0, atol=2 * rounding(12))


@pytest.mark.parametrize(
    ("strides", "padding", "image_shape", "message"),
    [
        ((3, 4), "VALID", (9, 8, 3), r"windows \(2, 4\) move by \(3, 4\) and leave pixels out"),
        ((2, 2), "VALID", (9, 8, 3), r"\(9, 8, 3\) is not divisible by the first layer's strides \(2, 2\)"),
        ((2, 4), "VALID", (8, 8, 1), r"image_shape \(8, 8, 1\) has 1 channels; the first layer takes 3"),
        ((2, 4), "VALID", (1, 8, 3), r"image_shape \(1, 8, 3\) is smaller than one patch \(2, 4\)"),
        ((2, 4), "VALID", (8, 3, 3), "smaller than one patch"),
        ((2, 4), "SAME", (8, 9, 3), "padding SAME do not tile an image of 8 x 9; crop it"),
        ((2, 4), ((1, 1), (0, 0)), (8, 8, 3), r"padding \(\(1, 1\), \(0, 0\)\) do not tile"),
    ],
)
def test_what_has_no_spectrum_is_refused(strides, padding, image_shape, message):
    """Gaps, sides that strides do not divide, other channels, too small images and padding are refused with what was found."""
    layer = FirstLayer(np.ones((2, 4, 3, 5)), strides, padding, 3 * [0.5], 3 * [0.5])
    with pytest.raises(UserError, match=message):
        spectrum(layer, image_shape)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 1)])
def test_windows_that_overlap_have_a_spectrum_of_the_image(strides):
    """Where windows overlap the singular values are of all directions of an image, by frequency."""
    layer = FirstLayer(np.ones((2, 4, 3, 5)), strides, "VALID", 3 * [0.5], 3 * [0.5])
    found = spectrum(layer, (8, 8, 3))
    assert isinstance(found, PolyphaseSpectrum) and found.singular_values.shape == (192,)
