"""How near the bound is to the gap: no part of it is there for nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import FirstLayer, certify, low_sensitivity, recode, spectrum
from ne_jax.core.layer_products import ExactLayer
from ne_jax.core.polyphase import unpadded, wrap_around
from ne_jax.core.unfold import fold
from ne_jax.core.utility_bound import splitter
from tests.core.patch_maps import EPS, matrix_of, patches_of


def test_the_bound_is_tight(make_layer):
    """Along the worst direction of V_N the measured gap reaches at least .999 of the bound."""
    chosen = make_layer(np.geomspace(1, 0.05, 30), (4, 4, 3), outputs=30)
    space = low_sensitivity(spectrum(chosen.layer, (12, 16, 3)), "count", 40)
    assert float(space.singular_values[-18:].max()) == 0 < float(space.singular_values[0])
    image = jnp.zeros((12, 16, 3))  # so that x + delta is delta, exactly
    amplitudes = np.random.default_rng(0).standard_normal((12, 1))
    worst, null = (
        fold(jnp.asarray(amplitudes * np.asarray(space.basis)[:, column], jnp.float32), (4, 4, 3), (12, 16, 3))
        for column in (0, -1)
    )
    certificate = certify(chosen.layer, space, image[None], worst[None])
    assert bool(certificate.holds[0])
    assert float(certificate.feature_gap[0]) >= 0.999 * float(certificate.bound[0])
    # As much change in a null direction reaches next to nothing of it: the bound is of the worst case.
    gentle = certify(chosen.layer, space, image[None], null[None])
    assert bool(gentle.holds[0]) and float(gentle.feature_gap[0]) < 1e-3 * float(gentle.bound[0])


APPLY = jax.jit(lambda layer, delta: ExactLayer.of(layer).apply(delta))


def _constant_image_case():
    """A layer that sees differences alone, on images that wrap around, and a constant change: all of its gap is the border's."""
    kernel = np.zeros((3, 3, 1, 2))
    kernel[1, (0, 2), 0, 0], kernel[(0, 2), 1, 0, 1] = (1, -1), (1, -1)
    layer = FirstLayer(kernel, (1, 1), ((1, 1), (1, 1)), [0.5], [0.3])
    space = low_sensitivity(spectrum(layer, (6, 6, 1)), "relative", 1e-3)
    return layer, space, jnp.full((6, 6, 1), 0.1)


def _worst_case(layer, space, largest: bool):
    """The change that the layer sees most of, of all that lie outside V_N or inside."""
    basis = np.asarray(space.basis, np.float64)
    inside = basis @ basis.T
    part = np.eye(len(basis)) - inside if largest else inside
    worst = np.linalg.svd(matrix_of(layer) @ part)[2][0]
    return fold(jnp.asarray(np.tile(worst, (space.num_patches, 1)), jnp.float32), space.window, space.image_shape)


@pytest.mark.parametrize("term", ["subspace_term", "residual_term", "border_term"])
def test_no_term_can_be_halved(graded, space, term):
    """For each term there is a change whose gap comes up to it, so that a bound with half of it is wrong."""
    if term == "border_term":
        layer, of, delta = _constant_image_case()
    else:
        layer, of, delta = graded.layer, space, _worst_case(graded.layer, space, term == "residual_term")
    image = jnp.zeros(delta.shape)
    found = certify(layer, of, image[None], delta[None])
    gap, bound = float(found.feature_gap[0]), float(found.bound[0])
    assert bool(found.holds[0]) and gap <= bound
    assert gap > bound - float(getattr(found, term)[0]) / 2


@pytest.mark.parametrize("overlapping", [False, True])
def test_the_precision_term_is_what_rounding_adds_up_to(graded, space, images, overlapping):
    """The claimed errors of T delta, of the split and of the border, one rounding of each pixel's change, and the norm's own: neither
    half nor twice of it."""
    layer, of, clean = graded.layer, space, images[:1]
    if overlapping:
        layer, of, _ = _constant_image_case()
        clean = images[:1, :6, :6, :1]
    stored = clean * 0.5
    found, ready = certify(layer, of, clean, stored), jax.jit(splitter)(layer, of)
    delta = (stored - clean)[0]
    seen, split = APPLY(layer, delta), jax.jit(lambda ready, delta: ready.split(delta))(ready, delta)
    expected = float(seen.error) + float(ready.largest * split.error)
    expected += EPS / 2 * float(ready.anywhere) * np.linalg.norm(delta) + EPS / 2 * (seen.value.size + 8) * float(
        found.feature_gap[0]
    )
    others = float(found.bound[0] - found.precision_term[0])
    expected += 32 * EPS * others
    if overlapping:
        expected += float(APPLY(unpadded(layer), wrap_around(layer, delta)).error)
    assert float(found.precision_term[0]) == pytest.approx(expected, rel=1e-3)
    # One piece is tested for itself: a difference of pixels that float32 has to round, all in the direction seen most.
    assert expected > EPS / 2 * float(ready.largest) * np.linalg.norm(delta)


def test_the_bound_is_of_the_true_gap(graded, space, keys, images):
    """Of float32 noise in V_N, whose gap is its own rounding: the bound is above the gap in float64, and at most 20 times it."""
    recoded = jax.jit(jax.vmap(lambda key, image: recode(key, image, space, 0.0)))(keys, images)
    null = low_sensitivity(spectrum(graded.layer, (16, 16, 3)), "count", 8)
    for of, stored in (
        (space, recoded),
        (null, jax.jit(jax.vmap(lambda key, image: recode(key, image, null, 0.0)))(keys, images)),
    ):
        found = certify(graded.layer, of, images, stored)
        delta = patches_of(np.asarray(stored, np.float64) - np.asarray(images, np.float64), (4, 4, 3))
        gap = np.sqrt(np.sum((delta @ matrix_of(graded.layer).T) ** 2, axis=(1, 2)))
        assert (gap <= np.asarray(found.bound)).all() and np.median(np.asarray(found.bound) / gap) <= 20
        np.testing.assert_allclose(found.feature_gap, gap, rtol=0.05)


def test_the_gap_has_its_gradient(graded, space, images):
    """d norm(T delta) / d image = -T^T T delta / norm(T delta), although the gap is measured by whole numbers."""
    clean, stored = images[:1], images[:1] * 0.9
    found = jax.grad(lambda images: certify(graded.layer, space, images, stored).feature_gap.sum())(clean)[0]
    outputs = graded.layer.apply((stored - clean)[0])
    expected = -graded.layer.adjoint(outputs, (16, 16, 3)) / jnp.linalg.norm(outputs)
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(jnp.abs(expected).max()))
