"""A design in one file, as anyone might add it: a checkerboard in the low-sensitivity subspace. It hides nothing; tests register it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ne_jax.core.pixels import Image
from ne_jax.core.subspace import Subspace
from ne_jax.recoding.design import Context, Design, Recipe, Recoded
from ne_jax.recoding.subspace_noise import along, into_box, norm_at, whole_levels

_DARK = 0.135  # mean of an image below which the board is refused


class Board(NamedTuple):
    """pattern: of squares of `recode.steps` pixels, 1 and -1."""

    space: Subspace
    pattern: Image


def _board(context: Context) -> Board:
    height, width, channels = context.space.image_shape
    rows, columns = (jnp.arange(length) // context.settings.steps for length in (height, width))
    pattern = 1.0 - 2 * ((rows[:, None] + columns) % 2)
    return Board(context.space, jnp.repeat(pattern[..., None], channels, axis=2))


def _recode(key: jax.Array, image: Image, recipe: Recipe) -> Recoded:
    """The board or its inverse, as the key has it."""
    space, pattern = recipe.directions
    target = norm_at(recipe.psnr_db, image)
    change = along(None, jax.random.rademacher(key, (), jnp.float32) * space.project(pattern), target, jnp.inf)
    if recipe.box:
        change = along(None, into_box(image, space, change, recipe.rounds), target, 1.0)
    recoded = image + change
    return Recoded(whole_levels(recoded) if recipe.box else recoded, jnp.mean(image) > _DARK)


CHECKERBOARD = Design(
    "checkerboard",
    "a checkerboard in the low-sensitivity subspace",
    recode=_recode,
    settings=("steps", "rounds", "fit"),
    directions=_board,
    unmet="too dark for a checkerboard; take a brighter picture",
)
