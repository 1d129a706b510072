"""Noise: the words are threefry's, the numbers are normal."""

import jax
import numpy as np
import pytest
import scipy.stats
from jax.extend import random as reference

from ne_jax.core.threefry import normal, words


@pytest.mark.parametrize("count", [2, 10, 1000])
def test_words_are_those_of_threefry(count):
    """The unrolled rounds give the bits of JAX's own threefry-2x32, on the key's schedule."""
    key = jax.random.key(7)
    schedule = jax.random.bits(key, (2,), np.uint32)
    expected = reference.threefry_2x32(schedule, np.arange(count, dtype=np.uint32))
    np.testing.assert_array_equal(words(key, count), expected)


def test_an_odd_count_leaves_the_last_word_out():
    """Any count works, also under vmap, and keys give different words."""
    keys = jax.random.split(jax.random.key(1), 3)
    found = np.asarray(jax.vmap(lambda key: words(key, 7))(keys))
    assert found.shape == (3, 7) and len(np.unique(found)) == 21
    np.testing.assert_array_equal(found[1], words(keys[1], 8)[:7])


def test_numbers_are_standard_normal():
    """Moments, the whole distribution (Kolmogorov-Smirnov) and both tails, and nothing infinite."""
    numbers = np.asarray(normal(jax.random.key(0), (1000, 1000)), np.float64).ravel()
    assert np.isfinite(numbers).all() and 4.5 < np.abs(numbers).max() < 5.3
    assert abs(numbers.mean()) < 0.004 and abs(numbers.std() - 1) < 0.003
    assert scipy.stats.kstest(numbers[:200_000], "norm").pvalue > 1e-3
    for tail in (numbers > 3, numbers < -3):
        assert abs(tail.mean() / scipy.stats.norm.sf(3) - 1) < 0.15


def test_numbers_of_two_keys_and_two_places_are_uncorrelated():
    """Fresh noise for every image and every patch."""
    first, second = (np.asarray(normal(jax.random.key(seed), (512, 512))) for seed in (0, 1))
    for one, two in ((first, second), (first[:256], first[256:]), (first[:, :256], first[:, 256:])):
        assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.01
