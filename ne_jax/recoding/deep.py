"""Deep recoding: changes that the authorized model's own features and logits do not show, and that lead surrogate readers away.

No subspace: which changes a network does not show depends on the image, so that layers whose windows overlap, without any
low-sensitivity direction, can be protected too, and an attack that estimates one subspace has nothing to find (metamers, Feather et al.
2023; AVIH). Momentum ascent on the surrogates in turn with descent on the authorized model's own change, all on the pixels as an
8-bit file would hold them; then Gauss-Newton steps on that change alone until the stored file is within the budget. Certified by execution.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

from ne_jax.core.each_image import image_by_image, vary_alike
from ne_jax.core.pixels import Image, check_pixels, check_strength, poisoned
from ne_jax.recoding.design import Context, Design, Gradients, Recipe, Recoded
from ne_jax.recoding.subspace_noise import norm_at, whole_levels
from ne_jax.recoding.surrogate_views import best_of, cosine, likeness, margin, unit

_MOMENTUM = 1.0
# Pixels, standard deviation: smooth changes reach readers that were no surrogates (TI, Dong et al. 2019, arXiv 1904.02884).
_SMOOTH = 3.0
_STEP = 0.1  # length of a step, of the norm that the PSNR allows
_WEIGHTS = (0.1, 1.0)  # least and largest length of a step back, of a step ahead
_FASTER = 1.3  # how fast it goes from one to the other
_ALLOWED = 0.02  # change of the authorized model up to which steps back grow shorter
_SOLVER_STEPS = 6  # of conjugate gradients, in each Gauss-Newton step
# Weight of a class's logit by its probability on the clean image, where 1 is shared by all classes: the margin hangs on few logits.
_LIKELY = 0.05


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["authorized", "readers", "margin_share", "logit_gap"],
    meta_fields=["steps", "restore", "restarts"],
)
@dataclasses.dataclass(frozen=True)
class Deep:
    """What deep recoding needs beside an image.

    authorized, readers: the authorized models and the surrogates, see `surrogate_views`.
    margin_share: least margin of the stored image, as a share of the clean image's. logit_gap: largest rms change of the logits, in
    standard deviations of the clean ones; for a model without a head, largest 1 - cosine of its features.
    steps: gradients of every network; restore: most Gauss-Newton steps on the authorized models alone, afterwards.
    restarts: attempts beside the first, of which the best within the budget is kept.
    """

    authorized: tuple[Any, ...]
    readers: tuple[Any, ...]
    margin_share: float | Float[Array, ""] = 0.5
    logit_gap: float | Float[Array, ""] = 0.1
    steps: int = 30
    restore: int = 16
    restarts: int = 0


def deep_recode(
    key: PRNGKeyArray,
    image: Shaped[Array | np.ndarray, "height width channels"],
    deep: Deep,
    psnr_db: float | Float[Array, ""],
    *,
    box: bool = True,
) -> Recoded:
    """The recoded image at `psnr_db` (dB) or weaker, and whether it is within the budget.

    image: uint8, or float in [0, 1]. box: round to multiples of 1/255, as 8-bit files hold them; pixels stay in [0, 1] in any case.
    Costs, times `restarts` + 1, `steps` gradients of every network and at most `restore` + 1 times 1 + 6 of the authorized
    ones. vmap over keys and images.
    Raises UserError, or gives NaN that is not within the budget where values cannot be looked at, as `recode`.
    """
    return _for_batches(box)(key, check_pixels(image), deep, check_strength(psnr_db))


@functools.cache
def _for_batches(box: bool) -> Callable[..., Recoded]:
    def one(key, image, deep, psnr_db):
        return _deep_recode(key, poisoned(image, psnr_db), deep, psnr_db, box)

    return image_by_image(one)


@functools.partial(jax.jit, static_argnames=("box",))
def _deep_recode(key: PRNGKeyArray, image: Image, deep: Deep, psnr_db, box: bool) -> Recoded:
    clean = [model(image) for model in (*deep.authorized, *deep.readers)]
    own, others = clean[: len(deep.authorized)], clean[len(deep.authorized) :]

    def attempt(key, _):
        return _attempt(key, image, deep, own, others, norm_at(psnr_db, image), box)

    return best_of(deep.restarts + 1, key, attempt, deep.readers, others)


def _attempt(key: PRNGKeyArray, image: Image, deep: Deep, own, others, target, box: bool) -> Recoded:
    keep = whole_levels if box else lambda pixels: jnp.clip(pixels, 0, 1)

    def change(delta: Image) -> Float[Array, " answers"]:
        moved = image + delta
        return _change(deep, own, moved + jax.lax.stop_gradient(keep(moved) - moved))

    def size(delta: Image) -> Float[Array, ""]:
        return jnp.sum(change(delta) ** 2)

    def fit(delta: Image) -> Image:
        delta = jnp.clip(image + delta, 0, 1) - image
        return delta * jnp.minimum(1, target / jnp.maximum(jnp.linalg.norm(delta), 1e-30))

    def step(state, number):
        delta, momentum, weight = state
        ascent = jax.grad(likeness, argnums=2)(deep.readers, others, image + delta, jax.random.fold_in(key, number))
        ascent = _smooth(ascent)
        momentum = _MOMENTUM * momentum + ascent / jnp.maximum(jnp.mean(jnp.abs(ascent)), 1e-30)
        changed, back = jax.value_and_grad(size)(delta)
        delta = fit(delta - _STEP * target * unit(momentum))
        delta = fit(delta - weight * _STEP * target * unit(back))
        weight = jnp.clip(jnp.where(changed > _ALLOWED, weight * _FASTER, weight / _FASTER), *_WEIGHTS)
        return (delta, momentum, weight), None

    # Noise without its part in the directions that the networks show at this image: their Jacobian's sensitive ones.
    start = fit(_nearer(change, fit(0.5 * target * unit(_smooth(jax.random.normal(key, image.shape))))))
    state = vary_alike((start, jnp.zeros_like(image), jnp.float32(0.5)), image, deep, key)
    (delta, _, _), _ = jax.lax.scan(step, state, jnp.arange(deep.steps))
    met = functools.partial(_met, deep, own)
    stored = keep(image + _restored(change, fit, lambda delta: met(keep(image + delta)), delta, deep.restore))
    return Recoded(stored, met(stored))


def _smooth(image: Image) -> Image:
    """Each channel under a Gaussian of _SMOOTH pixels, zeros around."""
    places = [jnp.arange(length) for length in image.shape[:2]]
    weights = [jnp.exp(-((place[:, None] - place) ** 2) / (2 * _SMOOTH**2)) for place in places]
    return jnp.einsum("ih,hwc,jw->ijc", weights[0], image, weights[1], optimize=((0, 1), (0, 1)))


def _change(deep: Deep, clean, image: Image) -> Float[Array, " answers"]:
    """How the authorized models' answers differ from those on the clean image: logits in standard deviations of the clean ones, the
    likely classes' with more weight, and features as shares of the clean ones' norm."""
    parts = []
    for model, before in zip(deep.authorized, clean, strict=True):
        logits, features = model(image)
        parts.append((features - before.features) / jnp.linalg.norm(before.features))
        if logits is not None:
            weights = jnp.sqrt(1 / len(logits) + _LIKELY * jax.nn.softmax(before.logits)) / jnp.std(before.logits)
            parts.append(weights * (logits - before.logits))
    return jnp.concatenate(parts)


def _met(deep: Deep, clean, image: Image) -> Bool[Array, ""]:
    """Whether every authorized model is within the budget."""
    met = jnp.ones((), bool)
    for model, before in zip(deep.authorized, clean, strict=True):
        logits, features = model(image)
        if logits is None:
            met &= 1 - cosine(features, before.features) <= deep.logit_gap
            continue
        gap = jnp.mean((logits - before.logits) ** 2) / jnp.var(before.logits)
        label = jnp.argmax(before.logits)
        wide = margin(logits, label) >= deep.margin_share * margin(before.logits, label)
        met &= (gap <= deep.logit_gap**2) & wide & (jnp.argmax(logits) == label)
    return met


def _nearer(change, delta: Image) -> Image:
    """A Gauss-Newton step: the least-squares correction of `delta` that undoes the change to first order, as far as some steps of
    conjugate gradients (CGLS, Hestenes and Stiefel 1952) go, with products of the Jacobian alone."""
    changed, forward = jax.linearize(change, delta)
    transposed = jax.linear_transpose(forward, delta)

    def solve(state, _):
        correction, residual, direction, power = state
        moved = forward(direction)
        length = power / jnp.maximum(jnp.vdot(moved, moved), 1e-30)
        residual = residual - length * moved
        (gradient,) = transposed(residual)
        next_power = jnp.vdot(gradient, gradient)
        turned = gradient + next_power / jnp.maximum(power, 1e-30) * direction
        return (correction + length * direction, residual, turned, next_power), None

    (gradient,) = transposed(-changed)
    state = vary_alike((jnp.zeros_like(delta), -changed, gradient, jnp.vdot(gradient, gradient)))
    (correction, *_), _ = jax.lax.scan(solve, state, None, length=_SOLVER_STEPS)
    return delta + correction


def _restored(change, fit, met, delta: Image, most: int) -> Image:
    """Gauss-Newton steps until the budget is met; of all that was seen, the first within the budget or else the least change."""

    def more(state):
        number, *_, done = state
        return (number < most) & ~done

    def back(state):
        number, delta, best, least, _ = state
        delta = fit(_nearer(change, delta))
        size, done = jnp.sum(change(delta) ** 2), met(delta)
        better = done | (size < least)
        return number + 1, delta, jnp.where(better, delta, best), jnp.where(better, size, least), done

    state = (0, *vary_alike((delta, delta, jnp.sum(change(delta) ** 2), met(delta))))
    return jax.lax.while_loop(more, back, state)[2]


def _recode(key: PRNGKeyArray, image: Image, recipe: Recipe) -> Recoded:
    return _deep_recode(key, image, recipe.directions, recipe.psnr_db, recipe.box)


def _deep(context: Context) -> Deep:
    settings, readers = context.settings, (context.authorized(), context.surrogates())
    budget = settings.margin_share, settings.logit_gap
    return Deep(*readers, *budget, settings.steps, settings.restore, settings.restarts)


def _gradients(settings: Any) -> Gradients:
    """Of all steps back that may be needed."""
    attempts, back = settings.restarts + 1, (settings.restore + 1) * (1 + _SOLVER_STEPS)
    return Gradients(settings.steps * attempts, (settings.steps + back) * attempts)


DEEP = Design(
    "deep",
    "no subspace: leads the surrogates away while the authorized network's own features and logits stay",
    recode=_recode,
    settings=("surrogates", "steps", "restarts", "restore", "margin_share", "logit_gap"),
    directions=_deep,
    inside=False,
    gradients=_gradients,
    unmet="not protected at this strength: the authorized model's answer leaves recode.margin_share and recode.logit_gap; raise "
    "recode.psnr_db or recode.restore",
)
