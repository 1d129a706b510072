"""Certificates of the authorized model: they hold for any change, and say what they cannot be made of."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ne_jax import (
    FirstLayer,
    UserError,
    certify,
    compare_logits,
    failure_upper_bound,
    isotropic,
    low_sensitivity,
    recode,
    spectrum,
)
from tests.core.patch_maps import EPS, matrix_of, patches_of

TRACED = jax.jit(lambda layer, space, images, recoded: certify(layer, space, images, recoded))
CHANGES = {
    "gaussian": lambda key, image, space: recode(key, image, space, 14.0),
    "boxed": lambda key, image, space: recode(key, image, space, 14.0, design="boxed"),
    "isotropic": lambda key, image, space: isotropic(key, image, 20.0),
    "another image": lambda key, image, space: jax.random.uniform(key, image.shape),
}


@pytest.fixture(scope="module", params=CHANGES)
def release(request, space, keys, images):
    """The name of a kind of change, and 64 images changed so."""
    change = jax.jit(jax.vmap(lambda key, image: CHANGES[request.param](key, image, space)))
    return request.param, change(keys, images)


def test_certificate_holds_for_every_kind_of_change(graded, space, images, release):
    """Measured gap <= bound: for changes inside V_N, rounded ones, and any other."""
    certificate = certify(graded.layer, space, images, release[1])
    assert certificate.holds.shape == (64,) and bool(certificate.holds.all())
    assert (np.asarray(certificate.feature_gap) <= np.asarray(certificate.bound)).all()
    assert (np.asarray(certificate.feature_gap) > 0).all()


@given(seed=st.integers(0, 2**32 - 1), count=st.sampled_from([1, 40]), psnr_db=st.floats(0, 40))
def test_certificate_holds_on_random_layers(seed, count, psnr_db):
    """Measured gap <= bound on random kernels of any scale, subspaces of any size and any strength."""
    generator = np.random.default_rng(seed)
    scale = 10 ** generator.uniform(-3, 3)
    kernel = scale * generator.standard_normal((4, 4, 3, 24))
    layer = FirstLayer(kernel, (4, 4), "VALID", 3 * [0.5], generator.uniform(0.1, 1, 3))
    space = low_sensitivity(spectrum(layer, (8, 8, 3)), "count", count)
    image = jnp.asarray(generator.uniform(0, 1, (8, 8, 3)), jnp.float32)
    recoded = recode(jax.random.key(seed % 1000), image, space, psnr_db)
    certificate = certify(layer, space, image[None], recoded[None])
    assert bool(certificate.holds[0])
    assert float(certificate.feature_gap[0]) <= float(certificate.bound[0])


def test_certificate_agrees_with_a_naive_reference(graded, space, images, release):
    """Every figure equals a float64 computation with loops over patches, to the rounding that the bound itself counts."""
    recoded = release[1]
    certificate = certify(graded.layer, space, images, recoded)
    delta = patches_of(np.asarray(recoded, np.float64) - np.asarray(images, np.float64), (4, 4, 3))
    matrix, basis = matrix_of(graded.layer), np.asarray(space.basis, np.float64)
    inside = delta @ basis @ basis.T
    clean = patches_of(np.asarray(images, np.float64) - np.asarray(graded.layer.mean), (4, 4, 3)) @ matrix.T

    def norm(patches):
        return np.sqrt(np.sum(patches**2, axis=(1, 2)))

    # Rounding of a product of 48 terms, before and after the projection.
    limit = 2 * 48 * EPS * np.linalg.norm(matrix) * norm(delta)
    assert (np.abs(certificate.feature_gap - norm(delta @ matrix.T)) <= limit).all()
    for term, exact in (
        (certificate.subspace_term, np.linalg.norm(matrix @ basis, ord=2) * norm(inside)),
        (certificate.residual_term, np.linalg.norm(matrix, ord=2) * norm(delta - inside)),
    ):
        # Limits from above, with the roundings of norms of 768 numbers in them.
        assert (exact - limit <= np.asarray(term)).all() and (np.asarray(term) <= exact * (1 + 1e-3) + limit).all()
    expected = np.sqrt(np.mean(graded.sigma[24:] ** 2)) * norm(inside)
    assert (np.abs(certificate.expected_gap - expected) <= limit).all()
    # Sums of 768 squares, each with a few roundings of its own.
    relative = 768 * EPS
    np.testing.assert_allclose(certificate.delta_norm, norm(delta), rtol=relative)
    np.testing.assert_allclose(
        certificate.psnr_db, -10 * np.log10(norm(delta) ** 2 / 768), atol=10 * relative, rtol=EPS
    )
    np.testing.assert_allclose(certificate.relative_gap, norm(delta @ matrix.T) / norm(clean), rtol=2 * relative)


def test_the_bound_is_the_sum_of_its_terms(graded, space, images, release):
    """bound = subspace + residual + precision term, all positive; precision's is small, and so is gaussian's residual."""
    change, recoded = release
    certificate = certify(graded.layer, space, images, recoded)
    terms = np.stack([certificate.subspace_term, certificate.residual_term, certificate.precision_term])
    assert (terms > 0).all()
    np.testing.assert_allclose(certificate.bound, terms.sum(0), rtol=2 * EPS)
    assert (terms[2] < 1e-3 * terms[:2].sum(0)).all()
    if change == "gaussian":
        assert (terms[1] < 1e-3 * terms[0]).all()
    assert not np.any(certificate.border_term)  # patches have no border


def test_expected_gap_is_what_gaussian_noise_gives(graded, space, keys, images):
    """In a subspace larger than the null space the median measured gap is within 10 % of `expected_gap`."""
    recoded = jax.vmap(lambda key, image: CHANGES["gaussian"](key, image, space))(keys, images)
    certificate = certify(graded.layer, space, images, recoded)
    assert np.median(certificate.feature_gap / certificate.expected_gap) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_subspace_of_another_layer_still_gives_a_valid_bound(make_layer, graded, space, scale):
    """The bound is of the layer that is certified, also when the subspace, and its sigma, are another layer's."""
    other = make_layer(scale * np.geomspace(1, 0.1, 30), (4, 4, 3), outputs=30, seed=5)
    generator = np.random.default_rng(0)
    images = jnp.asarray(generator.uniform(0.3, 0.7, (4, 16, 16, 3)), jnp.float32)
    # The worst change outside V_N for the other layer: its largest right singular vector on the complement.
    basis = np.asarray(space.basis, np.float64)
    complement = np.eye(48) - basis @ basis.T
    worst = np.linalg.svd(matrix_of(other.layer) @ complement)[2][0].reshape(4, 4, 3)
    changes = {
        "outside": 0.2 * np.tile(worst, (4, 4, 4, 1)),
        "inside": 0.1 * np.asarray(jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 4))),
        "both": 0.1 * generator.standard_normal((4, 16, 16, 3)),
    }
    for delta in changes.values():
        certificate = certify(other.layer, space, images, images + jnp.asarray(delta, jnp.float32))
        assert (np.asarray(certificate.feature_gap) <= np.asarray(certificate.bound)).all()
        assert bool(certificate.holds.all())


@pytest.mark.parametrize(("strides", "padding"), [((1, 1), "VALID"), ((2, 4), "VALID"), ((4, 4), "SAME")])
def test_certify_refuses_layers_of_other_patches(graded, strides, padding):
    """Where windows overlap, or padding moves them, the norm of one window's map bounds nothing: refused, not claimed."""
    space = low_sensitivity(spectrum(graded.layer, (17, 18, 3)), "count", 24)
    other = FirstLayer(graded.layer.kernel, strides, padding, graded.layer.mean, graded.layer.std)
    image = jnp.full((1, 17, 18, 3), 0.5)
    with pytest.raises(UserError, match="patches"):
        certify(other, space, image, image + 0.1 * space.sample(jax.random.key(0)))


def test_no_change_is_certified(graded, space, images):
    """An image stored unchanged has no gap, a bound of 0 that holds, and infinite PSNR."""
    certificate = certify(graded.layer, space, images[:2], images[:2])
    assert bool(certificate.holds.all())
    assert not np.any(certificate.feature_gap) and not np.any(certificate.bound)
    assert (np.asarray(certificate.psnr_db) == np.inf).all()


def test_stored_bytes_are_certified_as_their_floats(graded, space, keys, images):
    """uint8 images and releases are certified like the floats that they stand for."""
    stored = [np.round(255 * np.asarray(batch)).astype(np.uint8) for batch in (images[:2], images[2:4])]
    floats = [jnp.asarray(batch, jnp.float32) / 255 for batch in stored]
    from_bytes, from_floats = certify(graded.layer, space, *stored), certify(graded.layer, space, *floats)
    for name, value in from_bytes._asdict().items():
        np.testing.assert_array_equal(value, getattr(from_floats, name), err_msg=name)


def test_releases_outside_the_range_are_certified(graded, space, images):
    """A float release may leave [0, 1]; the clean images may not."""
    assert bool(certify(graded.layer, space, images[:2], images[:2] - 3).holds.all())
    with pytest.raises(UserError, match="images has values from"):
        certify(graded.layer, space, images[:2] - 3, images[:2])


def test_releases_with_nan_are_refused(graded, space, images):
    """A release with a NaN has no certificate: it is refused by name."""
    with pytest.raises(UserError, match="recoded"):
        certify(graded.layer, space, images[:2], images[:2].at[1, 2, 3, 0].set(jnp.nan))


@pytest.mark.parametrize(
    "shapes", [((2, 16, 16, 3), (2, 16, 12, 3)), ((2, 8, 8, 3), (2, 8, 8, 3)), ((2, 16, 16, 3), (3, 16, 16, 3))]
)
def test_other_shapes_are_refused(graded, space, shapes):
    """Images and releases must both have the shape that the subspace is of; the message gives all three."""
    clean, recoded = (np.zeros(shape, np.float32) for shape in shapes)
    # Unwrapped where the session's type checks would refuse first.
    check = certify if shapes[0] == shapes[1] else inspect.unwrap(certify)
    message = r"images \(.*\) and recoded \(.*\) must both be of the subspace's \(16, 16, 3\)"
    with pytest.raises(UserError, match=message):
        check(graded.layer, space, clean, recoded)


def test_predictions_are_compared_on_hand_made_logits():
    """argmax, margins and logit gap are those that one reads off."""
    clean = jnp.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.5], [1.0, 1.0, 5.0]])
    stored = jnp.array([[2.0, 1.5, 0.0], [0.0, 1.0, 4.0], [1.0, 1.0, 5.0]])
    found = compare_logits(clean, stored)
    assert found.predicted_clean.tolist() == [0, 1, 2]
    assert found.predicted.tolist() == [0, 2, 2]
    assert found.kept.tolist() == [True, False, True]
    np.testing.assert_allclose(found.margin_clean, [2, 0.5, 4], rtol=EPS)
    np.testing.assert_allclose(found.margin, [0.5, 3, 4], rtol=EPS)
    np.testing.assert_allclose(found.logit_gap, np.sqrt([1.25, 7.25, 0]), rtol=4 * EPS)


@pytest.mark.parametrize("n", [1, 10, 300, 5000])
def test_failure_bound_at_its_ends(n):
    """No failure of n: 1 - .05^(1/n), about 3 / n; n of n: 1."""
    assert failure_upper_bound(0, n) == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-9)
    assert failure_upper_bound(n, n) == 1
    if n >= 300:
        assert failure_upper_bound(0, n) == pytest.approx(3 / n, rel=0.01)


@given(n=st.integers(1, 2000), share=st.floats(0, 0.999), confidence=st.sampled_from([0.9, 0.95, 0.999]))
def test_failure_bound_inverts_the_binomial(n, share, confidence):
    """At the bound, as few failures as seen have exactly probability 1 - confidence: less would not be covered."""
    failures = int(share * n)
    bound = failure_upper_bound(failures, n, confidence)
    assert failures / n < bound < 1
    assert scipy.stats.binom.cdf(failures, n, bound) == pytest.approx(1 - confidence, rel=1e-6)


@pytest.mark.parametrize("size", [1e25, 3e38])
def test_a_bound_that_is_no_number_does_not_hold(graded, space, size):
    """A change so large that norms overflow has an infinite bound, which says nothing: it does not hold, nor does NaN."""
    image = jnp.full((2, 16, 16, 3), 0.5)
    found = certify(graded.layer, space, image, image * size)
    assert not np.isfinite(found.bound).any() and not found.holds.any()
    traced = TRACED(graded.layer, space, image, image.at[:, 0, 0, 0].set(jnp.nan))
    assert not traced.holds.any()
    wrong = TRACED(graded.layer, space, image * 255, image * 229)  # a scale that nobody can look at there
    assert not wrong.holds.any() and np.isnan(wrong.bound).all()


def test_wrong_scale_is_certified_nowhere(graded, space, images):
    """Images in 0 to 255 are refused; inside jit and vmap, where nothing can be raised, no certificate of them holds."""
    wrong, stored = 255 * images[:2], 255 * images[:2] * 0.9
    with pytest.raises(UserError, match="divide by 255"):
        certify(graded.layer, space, wrong, stored)
    found = TRACED(graded.layer, space, wrong, stored)
    assert not found.holds.any() and np.isnan(found.feature_gap).all() and np.isnan(found.bound).all()
    gap = jax.grad(lambda images, stored: certify(graded.layer, space, images, stored).feature_gap.sum())
    assert np.isnan(gap(wrong, stored)).all()
