"""Moments of a whole release: read batch by batch, they are those of all its files at once."""

import numpy as np
import pytest

from ne_jax.attacks.moments import counts, growing
from ne_jax.core.linear_estimate import cut, second_moment, steps
from ne_jax.errors import UserError

IMAGES = np.random.default_rng(0).random((11, 8, 12, 2), np.float32)
UNIT = (4, 4, 2)


def test_they_are_those_of_all_images_whatever_the_batches():
    """At every number asked for, also within a batch; of no more images than there are."""
    batches = [IMAGES[:3], IMAGES[3:4], IMAGES[4:]]
    found = growing(iter(batches), UNIT, [1, 4, 9, 99])
    assert [each.images for each in found] == [1, 4, 9, 11] and [each.patches for each in found] == [6, 24, 54, 66]
    for each in found:
        patches = cut(IMAGES[: each.images], UNIT)
        mean = patches.mean((0, 1), dtype=np.float64)
        np.testing.assert_allclose(each.mean, mean, atol=1e-12)
        np.testing.assert_allclose(each.covariance, second_moment(patches, mean), atol=1e-6)
        differences = steps(IMAGES[: each.images], UNIT)
        np.testing.assert_allclose(each.steps, second_moment(differences, np.zeros(32)), atol=1e-6)


def test_the_last_ones_do_not_hang_on_whether_the_first_are_wanted():
    """In the same bits, so that an attack finds the same with curves and without."""
    every, last = (growing(iter([IMAGES[:7], IMAGES[7:]]), UNIT, [1, 4, 11], last=last) for last in (False, True))
    assert len(every) == 3 and len(last) == 1
    for one, other in zip(every[-1], last[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_places_tell_where_patches_vary_more():
    """Nothing, but for sampling, where the covariance is the same everywhere; where one place has ten times the variance in one number,
    that number alone, by (C_r - C) C^-1 (C_r - C) of known covariances."""
    generator = np.random.default_rng(2)
    images = generator.standard_normal((20_000, 4, 4, 1)).astype(np.float32)
    assert np.abs(growing(iter([images]), (2, 2, 1), [len(images)])[0].places).max() < 0.01
    images[:, 0, 0] *= 10**0.5
    found = growing(iter([images]), (2, 2, 1), [len(images)])[0].places
    whole = (10 + 3) / 4
    expected = ((10 - whole) ** 2 + 3 * (1 - whole) ** 2) / 4 / whole
    assert found[0, 0] == pytest.approx(expected, rel=0.05)
    assert np.abs(found - np.diag([found[0, 0], 0, 0, 0])).max() < 0.2


def test_regions_of_many_patches_are_four_by_four():
    """An image of 8 x 12 patches is compared in 16 parts: places within a part are one."""
    generator = np.random.default_rng(3)
    images = generator.standard_normal((40_000, 8, 12, 1)).astype(np.float32)
    images[:, 0, 0] *= 5
    one = growing(iter([images]), (1, 1, 1), [len(images)])[0]
    part = (25 + 5) / 6
    whole = (part + 15) / 16
    expected = ((part - whole) ** 2 + 15 * (1 - whole) ** 2) / 16 / whole
    assert one.places[0, 0] == pytest.approx(expected, rel=0.05)


def test_small_eigenvalues_are_not_drowned():
    """A direction in which patches vary by a ten thousandth of what they do elsewhere is seen to a millionth."""
    generator = np.random.default_rng(1)
    scale = np.ones((4, 4, 1), np.float32)
    scale[0, 0] = 1e-4
    images = np.tile(scale, (1, 2, 2, 1)) * generator.standard_normal((500, 8, 8, 1)).astype(np.float32) + 5
    values = np.linalg.eigvalsh(growing(iter([images]), (4, 4, 1), [500])[0].covariance)
    assert 0 < values[0] < 1e-6 and values[1] > 0.5


def test_counts_grow_by_four_and_end_with_all():
    """What curves are drawn over."""
    assert counts(70) == [1, 4, 16, 64, 70] and counts(64) == [1, 4, 16, 64] and counts(1) == [1]


def test_an_empty_release_is_told():
    with pytest.raises(UserError, match="no image"):
        growing(iter([]), UNIT, [4])
