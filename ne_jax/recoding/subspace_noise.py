"""Recoding: a change of an image inside the low-sensitivity subspace, at a given strength.

Every design is a point on a line of admissible changes, base + t * direction, with t chosen so that the change has the
norm that the PSNR asks for. `gaussian`: direction is fresh noise in V_N, t is free. `boxed`: both ends of the line keep the pixels in
[0, 1], so by convexity every t in [0, 1] does; t = 1 is the strongest that fits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from ne_jax.core.each_image import image_by_image, vary_alike
from ne_jax.core.pixels import UNIT, Image, check_pixels, check_strength, poisoned
from ne_jax.core.subspace import Parts, Subspace
from ne_jax.errors import UserError
from ne_jax.recoding.design import Design, Recipe, Recoded

Noise = Literal["gaussian", "boxed"]

# Noise of this rms reaches the faces of the box; more makes it little stronger and the way back longer.
_START_RMS = 3.0
# Rms of the overflow that is left to the final clipping, in pixel units: less than half of what rounding to 8 bits leaves.
_TOLERANCE = 0.12 / 255
_ALL_ROUNDS = 4  # of all parts of an image
# Over-relaxation once the first rounds have come near the box: it is reached in fewer rounds, .2 dB weaker; from the start on, 2 dB.
_RELAXATION, _EXACT_ROUNDS = 1.3, 2
_AT_ONCE = 2  # rounds of the parts that overflow most, before these are looked for again
_TINY = np.finfo(np.float32).tiny


def recode(
    key: PRNGKeyArray,
    image: Shaped[Array | np.ndarray, "height width channels"],
    space: Subspace,
    psnr_db: float | Float[Array, ""],
    *,
    design: Noise = "gaussian",
    replace: bool = False,
    rounds: int = 40,
) -> Image:
    """The recoded image x' = x + delta, float32 in pixel units. vmap over keys and images; one key is one noise.

    image: uint8, or float in [0, 1], of `space.image_shape`.
    psnr_db: asked strength, -10 log10 mean(delta^2), dB, may be traced; lower is stronger.
    design "gaussian": fresh Gaussian noise for each patch, exactly at `psnr_db`. Leaves [0, 1] where it must: for float files.
    design "boxed": the same noise made to stay in [0, 1] by up to `rounds` steps of conjugate gradients, then rounded to multiples
        of 1/255, so that an 8-bit file holds it exactly. Where `psnr_db` does not fit into the box, a strong change that does is
        returned (a weaker, higher PSNR): compare the PSNR realised.
    replace: remove the image's own part in the subspace before noise goes in. Where that alone is stronger than `psnr_db`, no
        noise is added for `gaussian`, and the PSNR realised is lower than asked. The noise's amplitude depends on the norm of
        what was removed, so that one number of it remains in the image.

    Raises UserError for pixels outside [0, 1], a PSNR that is NaN or -infinity, and for a shape other than the space's; ValueError for
    an unknown design. Where values cannot be looked at, as inside jit and vmap, a wrong pixel makes all of the image NaN, a wrong
    strength too, and every gradient with them.
    """
    if design not in ("gaussian", "boxed"):
        raise ValueError(f'design "{design}" is unknown; choose gaussian or boxed')
    image = check_pixels(image)
    if image.shape != space.image_shape:
        raise UserError(f"image has shape {image.shape}; the subspace is of images {space.image_shape}")
    return _for_batches(design, replace, rounds)(key, image, space, check_strength(psnr_db))


@functools.cache
def _for_batches(design: Noise, replace: bool, rounds: int) -> Callable[..., Image]:
    def one(key, image, space, psnr_db):
        return _recode(key, poisoned(image, psnr_db), space, psnr_db, design, replace, rounds)

    return image_by_image(one)


@functools.partial(jax.jit, static_argnames=("design", "replace", "rounds"))
def _recode(key, image: Image, space: Subspace, psnr_db, design: Noise, replace: bool, rounds: int) -> Image:
    target = norm_at(psnr_db, image)
    base = -space.project(image) if replace else None
    noise = space.noise(key, image)
    if design == "gaussian":
        return image + along(base, noise, target, limit=jnp.inf)
    fit = functools.partial(into_box, image, space, rounds=rounds)
    start = noise * _START_RMS * jnp.sqrt(image.size) / jnp.linalg.norm(noise)
    if replace:
        base = fit(base)
        delta = along(base, fit(base + start) - base, target, limit=1.0)
    else:
        delta = along(None, fit(start), target, limit=1.0)
    return whole_levels(image + delta)


def norm_at(psnr_db: float | Float[Array, ""], image: Image) -> Float[Array, ""]:
    """Norm that a change of `image` has at that PSNR (dB), in pixel units."""
    return jnp.sqrt(image.size) * 10 ** (-jnp.asarray(psnr_db, jnp.float32) / 20)


def whole_levels(image: Image) -> Image:
    """The nearest multiples of 1/255 in [0, 1], which an 8-bit file holds exactly."""
    return jnp.round(jnp.clip(image, 0, 1) * 255) * UNIT


def along(base: Image | None, direction: Image, target: Float[Array, ""], limit: float) -> Image:
    """base + t * direction, with the t in [0, limit] that brings the norm to `target`, or as near as the limit allows; `base`
    itself where that is already as long. None stands for a base of zeros."""
    square = jnp.maximum(jnp.sum(direction**2), 1e-30)
    if base is None:
        return jnp.minimum(target / jnp.sqrt(square), limit) * direction
    cross, excess = jnp.sum(base * direction), jnp.sum(base**2) - target**2
    root = (-cross + jnp.sqrt(jnp.maximum(cross**2 - square * excess, 0))) / square
    return base + jnp.where(excess < 0, jnp.clip(root, 0, limit), 0) * direction


class _Search(NamedTuple):
    """Conjugate gradients on their way, a row for each part of the image. excess: back into the box from pixels + delta.
    direction: in coordinates of the subspace. before: squared norm of the last gradient."""

    delta: Parts
    excess: Parts
    direction: Parts
    before: Float[Array, "parts 1"]


def into_box(image: Image, space: Subspace, delta: Image, rounds: int) -> Image:
    """A change in the subspace near `delta` that keeps the pixels in [0, 1], for the work of at most `rounds` rounds.

    Conjugate gradients (Fletcher and Reeves 1964) on half the squared overflow, in each part of the image for itself: the gradient is
    the overflow's part in the subspace, and the step is exact for the pixels that are outside now. After the first rounds most
    parts are done, and only the quarter that overflows most goes on, a few rounds at a time.
    """
    pixels, delta = space.parts(image), space.parts(delta)
    some = -(-len(pixels) // 4)

    def unfinished(state, limit: int):
        return (state[0] < limit) & (jnp.sum(state[1].excess ** 2) > image.size * _TOLERANCE**2)

    def all_on(state):
        relaxation = jnp.where(state[0] < _EXACT_ROUNDS, 1.0, _RELAXATION)
        return state[0] + 1, _round(space, pixels, state[1], relaxation)

    def worst_on(state):
        done, search = state
        _, worst = jax.lax.top_k(jnp.sum(search.excess**2, axis=1), some)
        moved = _Search(*(rows[worst] for rows in search))
        for _ in range(_AT_ONCE):
            moved = _round(space, pixels[worst], moved, _RELAXATION)
        rows = zip(search, moved, strict=True)
        return done + _AT_ONCE * some / len(pixels), _Search(
            *(old.at[worst].set(new, unique_indices=True) for old, new in rows)
        )

    excess = _overflow(pixels, delta)
    direction = jnp.zeros(jax.eval_shape(space.coordinates, excess).shape)
    state = (0.0, vary_alike(_Search(delta, excess, direction, jnp.ones((len(pixels), 1))), pixels, space))
    state = jax.lax.while_loop(lambda state: unfinished(state, min(_ALL_ROUNDS, rounds)), all_on, state)
    state = jax.lax.while_loop(lambda state: unfinished(state, rounds), worst_on, state)
    return space.whole(state[1].delta)


def _overflow(pixels: Parts, delta: Parts) -> Parts:
    moved = pixels + delta
    return jnp.clip(moved, 0, 1) - moved


def _round(space: Subspace, pixels: Parts, search: _Search, relaxation) -> _Search:
    steepest = space.coordinates(search.excess)
    square = _rows(steepest**2)
    direction = steepest + square / jnp.maximum(search.before, _TINY) * search.direction
    step = space.combine(direction)
    outside = _rows(jnp.where(search.excess == 0, 0, step) ** 2)
    length = relaxation * _rows(search.excess * step) / jnp.maximum(outside, _TINY)
    delta = search.delta + length * step
    return _Search(delta, _overflow(pixels, delta), direction, square)


def _rows(values: Parts) -> Float[Array, "parts 1"]:
    return jnp.sum(values, axis=1, keepdims=True)


def isotropic(
    key: PRNGKeyArray,
    image: Shaped[Array | np.ndarray, "height width channels"],
    psnr_db: float | Float[Array, ""],
    box: bool = False,
) -> Image:
    """The control: white Gaussian noise in all directions at the same PSNR (dB), and with `box` in [0, 1] and rounded to
    multiples of 1/255, its amplitude raised until the *clipped* noise has that PSNR (or all the box allows).

    image: uint8, or float in [0, 1]. vmap over keys and images. Raises UserError as `recode`; where values cannot be looked at, as
    inside jit, pixels outside [0, 1] and a strength that is no number give NaN.
    """
    return _isotropic_for_batches(box)(key, check_pixels(image), check_strength(psnr_db))


@functools.cache
def _isotropic_for_batches(box: bool) -> Callable[..., Image]:
    def one(key, image, psnr_db):
        return white_noise(key, poisoned(image, psnr_db), psnr_db, box)

    return image_by_image(one)


@functools.partial(jax.jit, static_argnames=("box",))
def white_noise(key: PRNGKeyArray, image: Image, psnr_db: float | Float[Array, ""], box: bool = False) -> Image:
    """`isotropic` of pixels that were checked, in the program that the caller's vmap makes of it."""
    target = 10 ** (-jnp.asarray(psnr_db, jnp.float32) / 10)
    noise = jax.random.normal(key, image.shape)
    if not box:
        return image + noise * jnp.sqrt(target / jnp.mean(noise**2))

    def halve(_, bounds):
        middle = jnp.sqrt(bounds[0] * bounds[1])
        weak = jnp.mean((jnp.clip(image + middle * noise, 0, 1) - image) ** 2) < target
        return jnp.where(weak, jnp.array([middle, bounds[1]]), jnp.array([bounds[0], middle]))

    start = vary_alike(jnp.array([1e-4, 1e3]), image, noise, target)
    low, high = jax.lax.fori_loop(0, 30, halve, start)
    return whole_levels(image + jnp.sqrt(low * high) * noise)


def _noise(design: Noise, key: PRNGKeyArray, image: Image, recipe: Recipe) -> Recoded:
    return Recoded(_recode(key, image, recipe.directions, recipe.psnr_db, design, recipe.replace, recipe.rounds))


GAUSSIAN = Design(
    "gaussian",
    "fresh Gaussian noise in the low-sensitivity subspace, exactly as strong as asked",
    recode=functools.partial(_noise, "gaussian"),
    settings=("replace",),
    gaussian=True,
    leaves_box=True,
    transforms_at_once=4,
)
BOXED = Design(
    "boxed",
    "the same noise made to stay in [0, 1], as 8-bit files must",
    recode=functools.partial(_noise, "boxed"),
    settings=("replace", "rounds", "fit"),
)


def noise_for(dtype: type[np.generic]) -> Design:
    """The noise alone that a number format can hold: boxed for 8 bits, gaussian for floating point."""
    return BOXED if dtype == np.uint8 else GAUSSIAN
