"""What anyone may try on a release before reading it. Pure functions of stored images, float32 in pixel units."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ne_jax.subspace import Subspace

Images = Float[Array, "n height width channels"]


@jax.jit
def mean_filter(stored: Images) -> Images:
    """Tier 1: 3x3 mean of each channel, edges repeated. Knows nothing."""
    padded = jnp.pad(stored, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = stored.shape[1:3]
    shifted = [padded[:, row : row + height, column : column + width] for row in range(3) for column in range(3)]
    return sum(shifted) / 9


@jax.jit
def remove_subspace(stored: Images, space: Subspace) -> Images:
    """Tier 4: projection on the sensitive subspace, which is all that the authorized model sees. Knows its first layer."""
    return stored - jax.vmap(space.project)(stored)
