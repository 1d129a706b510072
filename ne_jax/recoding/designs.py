"""The table of recoding designs. A new one is a file with its record, and a row here."""

from __future__ import annotations

import numpy as np

from ne_jax.errors import UserError
from ne_jax.recoding.contrastive import CONTRASTIVE
from ne_jax.recoding.deep import DEEP
from ne_jax.recoding.design import Design
from ne_jax.recoding.guided import GUIDED
from ne_jax.recoding.hardened import HARDENED
from ne_jax.recoding.paper import PAPER
from ne_jax.recoding.subspace_noise import BOXED, GAUSSIAN, noise_for

DESIGNS: dict[str, Design] = {
    design.name: design
    for design in (
        GAUSSIAN,
        BOXED,
        HARDENED,
        CONTRASTIVE,
        GUIDED,
        DEEP,
        PAPER,
    )
}


def choose(asked: str, dtype: type[np.generic]) -> Design:
    """The design of this name; for "auto" the noise that `dtype`, of a stored number, can hold. Raises UserError for an unknown name."""
    if asked == "auto":
        return noise_for(dtype)
    if asked not in DESIGNS:
        raise UserError(f'recode.design "{asked}" is unknown; choose auto, {", ".join(DESIGNS)}')
    return DESIGNS[asked]
