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
    Subspace,
    UserError,
    certify,
    compare_logits,
    failure_upper_bound,
    isotropic,
    low_sensitivity,
    reader_deviation,
    recode,
    spectral_gap,
    spectrum,
    strongest_psnr_db,
)
from ne_jax.core.bounds import noise_energy, same_patches
from ne_jax.core.layer_products import ExactLayer
from ne_jax.core.polyphase import unpadded, wrap_around
from ne_jax.core.unfold import fold
from ne_jax.core.utility_bound import splitter

EPS = float(np.finfo(np.float32).eps)
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
    stored = [np.round(255 * np.asarray(batch)).astype(np.uint8) for batch in (images[:4], images[4:8])]
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


@pytest.fixture(scope="module")
def small(make_layer) -> Subspace:
    """d = 12, k = 6, images of 2 x 2 patches."""
    chosen = make_layer(np.geomspace(1, 1e-3, 12))
    return low_sensitivity(spectrum(chosen.layer, (4, 4, 3)), "count", 6)


@pytest.fixture(scope="module")
def reader(make_layer) -> FirstLayer:
    """Another model's first layer on the patches of `small`, with a steep spectrum."""
    return make_layer(3 * np.geomspace(1, 0.01, 12), seed=9).layer


@pytest.fixture(scope="module")
def energies(small, reader) -> np.ndarray:
    """What the reader's first layer makes of 20,000 fresh noises of standard deviation .1, measured."""

    @jax.jit
    def measure(keys):
        return noise_energy(reader, 0.1 * jax.vmap(small.sample)(keys))

    return np.asarray(measure(jax.random.split(jax.random.key(0), 20_000)))


def test_deviation_has_the_measured_mean(small, reader, energies):
    """P s^2 trace(V_N^T G V_N) is the mean energy of noise at the reader's first layer, by Monte Carlo."""
    deviation = reader_deviation(reader, small, 0.1)
    assert energies.mean() == pytest.approx(float(deviation.mean), rel=0.05)
    # Five standard errors are well below the 5 % allowed: the check is of the formula, not of luck.
    assert 5 * energies.std() / np.sqrt(len(energies)) < 0.05 * energies.mean()


def test_deviation_agrees_with_a_naive_reference(small, reader):
    """Mean and tails are the formulas of the note T3 on float64 eigenvalues."""
    eigenvalues = np.linalg.eigvalsh(
        np.asarray(small.basis, np.float64).T @ matrix_of(reader).T @ matrix_of(reader) @ small.basis
    )
    repeated = 0.3**2 * np.tile(eigenvalues, 4)
    spread, largest = 2 * np.linalg.norm(repeated) * np.sqrt(0.7), repeated.max()
    deviation = reader_deviation(reader, small, 0.3, t=0.7)
    assert float(deviation.mean) == pytest.approx(repeated.sum(), rel=4 * 12 * EPS)
    assert float(deviation.upper) == pytest.approx(repeated.sum() + spread + 2 * largest * 0.7, rel=4 * 12 * EPS)
    assert float(deviation.lower) == pytest.approx(
        repeated.sum() - spread, rel=8 * 12 * EPS * repeated.sum() / (repeated.sum() - spread)
    )


@pytest.mark.parametrize("t", [0.5, 1.0, 2.0, 3.0])
def test_tails_fail_no_more_often_than_promised(small, reader, energies, t):
    """Each limit is violated by at most exp(-t) of 20,000 samples, with binomial error allowed at one in a million."""
    deviation = reader_deviation(reader, small, 0.1, t=t)
    allowed = scipy.stats.binom.ppf(1 - 1e-6, len(energies), np.exp(-t))
    assert np.sum(energies > float(deviation.upper)) <= allowed
    assert np.sum(energies < float(deviation.lower)) <= allowed
    assert 0 <= float(deviation.lower) < float(deviation.mean) < float(deviation.upper)
    # No empty promise: somebody crosses the loosest upper limit at half of its width.
    assert np.mean(energies > float(deviation.mean + deviation.upper) / 2) > 0


def test_fixed_norm_noise_has_the_same_mean(small, reader):
    """`recode`'s gaussian at norm(delta) has the mean of noise_std = norm(delta) / sqrt(P k)."""
    image = jnp.full((4, 4, 3), 0.5)
    recoded = jax.jit(jax.vmap(lambda key: recode(key, image, small, 14.0)))(jax.random.split(jax.random.key(1), 5000))
    energies = np.asarray(noise_energy(reader, recoded - image))
    noise_std = np.linalg.norm(np.ravel(recoded[0] - image)) / np.sqrt(4 * 6)
    mean = float(reader_deviation(reader, small, float(noise_std)).mean)
    assert 5 * energies.std() / np.sqrt(5000) < 0.05 * mean
    assert energies.mean() == pytest.approx(mean, rel=0.05)


def test_relative_gain_is_one_for_a_reader_that_sees_all_directions_alike(make_layer, small, reader):
    """A flat spectrum has relative gain 1; the authorized layer far less; it does not depend on the reader's scale."""
    flat = make_layer(np.full(12, 0.7), seed=3).layer
    assert float(reader_deviation(flat, small, 0.1).relative_gain) == pytest.approx(1, rel=4 * 12 * EPS)
    authorized = make_layer(np.geomspace(1, 1e-3, 12)).layer
    assert float(reader_deviation(authorized, small, 0.1).relative_gain) < 0.01
    louder = FirstLayer(10 * reader.kernel, reader.strides, "VALID", reader.mean, reader.std)
    gains = [float(reader_deviation(layer, small, 0.1).relative_gain) for layer in (reader, louder)]
    assert gains[0] == pytest.approx(gains[1], rel=4 * 12 * EPS)


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((4, 4, 3), (4, 4), "VALID"),
        ((2, 2, 3), (1, 1), "VALID"),
        ((2, 2, 3), (2, 2), ((1, 1), (1, 1))),
        ((2, 2, 1), (2, 2), "VALID"),
    ],
)
def test_deviation_refuses_other_patches(small, window, strides, padding):
    """A reader that cuts images differently is refused: the formula would not be about it."""
    other = FirstLayer(np.ones((*window, 5)), strides, padding, window[2] * [0.5], window[2] * [0.5])
    assert not same_patches(other, small)
    with pytest.raises(UserError, match=r"reader's windows .* are not the subspace's patches \(2, 2, 3\)"):
        reader_deviation(other, small, 0.1)


def test_deviation_refuses_patches_that_padding_moves(make_layer):
    """SAME on images that are no multiple of the patch shifts the reader's patches: these are others, and refused."""
    chosen = make_layer(np.geomspace(1, 1e-3, 27), (3, 3, 3))
    space = low_sensitivity(spectrum(chosen.layer, (7, 7, 3)), "count", 12)
    moved = FirstLayer(chosen.layer.kernel, (3, 3), "SAME", chosen.layer.mean, chosen.layer.std)
    with pytest.raises(UserError, match="reader's windows"):
        reader_deviation(moved, space, 0.1)


def test_spaces_of_frequencies_have_no_patches_to_compare():
    """Where windows overlap no reader has the same patches, so its deviation is refused: measure `noise_energy` instead."""
    layer = FirstLayer(np.random.default_rng(0).standard_normal((4, 4, 3, 16)), (2, 2), "VALID", 3 * [0.5], 3 * [0.5])
    space = low_sensitivity(spectrum(layer, (8, 8, 3)), "count", 50)
    patches = FirstLayer(layer.kernel, (4, 4), "VALID", layer.mean, layer.std)
    for other in (layer, patches):
        assert not same_patches(other, space)
        with pytest.raises(UserError, match="are not the subspace's patches"):
            reader_deviation(other, space, 0.1)
    assert strongest_psnr_db(space, 0.1, 5.0) > -np.inf


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


@pytest.mark.parametrize("seed", range(5))
def test_spectral_gap_is_below_the_distance_of_the_maps(seed):
    """Mirsky: sum (sigma_i(A) - sigma_i(B))^2 <= norm(A - B)_F^2, with equality for maps of the same directions."""
    generator = np.random.default_rng(seed)
    first, second = generator.standard_normal((2, 8, 12))
    values = [jnp.asarray(np.linalg.svd(one, compute_uv=False), jnp.float32) for one in (first, second)]
    gap, distance = float(spectral_gap(*values)), np.sum((first - second) ** 2)
    assert 0 < gap <= distance
    assert float(spectral_gap(values[0], 3 * values[0])) == pytest.approx(4 * np.sum(first**2), rel=16 * EPS)


def test_spectral_gap_is_blind_to_directions(make_layer, small):
    """The counter-example: a layer turned in pixel space has spectral gap 0 and yet reacts to the noise as to any image."""
    sigma = np.geomspace(1, 1e-3, 12)
    authorized, turned = make_layer(sigma).layer, make_layer(sigma, seed=4).layer
    values = [spectrum(layer, (4, 4, 3)).singular_values for layer in (authorized, turned)]
    # Each value is off by at most 2 d eps sigma_1.
    assert float(spectral_gap(*values)) <= 12 * (4 * 12 * EPS) ** 2
    seen = [float(reader_deviation(layer, small, 0.1).mean) for layer in (authorized, turned)]
    assert seen[1] > 100 * seen[0]


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
    found, ready = certify(layer, of, clean, stored), splitter(layer, of)
    delta = (stored - clean)[0]
    seen, split = ExactLayer.of(layer).apply(delta), ready.split(delta)
    expected = float(seen.error) + float(ready.largest * split.error)
    expected += EPS / 2 * float(ready.anywhere) * np.linalg.norm(delta) + EPS / 2 * (seen.value.size + 8) * float(
        found.feature_gap[0]
    )
    others = float(found.bound[0] - found.precision_term[0])
    expected += 32 * EPS * others
    if overlapping:
        expected += float(ExactLayer.of(unpadded(layer)).apply(wrap_around(layer, delta)).error)
    assert float(found.precision_term[0]) == pytest.approx(expected, rel=1e-3)
    # One piece is tested for itself: a difference of pixels that float32 has to round, all in the direction seen most.
    assert expected > EPS / 2 * float(ready.largest) * np.linalg.norm(delta)


def test_the_bound_is_of_the_true_gap(graded, space, keys, images):
    """Of float32 noise in V_N, whose gap is its own rounding: the bound is above the gap in float64, and at most 20 times it."""
    recoded = jax.vmap(lambda key, image: recode(key, image, space, 0.0))(keys, images)
    null = low_sensitivity(spectrum(graded.layer, (16, 16, 3)), "count", 8)
    for of, stored in (
        (space, recoded),
        (null, jax.vmap(lambda key, image: recode(key, image, null, 0.0))(keys, images)),
    ):
        found = certify(graded.layer, of, images, stored)
        delta = patches_of(np.asarray(stored, np.float64) - np.asarray(images, np.float64), (4, 4, 3))
        gap = np.sqrt(np.sum((delta @ matrix_of(graded.layer).T) ** 2, axis=(1, 2)))
        assert (gap <= np.asarray(found.bound)).all() and np.median(np.asarray(found.bound) / gap) <= 20
        np.testing.assert_allclose(found.feature_gap, gap, rtol=0.05)


@pytest.mark.parametrize("size", [1e25, 3e38])
def test_a_bound_that_is_no_number_does_not_hold(graded, space, size):
    """A change so large that norms overflow has an infinite bound, which says nothing: it does not hold, nor does NaN."""
    image = jnp.full((1, 16, 16, 3), 0.5)
    found = certify(graded.layer, space, image, image * size)
    assert not np.isfinite(found.bound).any() and not found.holds.any()
    traced = jax.jit(lambda stored: certify(graded.layer, space, image, stored))(image.at[0, 0, 0, 0].set(jnp.nan))
    assert not traced.holds.any()


def test_wrong_scale_is_certified_nowhere(graded, space, images):
    """Images in 0 to 255 are refused; inside jit and vmap, where nothing can be raised, no certificate of them holds."""
    wrong, stored = 255 * images[:2], 255 * images[:2] * 0.9
    with pytest.raises(UserError, match="divide by 255"):
        certify(graded.layer, space, wrong, stored)
    found = jax.jit(lambda images, stored: certify(graded.layer, space, images, stored))(wrong, stored)
    assert not found.holds.any() and np.isnan(found.feature_gap).all() and np.isnan(found.bound).all()
    gap = jax.grad(lambda images, stored: certify(graded.layer, space, images, stored).feature_gap.sum())
    assert np.isnan(gap(wrong, stored)).all()


def test_the_gap_has_its_gradient(graded, space, images):
    """d norm(T delta) / d image = -T^T T delta / norm(T delta), although the gap is measured by whole numbers."""
    clean, stored = images[:1], images[:1] * 0.9
    found = jax.grad(lambda images: certify(graded.layer, space, images, stored).feature_gap.sum())(clean)[0]
    outputs = graded.layer.apply((stored - clean)[0])
    expected = -graded.layer.adjoint(outputs, (16, 16, 3)) / jnp.linalg.norm(outputs)
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(jnp.abs(expected).max()))
