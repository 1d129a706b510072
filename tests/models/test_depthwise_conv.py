"""Depthwise convolution: another way to write the same sum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax.models.families.depthwise_conv import depthwise


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((3, 3), (3, 3)), ((0, 2), (1, 0))])
@pytest.mark.parametrize(
    ("size", "stride", "shape"), [(3, 1, (9, 12)), (3, 2, (12, 9)), (5, 2, (11, 11)), (7, 1, (8, 8))]
)
def test_it_is_xla_s_convolution(padding, size, stride, shape):
    """Values and gradients are those of `conv_general_dilated`, for any padding, stride and odd or even sides."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal((2, *shape, 6)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((size, size, 1, 6)), jnp.float32)
    settings = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 6}

    @functools.partial(jax.jit, static_argnums=0)
    def value(convolve):
        out, pull = jax.vjp(lambda *args: convolve(*args, (stride, stride), padding, **settings), inputs, kernel)
        return out, *pull(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))

    for ours, theirs in zip(value(depthwise), value(jax.lax.conv_general_dilated), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)
