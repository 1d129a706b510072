"""Guided recoding: changes in the low-sensitivity subspace that lead surrogate readers away. No training, no labels.

Momentum iteration (Dong et al. 2018, arXiv 1710.06081) on random views (DIM) of an ensemble of readers. Each step goes on inside V_N
and, for 8-bit files, is pushed back into [0, 1]; the end is `boxed`'s own, so that what is stored is what was optimised. Steps follow
the gradient itself and not its signs: signs spread the step over all of V_N, whose larger part no reader minds. Without a subspace
it is MI-FGSM, with signs: what leading readers away takes when nobody is authorized.

With JPEG in the loop, readers look through JPEG, and steps inside V_N bring down what the first layer sees of the image after JPEG: of
all changes that mislead the readers, those that JPEG rounds to what the layer does not see.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from ne_jax.core.each_image import image_by_image, vary_alike
from ne_jax.core.first_layer import FirstLayer, together
from ne_jax.core.pixels import Image, check_pixels, check_strength, poisoned
from ne_jax.core.subspace import Subspace
from ne_jax.recoding.design import Context, Design, Gradients, Recipe, Recoded
from ne_jax.recoding.jpeg import jpeg
from ne_jax.recoding.subspace_noise import along, into_box, norm_at, whole_levels
from ne_jax.recoding.surrogate_views import best_of, likeness, unit

_MOMENTUM = 1.0
_STEP = 0.3  # length of a step, of the norm that the PSNR allows
_START = 0.5  # norm of the noise that later attempts start from
_KEPT_STEP, _KEPT_MOMENTUM = 0.2, 0.5  # of steps that keep what the first layer sees after JPEG
_KEPT = 2  # of these after each gradient of the readers
_LAST_STEP, _LAST = 0.05, 40  # of those after the readers' last gradient


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["space", "readers", "layer"],
    meta_fields=["steps", "restarts", "jpeg_quality"],
)
@dataclasses.dataclass(frozen=True)
class Guide:
    """What guided recoding needs beside an image.

    space: where changes may lie; None: anywhere. readers: the surrogates, see
    `surrogate_views`. steps: gradients of each reader, at least 1.
    restarts: attempts beside the first, of which the best is kept. jpeg_quality: of JPEG in the loop, 1 to 100; 0: none; it needs
    layer, the authorized model's first.
    """

    space: Subspace | None
    readers: tuple[Any, ...]
    steps: int = 24
    layer: FirstLayer | None = None
    restarts: int = 0
    jpeg_quality: int = 0


class _Task(NamedTuple):
    """What an attempt is about. target: the norm that the PSNR allows. box: stay in [0, 1]."""

    image: Image
    clean: list
    target: Float[Array, ""]
    box: bool


def guided_recode(
    key: PRNGKeyArray,
    image: Shaped[Array | np.ndarray, "height width channels"],
    guide: Guide,
    psnr_db: float | Float[Array, ""],
    *,
    box: bool = True,
    rounds: int = 40,
) -> Image:
    """The recoded image, float32 in pixel units, at `psnr_db` (dB) or weaker where that does not fit into [0, 1].

    image: uint8, or float in [0, 1]. box: stay in [0, 1] and round to multiples of 1/255; without, the change lies in the subspace
    exactly. Costs `steps` gradients of every reader and one look at the clean image, times `restarts` + 1. vmap over keys and images.
    Raises UserError, or gives NaN where values cannot be looked at, as `recode`.
    """
    return _for_batches(box, rounds)(key, check_pixels(image), guide, check_strength(psnr_db))


@functools.cache
def _for_batches(box: bool, rounds: int) -> Callable[..., Image]:
    def one(key, image, guide, psnr_db):
        return _guided(key, poisoned(image, psnr_db), guide, psnr_db, box, rounds)

    return image_by_image(one)


@functools.partial(jax.jit, static_argnames=("box", "rounds"))
def _guided(key: PRNGKeyArray, image: Image, guide: Guide, psnr_db, box: bool, rounds: int) -> Image:
    task = _Task(image, [reader(image) for reader in guide.readers], norm_at(psnr_db, image), box)

    def attempt(key, number):
        noise = jax.random.normal(jax.random.fold_in(key, guide.steps), image.shape)
        start = jnp.minimum(number, 1) * _START * task.target * unit(_inside(guide.space, noise))
        return _stored(guide, task, _ascended(guide, task, key, start), rounds), jnp.ones((), bool)

    return best_of(guide.restarts + 1, key, attempt, guide.readers, task.clean)[0]


def _ascended(guide: Guide, task: _Task, key: PRNGKeyArray, start: Image) -> Image:
    """The change after all steps."""

    def step(state, number):
        delta, momentum, kept = state
        look = jax.random.fold_in(key, number)
        gradient = jax.grad(_seen, argnums=3)(guide, task, look, delta)
        momentum = _MOMENTUM * momentum + gradient / jnp.maximum(jnp.mean(jnp.abs(gradient)), 1e-30)
        ascent = jnp.sign(momentum) if guide.space is None else guide.space.project(momentum)
        delta = _allowed(guide, task, delta - _STEP * task.target * unit(ascent))
        for _ in range(_KEPT if guide.jpeg_quality else 0):
            _, delta, kept = _kept(guide, task, delta, kept, _KEPT_STEP)
        return (delta, momentum, kept), None

    still = jnp.zeros_like(task.image)
    begin = vary_alike((start, still, still), task.image, task.target, guide, key)
    (delta, _, _), _ = jax.lax.scan(step, begin, jnp.arange(guide.steps))
    return _settled(guide, task, delta) if guide.jpeg_quality else delta


def _seen(guide: Guide, task: _Task, key: PRNGKeyArray, delta: Image) -> Float[Array, ""]:
    moved = task.image + delta
    if guide.jpeg_quality:
        moved = moved + jax.lax.stop_gradient(jpeg(moved, guide.jpeg_quality) - moved)
    return likeness(guide.readers, task.clean, moved, key)


def _kept(guide: Guide, task: _Task, delta: Image, momentum: Image, length: float):
    """What the first layer sees of the change after JPEG, and a step inside V_N that makes it less."""

    def seen(delta: Image) -> Float[Array, ""]:
        return jnp.sum(
            guide.layer.apply(jpeg(task.image + delta, guide.jpeg_quality, gradient="soft") - task.image) ** 2
        )

    size, gradient = jax.value_and_grad(seen)(delta)
    momentum = _KEPT_MOMENTUM * momentum + unit(_inside(guide.space, gradient))
    return size, _allowed(guide, task, delta - length * task.target * unit(momentum)), momentum


def _settled(guide: Guide, task: _Task, delta: Image) -> Image:
    """After more such steps, the change of which the first layer sees least after JPEG."""

    def step(state, _):
        delta, momentum, best, least = state
        size, moved, momentum = _kept(guide, task, delta, momentum, _LAST_STEP)
        return (moved, momentum, jnp.where(size < least, delta, best), jnp.minimum(size, least)), None

    state = vary_alike((delta, jnp.zeros_like(delta), delta, jnp.float32(jnp.inf)), task.image, task.target, guide)
    return jax.lax.scan(step, state, None, length=_LAST)[0][2]


def _stored(guide: Guide, task: _Task, delta: Image, rounds: int) -> Image:
    """The image with the change, as a file holds it."""
    image, target = task.image, task.target
    if not task.box:
        return image + along(None, delta, target, jnp.inf)
    # Longer than asked, since the box takes some away; but not where JPEG's steps have been met.
    longer = delta if guide.jpeg_quality else unit(delta) * 1.05 * target
    if guide.space is not None:
        delta = into_box(image, guide.space, longer, rounds)
    else:
        for _ in range(8):
            delta = jnp.clip(image + unit(delta) * 1.05 * target, 0, 1) - image
    return whole_levels(image + along(None, delta, target, 1.0))


def _allowed(guide: Guide, task: _Task, delta: Image) -> Image:
    """The change pushed towards [0, 1] inside the subspace, and no longer than the PSNR allows."""
    if task.box:
        moved = task.image + delta
        delta = delta + _inside(guide.space, jnp.clip(moved, 0, 1) - moved)
    return delta * jnp.minimum(1, task.target / jnp.maximum(jnp.linalg.norm(delta), 1e-30))


def _inside(space: Subspace | None, delta: Image) -> Image:
    return delta if space is None else space.project(delta)


def _recode(key: PRNGKeyArray, image: Image, recipe: Recipe) -> Recoded:
    return Recoded(_guided(key, image, recipe.directions, recipe.psnr_db, recipe.box, recipe.rounds))


def _guide(context: Context) -> Guide:
    settings, layer = context.settings, together(context.layers, context.space.image_shape)
    return Guide(context.space, context.surrogates(), settings.steps, layer, settings.restarts, settings.jpeg_quality)


def _gradients(settings: Any) -> Gradients:
    return Gradients(settings.steps * (settings.restarts + 1), 0)


GUIDED = Design(
    "guided",
    "leads the surrogates away by gradient steps inside the low-sensitivity subspace and inside [0, 1]",
    recode=_recode,
    settings=("surrogates", "steps", "restarts", "jpeg_quality", "rounds"),
    directions=_guide,
    gradients=_gradients,
)
