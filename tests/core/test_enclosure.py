from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ne_jax.core.enclosure import (
    UNIT_ROUNDOFF,
    as_columns,
    as_rows,
    cut_up,
    gain_above,
    norm_above,
    plan,
    product,
)

GAIN = jax.jit(gain_above)  # alone it is a hundred programs, one for each operation


def random(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers over four orders of magnitude, float32."""
    generator = np.random.default_rng(seed)
    return np.float32(generator.standard_normal(shape) * 10 ** generator.uniform(-4, 0, shape))


@pytest.mark.parametrize("terms", [1, 48, 147, 784, 3072, 50_000])
def test_sums_of_digits_are_whole_numbers_that_float32_holds(terms):
    """The largest sum of products that the plan allows is at most 2^24, and the digits together hold 32 bits."""
    cut = plan(terms)
    assert terms * cut.count * (2 ** (cut.bits - 1)) ** 2 <= 2**24
    assert cut.bits * cut.count >= 32


def test_too_many_terms_are_refused():
    """A sum that no digits fit is refused, not computed with rounding."""
    with pytest.raises(ValueError, match="too many"):
        plan(10**7)


@pytest.mark.parametrize("own_units", [False, True])
def test_digits_are_small_whole_numbers_and_leave_what_they_say(own_units):
    """Each part is a whole number of at most 2^(bits - 1); what all leave out, in exact arithmetic, is at most the last rest."""
    values, cut = random(0, 20, 6), plan(784)
    found = cut_up(jnp.asarray(values), cut, columns=own_units)
    parts, unit = np.asarray(found.parts, np.float64), np.asarray(found.unit, np.float64)
    assert np.array_equal(parts, np.round(parts)) and np.abs(parts).max() <= 2 ** (cut.bits - 1)
    assert np.array_equal(np.exp2(np.round(np.log2(unit))), unit)
    weights = 2.0 ** -(cut.bits * np.arange(cut.count) + cut.bits - 1)
    for first in range(cut.count + 1):
        left = values - unit * np.tensordot(weights[:first], parts[:first], 1)  # exact in float64: few bits
        assert np.linalg.norm(left) <= float(found.rests[first])
        assert float(found.rests[first]) <= 1.001 * np.linalg.norm(left) + 1e-12


@pytest.mark.parametrize("shape", [(5, 48, 7), (3, 784, 4)])
def test_a_product_is_as_near_as_it_says(shape):
    """Against exact fractions: the error is at most what is claimed, and the claim a few roundings of the result and no more."""
    rows, terms, columns = shape
    left, right = random(1, rows, terms), random(2, terms, columns)
    cut = plan(terms)
    found = jax.jit(lambda a, b: product(as_rows(a, cut), as_columns(b, cut, own_units=True), cut))(left, right)
    exact = [
        [sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, column, strict=True)) for column in right.T]
        for row in left
    ]
    errors = [
        [float(value - Fraction(float(got))) for value, got in zip(*rows, strict=True)]
        for rows in zip(exact, np.asarray(found.value), strict=True)
    ]
    assert np.linalg.norm(errors) <= float(found.error)
    slack = 8 * UNIT_ROUNDOFF * np.linalg.norm(found.value)
    assert float(found.error) <= slack + 2**-26 * np.linalg.norm(left) * np.linalg.norm(right)


def test_what_cancels_is_computed_to_its_last_digits():
    """start - left @ right, where almost nothing is left: float32's own product has no right digit of it."""
    left, right = random(3, 6, 300), random(4, 300, 5)
    start = np.float32(left.astype(np.float64) @ right.astype(np.float64))
    exact = start - left.astype(np.float64) @ right.astype(np.float64)
    cut = plan(300)
    found = jax.jit(lambda a, b, start: product(as_rows(a, cut), as_columns(b, cut), cut, start))(-left, right, start)
    error = np.linalg.norm(np.asarray(found.value, np.float64) - exact)
    assert error <= float(found.error) and error < 0.2 * np.linalg.norm(exact)
    assert np.linalg.norm(start - np.matmul(left, right) - exact) > np.linalg.norm(exact) / 2


def test_claimed_errors_grow_with_what_is_left_out():
    """Half of what digits leave out is too little: numbers with bits below the last digit, all of one sign, lose nearly all of it."""
    cut = plan(4)
    # One large number sets the unit, the others are just below half of the last digit's step.
    small = 0.49 * 2.0 ** -(cut.bits * cut.count - 1)
    left, right = np.float32([[0.75, small, small, small]]), np.float32([[0.0], [0.75], [0.75], [0.75]])
    found = jax.jit(lambda a, b: product(as_rows(a, cut), as_columns(b, cut), cut))(left, right)
    lost = abs(float((np.float64(left) @ np.float64(right) - np.float64(found.value))[0, 0]))
    assert 0.5 * float(found.error) < lost <= float(found.error)


@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-25, 15))
def test_norms_are_above_and_near(seed, exponent):
    """At least the float64 norm, at most n roundings above it; small numbers' squares do not vanish."""
    values = np.random.default_rng(seed).standard_normal((7, 9)).astype(np.float32) * np.float32(10.0**exponent)
    exact = np.linalg.norm(values.astype(np.float64))
    assert exact <= float(norm_above(jnp.asarray(values))) <= exact * (1 + 200 * UNIT_ROUNDOFF)


def test_no_norm_is_zero_but_that_of_zeros():
    """0 for zeros; NaN and infinite numbers stay so."""
    assert float(norm_above(jnp.zeros((3, 4)))) == 0
    assert not np.isfinite(float(norm_above(jnp.array([1.0, np.inf])))) and np.isnan(
        float(norm_above(jnp.array([1.0, np.nan])))
    )


@pytest.mark.parametrize("shape", [(3, 3), (40, 48), (48, 40), (5, 200)])
@pytest.mark.parametrize("flat", [False, True])
def test_gains_are_above_and_near(shape, flat):
    """At least the largest singular value in float64, and at most 2 % above, for steep and for flat spectra, real and complex."""
    generator = np.random.default_rng(0)
    left, _, right = np.linalg.svd(
        generator.standard_normal(shape) + 1j * generator.standard_normal(shape), full_matrices=False
    )
    values = np.ones(min(shape)) if flat else np.geomspace(1, 1e-6, min(shape))
    for matrix in ((left * values) @ right, ((left * values) @ right).real):
        rounded = matrix.astype(np.complex64 if np.iscomplexobj(matrix) else np.float32)
        exact = np.linalg.norm(rounded.astype(np.complex128), 2)
        for scale in (1, 1e-6, 1e3):
            found = float(GAIN(rounded * np.float32(scale))) / scale
            assert exact * (1 - 1e-6) <= found <= 1.02 * exact
    assert float(GAIN(np.zeros(shape, np.float32))) == 0
