"""The leak floor (T8) against what the attack reaches."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import ne_jax
from ne_jax.attacks import layer_known
from ne_jax.attacks.attack import Knowledge
from ne_jax.core.leak_floor import leak_floor
from tests.releases import crops, known, recoded


@pytest.fixture(scope="module")
def gaussian(make_layer) -> tuple[np.ndarray, np.ndarray, ne_jax.Subspace]:
    """A random covariance of 48 numbers, and 300 images of patches drawn from it, 64 x 64."""
    generator = np.random.default_rng(0)
    vectors, _ = np.linalg.qr(generator.standard_normal((48, 48)))
    covariance = (vectors * np.geomspace(0.1, 1e-3, 48)) @ vectors.T
    patches = generator.multivariate_normal(np.full(48, 0.5), covariance, (300, 256)).astype(np.float32)
    images = patches.reshape(300, 16, 16, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(300, 64, 64, 3)
    return covariance, images, known(make_layer)[1].space


def noisy(images: np.ndarray, space: ne_jax.Subspace, psnr_db: float) -> np.ndarray:
    """`recode` takes images in [0, 1]; these are not."""
    keys = jax.random.split(jax.random.key(3), len(images))
    noise = np.asarray(jax.vmap(space.sample)(keys))
    return images + noise * np.float32(10 ** (-psnr_db / 20)) / noise.std()


@pytest.mark.parametrize("psnr_db", [None, 10.0, 20.0])
def test_inpainting_reaches_the_floor(gaussian, psnr_db):
    """On Gaussian images, at any strength: the attack's error is the floor's, .1 dB for the noise of the estimates."""
    covariance, images, space = gaussian
    stored = noisy(images[:100], space, -20.0 if psnr_db is None else psnr_db)
    knowledge = Knowledge(public=images[100:], space=space)
    restored = layer_known.inpainting(stored, knowledge, wiener=psnr_db is not None)
    reached = -10 * np.log10(np.mean((restored - images[:100]) ** 2))
    assert reached == pytest.approx(leak_floor(space, covariance, psnr_db), abs=0.1)
    assert leak_floor(space, images, psnr_db) == pytest.approx(leak_floor(space, covariance, psnr_db), abs=0.1)


def test_is_the_schur_complement(gaussian):
    """The formula of the theory, with no whitening: trace(S_NN - S_NS S_SS^-1 S_SN) a number."""
    covariance, _, space = gaussian
    low, high = np.asarray(space.basis, np.float64), np.asarray(space.complement, np.float64)
    cross = low.T @ covariance @ high
    left = low.T @ covariance @ low - cross @ np.linalg.solve(high.T @ covariance @ high, cross.T)
    assert leak_floor(space, covariance) == pytest.approx(-10 * np.log10(np.trace(left) / 48), abs=0.01)


def test_weaker_noise_hides_less(gaussian):
    covariance, _, space = gaussian
    floors = [leak_floor(space, covariance, psnr_db) for psnr_db in (40.0, 20.0, 0.0, None)]
    assert floors == sorted(floors, reverse=True) and floors[0] > 40 and floors[2] - floors[3] < 0.1


def test_overlapping_windows():
    """By frequency: on photographs the attack that knows their own spectrum reaches the floor."""
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 6)) / 5
    layer = ne_jax.FirstLayer(kernel, (2, 2), ((1, 1), (1, 1)), (0.5,) * 3, (0.25,) * 3)
    space = ne_jax.low_sensitivity(ne_jax.spectrum(layer, (64, 64, 3)), "count", 6144)
    images = crops(0, 20)
    shifts = [np.roll(images, shift, (1, 2)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))]
    every = np.concatenate(shifts)  # of the images that the prior is of, the mean error is its trace
    restored = layer_known.inpainting(recoded(every, space, 1, 0.0), Knowledge(public=images, space=space))
    reached = -10 * np.log10(np.mean((restored - every) ** 2))
    assert reached == pytest.approx(leak_floor(space, images), abs=0.1)


def test_refuses_what_does_not_fit(gaussian):
    covariance, images, space = gaussian
    with pytest.raises(ne_jax.UserError, match="a covariance of 20 numbers"):
        leak_floor(space, covariance[:20, :20])
    with pytest.raises(ne_jax.UserError, match="do not fit a subspace of images"):
        leak_floor(space, images[:, :32])
