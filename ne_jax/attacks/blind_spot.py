"""Tier 2: a network that learns from non-transferable examples alone, by predicting pixels that it does not see (blind spots).

What a blind spot hides, it hides in every patch: what it may see decides what noise it can tell from the image. The quick parameters
take seconds on two cores, the full ones minutes.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.attacks.trained_networks import Batch, crops, descend, in_chunks, small_network
from ne_jax.core.linear_estimate import given
from ne_jax.core.pixels import Images

Hide = Literal["patches", "pixels"]


def hidden_sets(
    generator: np.random.Generator, patch: tuple[int, int, int], folds: int, sides: tuple[int, int], hide: Hide
) -> Int[np.ndarray, "height width"]:
    """For each pixel the number, below `folds`, of the set that it is hidden with.

    "patches": whole patches, none with one of its eight neighbours if `folds` is 4 or more; for noise that is independent from patch to
    patch, which the rest of a patch would tell. "pixels": random pixels of a patch, the same in every patch; for noise that repeats
    from patch to patch, which other patches would tell.
    """
    rows, columns = np.indices(sides)
    if hide == "patches":
        return (rows // patch[0] + 2 * (columns // patch[1]) + generator.integers(folds)) % folds
    numbers = generator.permutation(np.arange(patch[0] * patch[1]) % folds).reshape(patch[:2])
    return numbers[rows % patch[0], columns % patch[1]]


@functools.partial(jax.jit, static_argnames=("graphdef", "reach"))
def predict(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    images: Batch,
    hidden: Float[Array, "height width"],
    reach: tuple[int, int],
) -> Batch:
    """What the network makes of images of which it does not see the pixels where `hidden` is 1: they are first filled with the mean of
    the visible ones, at most `reach` rows and columns away. No prediction depends on a hidden pixel."""
    seen = jnp.broadcast_to(1 - hidden[:, :, None], images.shape)
    filled = jnp.where(seen > 0, images, _around(images * seen, reach) / jnp.maximum(_around(seen, reach), 1))
    return filled + nnx.merge(graphdef, params)(jnp.concatenate([filled, 1 - seen[..., :1]], axis=-1))


def _around(values: Batch, reach: tuple[int, int]) -> Batch:
    """The sum over pixels at most `reach` away, zeros outside, in each channel."""
    for window in ((1, 2 * reach[0] + 1, 1, 1), (1, 1, 2 * reach[1] + 1, 1)):
        values = jax.lax.reduce_window(values, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")
    return values


def _blind_loss(static, params, _, batch):
    graphdef, reach = static
    images, hidden = batch
    error = predict(graphdef, params, images, hidden, reach) - images
    return jnp.sum(error**2 * hidden[:, :, None]) / jnp.sum(hidden)


def blind_spot(
    stored: Images,
    knowledge: Knowledge,
    steps: int = 60,
    hide: Hide = "patches",
    folds: int = 4,
    widths: tuple[int, ...] = (16, 32, 64),
    rate: float = 1e-3,
) -> Images:
    """Noise2Self (Batson and Royer 2019, arXiv 1901.11365) on non-transferable examples only: learn to predict hidden pixels from
    the others, squared error, then predict each pixel of the stored images while it is hidden. `hide`, `folds`: see `hidden_sets`.

    Noise of a subspace is told by the rest of its patch, so with "pixels" it is learned with the image unless it is weak; with
    "patches" it is not, and detail is lost with it.
    """
    releases = given(knowledge.released, "the release")
    generator = np.random.default_rng(knowledge.seed)
    channels, patch = stored.shape[-1], knowledge.patch
    graphdef, params = small_network(channels + 1, channels, widths, knowledge.seed)
    reach = (patch[0], patch[1]) if hide == "patches" else (1, 1)

    def batches():
        for (images,) in crops(generator, (releases,), patch):
            yield images, (hidden_sets(generator, patch, folds, images.shape[1:3], hide) == 0).astype(np.float32)

    params = descend(_blind_loss, (graphdef, reach), params, None, batches(), steps, rate)
    numbers = hidden_sets(generator, patch, folds, stored.shape[1:3], hide)

    def predicted(images):
        masks = [(numbers == fold).astype(np.float32) for fold in range(folds)]
        return sum(
            mask[:, :, None] * predict(graphdef, params, jnp.asarray(images), jnp.asarray(mask), reach)
            for mask in masks
        )

    return in_chunks(predicted, stored)


_HIDDEN = (("patches", 4), ("patches", 9), ("pixels", 4), ("pixels", 16))
ATTACKS = (
    Attack(
        "blind_spot", 2, "Blind-spot network", "images", blind_spot, frozenset({"released"}),
        tuple({"steps": 2000, "hide": hide, "folds": folds} for hide, folds in _HIDDEN), ({"steps": 60},),
        "Batson and Royer 2019, arXiv 1901.11365",
    ),
)  # fmt: skip
