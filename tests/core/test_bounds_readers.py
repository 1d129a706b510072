"""What the noise does to a reader's first layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ne_jax import (
    FirstLayer,
    Subspace,
    UserError,
    low_sensitivity,
    reader_deviation,
    recode,
    spectral_gap,
    spectrum,
    strongest_psnr_db,
)
from ne_jax.core.bounds import noise_energy, same_patches
from tests.core.patch_maps import EPS, matrix_of


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
