"""Recoding: a change of an image inside the low-sensitivity subspace, at a given strength.

Every design is a point on a line of admissible changes, base + t * direction, with t chosen so that the change has the
norm that the PSNR asks for. `gaussian`: direction is fresh noise in V_N, t is free. `boxed`: both ends of the line keep the pixels in
[0, 1], so by convexity every t in [0, 1] does; t = 1 is the strongest that fits.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from ne_jax.errors import UserError
from ne_jax.pixels import UNIT, check_pixels
from ne_jax.subspace import Subspace

Design = Literal["gaussian", "boxed"]
Image = Float[Array, "height width channels"]

# Noise of this rms reaches the faces of the box: on Fashion-MNIST 3 gives 10.7 dB, .3 gives 15.6, 30 gives 10.7 again.
_START_RMS = 3.0
# Over-relaxation of the extrapolated projections, in (0, 2): 40 rounds at 1.7 leave less than the rounding to 8 bits does
# (.01 of a grey level outside the box, rms), plain alternating projections leave 1.3 grey levels.
_RELAXATION = 1.7
# Largest overflow of a pixel that is left to the final clipping: a tenth of a grey level.
_TOLERANCE = 0.1 / 255


def recode(
    key: PRNGKeyArray,
    image: Shaped[Array | np.ndarray, "height width channels"],
    space: Subspace,
    psnr_db: float | Float[Array, ""],
    *,
    design: Design = "gaussian",
    replace: bool = False,
    rounds: int = 40,
) -> Image:
    """The recoded image x' = x + delta, float32 in pixel units. vmap over keys and images; one key is one noise.

    image: uint8, or float in [0, 1], of `space.image_shape`.
    psnr_db: asked strength, -10 log10 mean(delta^2), dB, may be traced; lower is stronger.
    design "gaussian": fresh Gaussian noise for each patch, exactly at `psnr_db`. Leaves [0, 1] where it must: for float files.
    design "boxed": the same noise made to stay in [0, 1] by up to `rounds` projections, first alternating ones, then extrapolated
        ones (Bauschke, Combettes, Kruk 2006, "Extrapolation algorithm for affine-convex feasibility problems"), then rounded to
        multiples of 1/255, so that an 8-bit file holds it exactly. Where `psnr_db` does not fit into the box, a strong change
        that does is returned (a weaker, higher PSNR): compare the PSNR realised.
    replace: remove the image's own part in the subspace before noise goes in. Where that alone is stronger than `psnr_db`, no
        noise is added for `gaussian`, and the PSNR realised is lower than asked. The noise's amplitude depends on the norm of
        what was removed, so that one number of it remains in the image.

    Raises UserError for pixels outside [0, 1] and for a shape other than the space's; ValueError for an unknown design.
    """
    if design not in ("gaussian", "boxed"):
        raise ValueError(f'design "{design}" is unknown; choose gaussian or boxed')
    image = check_pixels(image)
    if image.shape != space.image_shape:
        raise UserError(f"image has shape {image.shape}; the subspace is of images {space.image_shape}")
    return _recode(key, image, space, psnr_db, design, replace, rounds)


@functools.partial(jax.jit, static_argnames=("design", "replace", "rounds"))
def _recode(key, image: Image, space: Subspace, psnr_db, design: Design, replace: bool, rounds: int) -> Image:
    target = jnp.sqrt(image.size) * 10 ** (-jnp.asarray(psnr_db, jnp.float32) / 20)
    base = -space.project(image) if replace else jnp.zeros_like(image)
    noise = space.sample(key)
    if design == "gaussian":
        return image + _along(base, noise, target, limit=jnp.inf)
    fit = functools.partial(_into_box, image, space, rounds=rounds)
    base = fit(base) if replace else base
    strongest = fit(base + noise * _START_RMS * jnp.sqrt(image.size) / jnp.linalg.norm(noise))
    recoded = image + _along(base, strongest - base, target, limit=1.0)
    return jnp.round(jnp.clip(recoded, 0, 1) * 255) * UNIT


def _along(base: Image, direction: Image, target: Float[Array, ""], limit: float | Float[Array, ""]) -> Image:
    """base + t * direction with the t in [0, limit] that brings the norm to `target`, or as near as the limit allows; `base`
    itself where that is already as long."""
    square, cross = jnp.sum(direction**2), jnp.sum(base * direction)
    excess = jnp.sum(base**2) - target**2
    root = (-cross + jnp.sqrt(jnp.maximum(cross**2 - square * excess, 0))) / jnp.maximum(square, 1e-30)
    return base + jnp.where(excess < 0, jnp.clip(root, 0, limit), 0) * direction


def _into_box(image: Image, space: Subspace, delta: Image, rounds: int) -> Image:
    """A change in the subspace near `delta` that keeps the pixels in [0, 1], in at most `rounds` rounds. Each moves along the
    projected overflow: in the first quarter of the rounds by its own length, which stays near the faces of the box, where the
    strong changes are; then by as much as the overflow's length allows (the extrapolation), times the relaxation, which is quick."""
    plain = rounds // 4

    def overflow(delta):
        moved = image + delta
        return jnp.clip(moved, 0, 1) - moved

    def unfinished(state):
        done, _, excess = state
        return (done < rounds) & (jnp.max(jnp.abs(excess)) > _TOLERANCE)

    def one_round(state):
        done, delta, excess = state
        step = space.project(excess)
        length = jnp.sum(excess**2) / jnp.maximum(jnp.sum(step**2), 1e-30)
        delta = delta + jnp.where(done < plain, 1.0, _RELAXATION * length) * step
        return done + 1, delta, overflow(delta)

    return jax.lax.while_loop(unfinished, one_round, (0, delta, overflow(delta)))[1]


@functools.partial(jax.jit, static_argnames=("box",))
def isotropic(key: PRNGKeyArray, image: Image, psnr_db: float | Float[Array, ""], box: bool = False) -> Image:
    """The control: white Gaussian noise in all directions at the same PSNR (dB), and with `box` in [0, 1] and rounded to
    multiples of 1/255, its amplitude raised until the *clipped* noise has that PSNR (or all the box allows)."""
    target = 10 ** (-jnp.asarray(psnr_db, jnp.float32) / 10)
    noise = jax.random.normal(key, image.shape)
    if not box:
        return image + noise * jnp.sqrt(target / jnp.mean(noise**2))

    def halve(_, bounds):
        middle = jnp.sqrt(bounds[0] * bounds[1])
        weak = jnp.mean((jnp.clip(image + middle * noise, 0, 1) - image) ** 2) < target
        return jnp.where(weak, jnp.array([middle, bounds[1]]), jnp.array([bounds[0], middle]))

    low, high = jax.lax.fori_loop(0, 30, halve, jnp.array([1e-4, 1e3]))
    return jnp.round(jnp.clip(image + jnp.sqrt(low * high) * noise, 0, 1) * 255) * UNIT
