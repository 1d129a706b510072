"""Recoding of whole batches, over all devices of this process."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Shaped, UInt8

from ne_jax.core.pixels import psnr_db, to_float
from ne_jax.core.subspace import FourierSubspace
from ne_jax.recoding.design import Recipe

# Images that a device takes in one call. Always this many, padded, in the same program for one device, because another one may add in
# another order, and then an image's last bit would depend on the batch that it came in (contract 4). XLA makes another program where
# several devices share one call, which changed the last bits of a boxed image on overlapping windows.
_STEP = 16
_FEW = 1  # instead, where networks run on a CPU, so that nothing is lost to padding


class Encoded(NamedTuple):
    """Images as a format stores them. psnr_db: of each stored image against the clean one, dB; infinite for one left unchanged.

    edge_share: share of each image's numbers that are at, or in floating point beyond, the ends of [0, 1].
    met: whether the design could do on the image what it promises.
    """

    stored: Shaped[Array, "batch height width channels"]
    psnr_db: Float[Array, " batch"]
    edge_share: Float[Array, " batch"]
    met: Bool[Array, " batch"]


def encode_batch(
    keys: Key[Array, " batch"], pixels: UInt8[Array | np.ndarray, "batch height width channels"], recipe: Recipe
) -> Encoded:
    """Images recoded, each with its own key, and rounded to what `recipe.dtype` stores.

    Bit for bit the same for an image in a batch of any size, in any place, over any number of devices of one kind.
    """
    calls = encode_calls(keys, pixels, recipe)
    steps = jax.device_put([call() for call in calls], jax.local_devices()[0])
    return Encoded(*(jnp.concatenate(column)[: len(pixels)] for column in zip(*steps, strict=True)))


def encode_calls(
    keys: Key[Array, " batch"], pixels: UInt8[Array | np.ndarray, "batch height width channels"], recipe: Recipe
) -> list[Callable[[], Encoded]]:
    """The same in pieces of one size, each a call, the last one padded with zeros; the devices take turns. From several threads they
    keep all devices, and all cores of a CPU, busy, which one call at a time does not."""
    size = _FEW if recipe.design.runs_networks and jax.default_backend() == "cpu" else _STEP
    padding = -len(pixels) % size
    words, pixels = np.asarray(jax.random.key_data(keys)), np.asarray(pixels)
    if padding:
        words, pixels = (
            np.concatenate([rows, np.zeros_like(rows, shape=(padding, *rows.shape[1:]))]) for rows in (words, pixels)
        )
    # One type, so that every strength shares a program.
    recipe = dataclasses.replace(recipe, psnr_db=np.asarray(recipe.psnr_db, np.float32))

    def call(start: int, device: jax.Device) -> Encoded:
        rows = slice(start, start + size)
        return _step(*jax.device_put((words[rows], pixels[rows], recipe), device))

    places = zip(range(0, len(pixels), size), itertools.cycle(jax.local_devices()))
    return [functools.partial(call, start, device) for start, device in places]


@jax.jit
def _step(words, pixels, recipe: Recipe) -> Encoded:
    def one(word, image) -> Encoded:
        key, clean = jax.random.wrap_key_data(word, impl="threefry2x32"), to_float(image)
        recoded, met = recipe.design.recode(key, clean, recipe)
        stored = jnp.round(jnp.clip(recoded, 0, 1) * 255) if recipe.box else recoded
        stored = stored.astype(recipe.dtype)
        edge = jnp.mean((recoded <= 0) | (recoded >= 1))
        return Encoded(stored, psnr_db(to_float(stored) - clean), edge, jnp.asarray(met))

    return jax.lax.map(lambda row: one(*row), (words, pixels), batch_size=_together(recipe))


def _together(recipe: Recipe) -> int | None:
    """How many images of a step are recoded at once. On a CPU one at a time, whose numbers stay in its cache."""
    if jax.default_backend() != "cpu":
        return _STEP
    count = recipe.design.transforms_at_once if isinstance(recipe.directions, FourierSubspace) else 1
    return None if count == 1 else count
