from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ne_jax import Spectrum, Subspace, UserError, low_sensitivity, spectrum, strongest_psnr_db
from ne_jax.core.rules import delta_norm
from ne_jax.core.subspace import PatchSubspace
from ne_jax.core.unfold import unfold

EPS = float(np.finfo(np.float32).eps)
SIGMA = np.sqrt([60, 20, 10, 5, 2, 1.5, 1, 0.5])  # sigma^2 adds up to 100
PROJECT = jax.jit(lambda space, delta: space.project(delta))


def diagonal(sigma, image_shape=(4, 4, 2)) -> Spectrum:
    """A spectrum given outright; windows are (2, 2, d / 4)."""
    dimension = len(sigma)
    values = jnp.asarray(np.asarray(sigma), jnp.float32)
    return Spectrum(values, jnp.eye(dimension), (2, 2, dimension // 4), (*image_shape[:2], dimension // 4))


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ("relative", 0.5, 6),  # sigma / sigma_1: 1, .58, .41, .29, .18, .16, .13, .09
        ("relative", 0.3, 5),
        ("relative", 0.1, 1),
        ("count", 1, 1),
        ("count", 3, 3),
        ("count", 7, 7),
        ("energy", 0.006, 1),  # shares held, from the last: .005, .015, .03, .05, .1, .2, .4, 1
        ("energy", 0.016, 2),
        ("energy", 0.099, 4),
        ("energy", 0.41, 7),
    ],
)
def test_each_rule_chooses_the_known_directions(rule, value, expected):
    """On a chosen spectrum each rule takes as many of the last directions as its definition says."""
    space = low_sensitivity(diagonal(SIGMA), rule, value)
    assert space.num_directions == expected
    np.testing.assert_array_equal(space.singular_values, np.float32(SIGMA[-expected:]))
    np.testing.assert_array_equal(space.basis, np.eye(8)[:, -expected:])
    assert float(space.sigma_1) == np.float32(SIGMA[0])


@given(
    exponents=st.lists(st.floats(-3, 3), min_size=8, max_size=8),
    value=st.floats(1e-3, 0.999),
    rule=st.sampled_from(["relative", "energy"]),
)
def test_rules_are_kept_and_maximal(exponents, value, rule):
    """What is chosen keeps within the threshold, and one more direction would not."""
    sigma = np.float64(np.float32(np.sort(10 ** np.array(exponents))[::-1]))
    held = sigma / sigma[0] if rule == "relative" else np.cumsum(sigma[::-1] ** 2)[::-1] / np.sum(sigma**2)
    if held[-1] > value:
        with pytest.raises(UserError, match="no low-sensitivity direction"):
            low_sensitivity(diagonal(sigma), rule, value)
    else:
        space = low_sensitivity(diagonal(sigma), rule, value)
        first = 8 - space.num_directions
        assert held[first] <= value + EPS
        assert held[first - 1] > value - EPS


def test_relative_zero_takes_exactly_the_null_space(make_layer):
    """Rounding errors of the SVD count as zero: threshold 0 takes the null space, whole, and nothing more."""
    chosen = make_layer(np.geomspace(1, 1e-3, 30), (4, 4, 3), outputs=30)
    for image_shape in ((4, 4, 3), (8, 8, 3)):
        assert low_sensitivity(spectrum(chosen.layer, image_shape), "relative", 0).num_directions == 18
    deficient = make_layer([5, 4, 3, 2, 1] + 7 * [0])
    assert low_sensitivity(spectrum(deficient.layer, (2, 2, 3)), "relative", 0).num_directions == 7


def test_energy_zero_takes_no_direction_that_holds_energy():
    """A direction with 2e-3 of sigma_1, far above rounding, is not in a subspace that may hold no energy."""
    sigma = np.ones(768)
    sigma[-3:] = (2e-3, 0, 0)
    space = low_sensitivity(diagonal(sigma), "energy", 0)
    assert space.num_directions == 2


@given(gap=st.floats(1e-3, 0.3), psnr=st.floats(5, 20))
def test_utility_bound_stays_below_the_gap_and_one_more_direction_would_exceed_it(gap, psnr):
    """sigma_max(V_N) norm(delta) <= gap * feature_norm, for the largest such V_N."""
    decomposition, feature_norm = diagonal(np.geomspace(10, 1e-4, 12)), 8.0
    space = low_sensitivity(decomposition, "utility", gap, psnr_db=psnr, feature_norm=feature_norm)
    size = np.sqrt(4 * 4 * 3) * 10 ** (-psnr / 20)
    sigma = np.asarray(decomposition.singular_values, np.float64)
    assert 0 < space.num_directions < 12
    assert float(space.singular_values[0]) * size <= gap * feature_norm * (1 + EPS)
    assert sigma[12 - space.num_directions - 1] * size > gap * feature_norm * (1 - EPS)
    strongest = strongest_psnr_db(space, gap, feature_norm)
    assert strongest <= psnr + 1e-6
    # At the strongest PSNR the bound meets the gap; both are computed in float64.
    assert float(space.singular_values[0]) * delta_norm(strongest, (4, 4, 3)) == pytest.approx(
        gap * feature_norm, rel=1e-12
    )


def test_delta_norm_is_the_norm_of_a_change_at_that_psnr():
    """delta_norm inverts PSNR: mean(delta^2) = 10^(-psnr / 10)."""
    assert delta_norm(0, (4, 5, 3)) == pytest.approx(np.sqrt(60), rel=1e-15)
    assert delta_norm(20, (10, 10, 1)) == pytest.approx(1, rel=1e-15)


def test_any_strength_fits_a_null_space():
    """In an exactly null subspace no strength reaches the gap: the strongest PSNR is -inf."""
    null = low_sensitivity(diagonal([3, 2, 1, 1, 1, 1, 0, 0]), "count", 2)
    assert strongest_psnr_db(null, 0.1, 5) == -np.inf
    nearly = low_sensitivity(diagonal([3, 2, 1, 1, 1, 1, 1e-3, 0]), "count", 2)
    assert np.isfinite(strongest_psnr_db(nearly, 0.1, 5))


@pytest.fixture(params=[8, 24, 40])
def of_size(request, graded) -> Subspace:
    """Subspaces smaller than, as large as and larger than their complement, of images of 4 x 4 patches."""
    return low_sensitivity(spectrum(graded.layer, (16, 16, 3)), "count", request.param)


def test_a_patch_s_directions_are_counted(of_size):
    """total_directions is d of a patch; a subspace of patches is a PatchSubspace, and a Subspace."""
    assert of_size.total_directions == 48 and of_size.num_patches == 16
    assert isinstance(of_size, PatchSubspace) and isinstance(of_size, Subspace)


def test_basis_and_complement_are_all_directions(of_size):
    """V_N and V_S together are one orthonormal basis of a patch."""
    both = np.concatenate([of_size.basis, of_size.complement], axis=1).astype(np.float64)
    assert both.shape == (48, 48)
    assert np.linalg.norm(both.T @ both - np.eye(48), ord=2) <= 2 * 48 * EPS


def test_project_is_the_orthogonal_projection_of_every_patch(of_size, images):
    """Each patch p of a change becomes V_N V_N^T p."""
    delta = images[0] - 0.5
    basis = np.asarray(of_size.basis, np.float64)
    expected = np.asarray(unfold(delta, of_size.window), np.float64) @ basis @ basis.T
    found = unfold(PROJECT(of_size, delta), of_size.window)
    # Two products of at most 48 terms in float32, by vectors orthonormal to 2 d eps.
    assert np.abs(found - expected).max() <= 4 * 48 * EPS * np.linalg.norm(unfold(delta, of_size.window), axis=1).max()


def test_project_is_idempotent_and_self_adjoint(of_size, images):
    """P P = P and <P x, y> = <x, P y>: a part is projected, and orthogonally so."""
    x, y = images[0] - 0.5, images[1] - 0.5
    once = PROJECT(of_size, x)
    limit = 4 * 48 * EPS
    assert np.linalg.norm(np.ravel(PROJECT(of_size, once) - once)) <= limit * np.linalg.norm(np.ravel(x))
    left = np.vdot(np.float64(once), np.float64(y))
    right = np.vdot(np.float64(x), np.float64(PROJECT(of_size, y)))
    scale = np.linalg.norm(np.ravel(x)) * np.linalg.norm(np.ravel(y))
    assert abs(left - right) <= limit * scale
    assert abs(left) > 10 * limit * scale  # the identity does not compare nothing with nothing


@pytest.mark.parametrize("count", [24, 40])
def test_pixels_of_no_patch_stay_untouched(graded, count):
    """Right and below the last whole patch, projections and noise are exactly zero."""
    space = low_sensitivity(spectrum(graded.layer, (11, 14, 3)), "count", count)
    assert space.num_patches == 2 * 3
    for change in (space.sample(jax.random.key(0)), PROJECT(space, jnp.ones((11, 14, 3)))):
        change = np.asarray(change)
        assert change.shape == (11, 14, 3)
        assert not change[8:].any() and not change[:, 12:].any()
        assert change[:8, :12].all()


def test_samples_lie_in_the_subspace_fresh_for_each_patch(space, keys):
    """Noise is its own projection, and no two patches, of one image or of two, share it."""
    samples = jax.vmap(space.sample)(keys[:8])
    again = jax.vmap(space.project)(samples)
    assert np.linalg.norm(np.ravel(again - samples)) <= 4 * 48 * EPS * np.linalg.norm(np.ravel(samples))
    patches = np.concatenate([unfold(sample, space.window) for sample in samples])
    cosines = patches @ patches.T / np.outer(*2 * [np.linalg.norm(patches, axis=1)])
    # Independent directions in 24 dimensions: |cosine| > .95 has odds below 1e-11 a pair, of 8,128 pairs.
    assert np.abs(cosines - np.diag(np.diag(cosines))).max() < 0.95


def test_samples_have_unit_variance_for_every_coordinate_and_no_correlation(space):
    """Coordinates in the subspace are standard normal, independent between coordinates and between patches."""
    samples = jax.jit(jax.vmap(space.sample))(jax.random.split(jax.random.key(7), 2000))
    patches = np.asarray(jax.jit(jax.vmap(lambda sample: unfold(sample, space.window)))(samples))
    coordinates = patches @ np.asarray(space.basis)  # (2000, 16 patches, 24)
    flat = coordinates.reshape(2000, -1)
    covariance = flat.T @ flat / 2000
    # An entry has standard error 1 / sqrt(2000), sqrt(2) of it on the diagonal. 5.5 of them: odds 4e-8 each, of 74,000.
    limit = 5.5 / np.sqrt(2000)
    assert np.abs(np.diag(covariance) - 1).max() <= np.sqrt(2) * limit
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() <= limit
    assert np.abs(flat.mean(0)).max() <= limit


def test_count_has_a_static_size_inside_jit(graded):
    """The rule "count" works on traced spectra: the whole chain from layer to projection compiles."""

    @jax.jit
    def chain(layer, delta):
        return low_sensitivity(spectrum(layer, (8, 8, 3)), "count", 24).project(delta)

    delta = jnp.asarray(np.random.default_rng(0).standard_normal((8, 8, 3)), jnp.float32)
    space = low_sensitivity(spectrum(graded.layer, (8, 8, 3)), "count", 24)
    ratio = 1e-3 ** (1 / 39)  # of neighbouring sigma; Wedin: 2 d eps sigma_1 over the gap at the cut
    gap = ratio**23 - ratio**24
    found, expected = chain(graded.layer, delta), space.project(delta)
    assert np.linalg.norm(np.ravel(found - expected)) <= 8 * 48 * EPS / gap * np.linalg.norm(np.ravel(delta))


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        (
            "relative",
            0.05,
            r"no low-sensitivity direction under rule relative with 0.05.*sigma / sigma_1.*is 0\.0913; raise",
        ),
        ("energy", 0.001, r"no low-sensitivity direction under rule energy.*0\.0913"),
        ("utility", 1e-4, r"no low-sensitivity direction under rule utility.*0\.0913"),
        ("utility", 0.999, "rule utility with 0.999 takes all 8 directions, and the image with them; lower"),
        ("relative", 1.0, r"relative threshold 1.0 is not in \[0, 1\)"),
        ("relative", -0.1, r"relative threshold -0.1 is not in \[0, 1\)"),
        ("relative", float("nan"), r"relative threshold nan is not in \[0, 1\)"),
        ("energy", 1.5, r"energy threshold 1.5 is not in \[0, 1\)"),
        ("count", 0, r"count 0 is not a whole number from 1 to 7 \(a patch has 8 directions\)"),
        ("count", 8, "count 8 is not a whole number from 1 to 7"),
        ("count", -1, "count -1 is not"),
        ("count", 2.5, "count 2.5 is not a whole number"),
    ],
)
def test_thresholds_that_choose_nothing_or_everything_are_refused(rule, value, message):
    """A value out of range, no direction and all directions are refused; the message gives the number to aim at."""
    with pytest.raises(UserError, match=message):
        low_sensitivity(diagonal(SIGMA), rule, value, psnr_db=20, feature_norm=20.0)


def test_utility_needs_its_two_numbers():
    """The utility rule without a strength or a feature norm says which arguments it needs."""
    for given_number in ({"psnr_db": 20}, {"feature_norm": 3.0}):
        with pytest.raises(UserError, match="needs psnr_db and feature_norm"):
            low_sensitivity(diagonal(SIGMA), "utility", 0.1, **given_number)


def test_a_layer_that_sees_nothing_is_refused():
    """A zero kernel has no sensitive direction: all would be chosen, and that is refused."""
    with pytest.raises(UserError, match="takes all 8 directions"):
        low_sensitivity(diagonal(np.zeros(8)), "relative", 0.1)


def test_an_unknown_rule_is_refused():
    """A rule that does not exist is refused with those that do."""
    unchecked = inspect.unwrap(low_sensitivity)  # without the session's type checks, which refuse it before
    with pytest.raises(UserError, match='rule "lowest" is unknown; choose relative, count, energy or utility'):
        unchecked(diagonal(SIGMA), "lowest", 0.1)
