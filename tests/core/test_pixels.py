from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import UserError
from ne_jax.core.pixels import check_pixels, psnr_db, to_float

EPS = float(np.finfo(np.float32).eps)


def test_all_256_bytes_become_their_255th():
    """uint8 maps to float32 in [0, 1]: ends exact, the rest within the one rounding that XLA's division may add."""
    values = np.asarray(to_float(np.arange(256, dtype=np.uint8)))
    assert values.dtype == np.float32
    assert values[0] == 0 and values[255] == 1
    np.testing.assert_allclose(values, np.arange(256) / 255, rtol=EPS, atol=0)
    assert np.array_equal(np.round(values * 255), np.arange(256))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_is_kept(dtype):
    """Floating point becomes float32 without a change of value or of range."""
    values = to_float(np.array([-2, 0.25, 300], dtype))
    assert values.dtype == jnp.float32
    assert np.array_equal(values, [-2, 0.25, 300])


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint16, np.bool_])
def test_other_dtypes_are_refused(dtype):
    """Only uint8 and floating point are pixels; the message names the argument, the dtype and the way out."""
    with pytest.raises(UserError, match=rf"picture has dtype {np.dtype(dtype)}; give uint8"):
        to_float(np.ones((2, 2), dtype), "picture")


@pytest.mark.parametrize(
    ("values", "found", "hint"),
    [
        ([0.0, 255.0], "0 to 255", "divide by 255"),
        ([0.0, 1.01], "0 to 1.01", "divide by 255"),
        ([-0.01, 0.5], "-0.01 to 0.5", "not normalised values"),
        ([-2.1, 2.6], "-2.1 to 2.6", "not normalised values"),
        ([0.0, np.nan], "nan", "not normalised values"),
        ([0.0, np.inf], "0 to inf", "not normalised values"),
    ],
)
def test_values_outside_the_range_are_refused(values, found, hint):
    """Anything outside [0, 1] is refused with the argument, the range found and a hint."""
    with pytest.raises(UserError, match=rf"photo has values from .*{found}.*outside \[0, 1\].*{hint}"):
        check_pixels(np.array(values, np.float32), "photo")


def test_the_ends_of_the_range_and_no_pixels_at_all_pass():
    """0 and 1 are pixels, and an empty batch is one."""
    assert np.array_equal(check_pixels(np.array([0.0, 1.0])), [0, 1])
    assert check_pixels(np.zeros((0, 4, 4, 3), np.float32)).shape == (0, 4, 4, 3)


def test_checks_compose_with_jit_and_vmap():
    """Inside transformations, where values cannot be looked at, pixels pass and dtypes are still refused."""
    batch = jnp.full((2, 3), 0.5)
    assert np.array_equal(jax.jit(check_pixels)(batch), batch)
    assert np.array_equal(jax.vmap(check_pixels)(batch), batch)
    with pytest.raises(UserError, match="dtype int32"):
        jax.jit(check_pixels)(jnp.ones(3, jnp.int32))


@pytest.mark.parametrize(("rms", "expected"), [(1.0, 0.0), (0.1, 20.0), (0.01, 40.0), (10**-0.7, 14.0)])
def test_psnr_of_a_known_change(rms, expected):
    """-10 log10 mean(delta^2): 0 dB is a change as large as the pixel range."""
    delta = rms * (-1.0) ** jnp.arange(64).reshape(4, 4, 4)
    # The square and the mean of 64 terms: at most 66 roundings of the energy, 10 / ln 10 dB for each unit of it.
    assert float(psnr_db(delta)) == pytest.approx(expected, abs=66 * EPS * 10 / np.log(10) + expected * EPS)


def test_psnr_of_no_change_is_infinite():
    """No change has infinite PSNR, not NaN."""
    assert float(psnr_db(jnp.zeros((2, 2, 1)))) == np.inf
