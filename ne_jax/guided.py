"""Guided recoding: changes in the low-sensitivity subspace that lead surrogate readers away. No training, no labels.

Momentum iteration (Dong et al. 2018, arXiv 1710.06081) on random views (DIM) of an ensemble of readers. Each step goes on inside V_N
and, for 8-bit files, is pushed back into [0, 1]; the end is `boxed`'s own, so that what is stored is what was optimised. Steps follow
the gradient itself and not its signs: signs spread the step over all of V_N, whose larger part no reader minds. Without a subspace
it is MI-FGSM, with signs: what leading readers away takes when nobody is authorized.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ne_jax.ascent import likeness, unit
from ne_jax.recode import along, into_box, norm_at, whole_levels
from ne_jax.subspace import Image, Subspace

_MOMENTUM = 1.0
_STEP = 0.3  # length of a step, of the norm that the PSNR allows


@functools.partial(jax.tree_util.register_dataclass, data_fields=["space", "readers"], meta_fields=["steps"])
@dataclasses.dataclass(frozen=True)
class Guide:
    """What guided recoding needs beside an image.

    space: where changes may lie; None: anywhere. readers: the surrogates, see `ascent`. steps: gradients of each reader, at least 1.
    """

    space: Subspace | None
    readers: tuple[Any, ...]
    steps: int = 24


@functools.partial(jax.jit, static_argnames=("box", "rounds"))
def guided_recode(
    key: PRNGKeyArray,
    image: Image,
    guide: Guide,
    psnr_db: float | Float[Array, ""],
    *,
    box: bool = True,
    rounds: int = 40,
) -> Image:
    """The recoded image, float32 in pixel units, at `psnr_db` (dB) or weaker where that does not fit into [0, 1].

    image: float32 in [0, 1]. box: stay in [0, 1] and round to multiples of 1/255; without, the change lies in the subspace exactly.
    Costs `steps` gradients of every reader and one look at the clean image. vmap over keys and images.
    """
    target = norm_at(psnr_db, image)
    clean = [reader(image) for reader in guide.readers]

    def step(state, number):
        delta, momentum = state
        gradient = jax.grad(likeness, argnums=2)(guide.readers, clean, image + delta, jax.random.fold_in(key, number))
        momentum = _MOMENTUM * momentum + gradient / jnp.maximum(jnp.mean(jnp.abs(gradient)), 1e-30)
        ascent = jnp.sign(momentum) if guide.space is None else guide.space.project(momentum)
        delta = delta - _STEP * target * unit(ascent)
        if box:
            delta = delta + _inside(guide.space, jnp.clip(image + delta, 0, 1) - (image + delta))
        return (_no_longer(delta, target), momentum), None

    still = jnp.zeros_like(image)
    (delta, _), _ = jax.lax.scan(step, (still, still), jnp.arange(guide.steps))
    if not box:
        return image + along(None, delta, target, jnp.inf)
    longer = 1.05 * target  # than asked, since the box takes some away
    if guide.space is not None:
        delta = into_box(image, guide.space, unit(delta) * longer, rounds)
    else:
        for _ in range(8):
            delta = jnp.clip(image + unit(delta) * longer, 0, 1) - image
    return whole_levels(image + along(None, delta, target, 1.0))


def _inside(space: Subspace | None, delta: Image) -> Image:
    return delta if space is None else space.project(delta)


def _no_longer(delta: Image, target) -> Image:
    return delta * jnp.minimum(1, target / jnp.maximum(jnp.linalg.norm(delta), 1e-30))
