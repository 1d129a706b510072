"""Hardened noise: inside V_N like any other, and with moments that show neither V_N nor each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import FirstLayer, UserError, certify, low_sensitivity, recode, spectrum
from ne_jax.core.pixels import psnr_db
from ne_jax.recoding.hardened import hardened

SHAPE = (16, 24, 3)
COUNT = 20_000


@pytest.fixture(scope="module")
def made(make_layer):
    """A layer with 20 of 48 directions that it hardly sees, and their hardened subspace: 4 x 6 patches."""
    layer = make_layer(np.concatenate([np.geomspace(1, 0.2, 28), np.full(20, 1e-5)]), (4, 4, 3)).layer
    space = low_sensitivity(spectrum(layer, SHAPE), "count", 20)
    return layer, space, hardened(jax.random.key(1), space)


@pytest.fixture(scope="module")
def drawn(made) -> np.ndarray:
    """Coordinates of many draws, (draws, rows, columns, directions)."""
    space = made[2]
    numbers = jax.jit(jax.vmap(lambda key: space.parts(space.sample(key)) @ space.basis))
    return np.asarray(numbers(jax.random.split(jax.random.key(2), COUNT)), np.float64).reshape(COUNT, 4, 6, -1)


def test_amplitudes_are_as_they_were_drawn(made, drawn):
    """At every place, within 5 % of rms (20,000 draws); they span forty decibels and more, and differ from place to place."""
    space = made[2]
    measured = np.sqrt((drawn**2).mean(0)).reshape(24, -1)
    np.testing.assert_allclose(measured, space.amplitudes, rtol=0.05)
    assert 35 < 20 * np.log10(space.amplitudes.max() / space.amplitudes.min()) < 80
    assert 2 < np.std(20 * np.log10(space.amplitudes), axis=0).mean() < 4


@pytest.mark.parametrize("axis", [1, 2])
def test_directions_go_on_from_patch_to_patch(made, drawn, axis):
    """Neighbours to the right and below are correlated as was drawn, within .05; directions with each other are not."""
    first, next_ = (np.take(drawn, range(*span), axis) for span in ((0, 3), (1, 4)))
    norms = np.sqrt((first**2).mean(0) * (next_**2).mean(0))
    correlation = (first * next_).mean(0) / norms
    wanted = np.broadcast_to(made[2].persistence, correlation.shape)
    np.testing.assert_allclose(correlation, wanted, atol=0.05)
    assert wanted.min() < 0.5 and 0.9 < wanted.max() < 0.99
    others = (first * np.roll(next_, 1, -1)).mean(0) / np.sqrt(
        (first**2).mean(0) * (np.roll(next_, 1, -1) ** 2).mean(0)
    )
    assert np.abs(others).max() < 0.05


def test_part_of_it_follows_what_the_file_shows(made):
    """Under many keys an image's noise has a mean, of .3 of its variance, within .03 over all directions (4,000 draws); which hangs on
    what of the image lies outside V_N and on nothing else, so that the file shows all that it tells; noise of other images has another."""
    _, space, noisy = made
    images = np.random.default_rng(1).random((3, *SHAPE), np.float32)
    hidden = images[0] + np.asarray(space.project(jnp.asarray(images[1])))
    keys = jax.random.split(jax.random.key(4), 4000)

    @jax.jit
    def coordinates(image):
        units = jax.vmap(lambda key: noisy.parts(noisy.noise(key, image)) @ noisy.basis)(keys) / noisy.amplitudes
        return units.mean(0), (units**2).mean(0)

    (mean, square), (same, _), (other, _) = map(coordinates, (images[0], hidden, images[2]))
    assert (np.square(mean).mean() / square.mean()) == pytest.approx(0.3, abs=0.03)
    np.testing.assert_allclose(mean, same, atol=1e-3)
    assert np.corrcoef(mean.ravel(), other.ravel())[0, 1] < 0.8  # pictures that are equally bright


@pytest.mark.parametrize("design", ["gaussian", "boxed"])
def test_certificates_of_the_subspace_hold(made, design):
    """Changes lie in V_N; gaussian ones have the strength that was asked for."""
    layer, space, noisy = made
    images = np.random.default_rng(0).integers(60, 200, (4, *SHAPE), np.uint8)
    keys = jax.random.split(jax.random.key(3), 4)
    stored = jax.vmap(functools.partial(recode, space=noisy, psnr_db=20.0, design=design))(keys, images)
    assert bool(certify(layer, space, images, stored).holds.all())
    change = np.asarray(stored) - images.astype(np.float32) / 255
    if design == "gaussian":
        outside = change - np.asarray(jax.vmap(space.project)(jnp.asarray(change)))
        assert np.abs(outside).max() < 1e-5 and np.abs(change).max() > 0.05
        np.testing.assert_allclose(jax.vmap(psnr_db)(change), 20, atol=1e-3)


def test_what_a_release_shares_hangs_on_its_key(made):
    """Who has another key knows neither amplitudes, persistence nor waves; the same key gives the same bits."""
    _, space, noisy = made
    again, other = (hardened(jax.random.key(seed), space) for seed in (1, 2))
    np.testing.assert_array_equal(noisy.amplitudes, again.amplitudes)
    np.testing.assert_array_equal(noisy.persistence, again.persistence)
    np.testing.assert_array_equal(noisy.waves, again.waves)
    assert abs(np.corrcoef(noisy.waves.ravel(), other.waves.ravel())[0, 1]) < 0.1
    for one, two in ((noisy.amplitudes, other.amplitudes), (noisy.persistence, other.persistence)):
        assert abs(np.corrcoef(np.log(one + 1e-9).ravel(), np.log(two + 1e-9).ravel())[0, 1]) < 0.6
        assert not np.array_equal(one, two)


def test_windows_that_overlap_are_refused(make_layer):
    """Their directions are of the whole image, where nothing goes on from patch to patch."""
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 8))
    layer = FirstLayer(kernel, (2, 2), "SAME", 3 * [0.5], 3 * [1.0])
    with pytest.raises(UserError, match="hardened noise needs patches"):
        hardened(jax.random.key(0), low_sensitivity(spectrum(layer, (16, 16, 3)), "relative", 0.5))
