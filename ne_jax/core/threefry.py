"""Standard normal noise from a key, the same bits as threefry everywhere, several times as fast on a CPU as `jax.random.normal`.

jax.random computes threefry in a loop that XLA does not vectorise on a CPU, and by default keeps one of the two words that a call
gives. Here the rounds are unrolled and both words are used; the test holds the words equal to `jax.extend.random.threefry_2x32`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def words(key: PRNGKeyArray, count: int) -> UInt32[Array, " count"]:
    """`count` uniform 32-bit words: threefry-2x32 with 20 rounds (Salmon et al. 2011) of a counter."""
    half = -(-count // 2)
    counter = jnp.arange(half, dtype=jnp.uint32)
    schedule = jax.random.bits(key, (2,), jnp.uint32)
    one, two = _threefry(schedule[0], schedule[1], counter, counter + np.uint32(half))
    return jnp.concatenate([one, two])[:count]


def _threefry(key_0, key_1, one, two):
    keys = (key_0, key_1, key_0 ^ key_1 ^ _PARITY)
    one, two = one + keys[0], two + keys[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            one = one + two
            two = one ^ ((two << np.uint32(distance)) | (two >> np.uint32(32 - distance)))
        one, two = one + keys[(group + 1) % 3], two + keys[(group + 2) % 3] + np.uint32(group + 1)
    return one, two


# Giles (2012), "Approximating the erfinv function", single precision: erfinv(u) / u as polynomials, highest power first, of w - 2.5
# where w = -log(1 - u^2) < 5, else of sqrt(w) - 3.
_CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164, 0.246640727,
    1.50140941,
)  # fmt: skip
_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047, 1.00167406,
    2.83297682,
)  # fmt: skip


def normal(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal numbers, float32, each from the upper 23 bits of a word; at most 5.3 in size.

    `jax.lax.erf_inv` loses digits of 1 - u^2 in the tails, where XLA may round in one way or another; here both factors are exact.
    """
    cell = (words(key, int(np.prod(shape))) >> np.uint32(9)).astype(jnp.float32)
    below = (cell + np.float32(0.5)) * np.float32(2**-23)  # of 2^23 cells of (0, 1), the middle, exact
    above = (np.float32(2**23 - 0.5) - cell) * np.float32(2**-23)  # 1 - below, exact
    depth = -jnp.log(4 * below * above)
    inner, outer = depth - np.float32(2.5), jnp.sqrt(jnp.maximum(depth, 5)) - 3
    ratio = jnp.where(depth < 5, _polynomial(_CENTRE, inner), _polynomial(_TAIL, outer))
    return (np.float32(np.sqrt(2)) * ratio * (below - above)).reshape(shape)


def _polynomial(coefficients: tuple[float, ...], value):
    total = jnp.full_like(value, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * value + np.float32(coefficient)
    return total
