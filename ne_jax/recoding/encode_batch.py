"""Recoding of whole batches, over all devices of this process."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Shaped, UInt8

from ne_jax.core.pixels import psnr_db, to_float
from ne_jax.core.subspace import FourierSubspace
from ne_jax.recoding.deep import deep_recode
from ne_jax.recoding.designs import Design, Directions
from ne_jax.recoding.guided import guided_recode
from ne_jax.recoding.paper import paper_recode
from ne_jax.recoding.subspace_noise import recode

# Images that a device takes in one call. Always this many, padded, in the same program for one device, because another one may add in
# another order, and then an image's last bit would depend on the batch that it came in (contract 4). XLA makes another program where
# several devices share one call, which changed the last bits of a boxed image on overlapping windows.
_STEP = 16
_FEW = 2  # instead, where networks run on a CPU, so that little is lost to padding
_TRANSFORMED = 4  # of these, images whose Fourier transforms a CPU takes at once; else one at a time, whose numbers stay in its cache


class Encoded(NamedTuple):
    """Images as a format stores them. psnr_db: of each stored image against the clean one, dB; infinite for one left unchanged.

    edge_share: share of each image's numbers that are at, or in floating point beyond, the ends of [0, 1].
    met: whether the image is as asked; only design "deep" may fail to keep the authorized model's answer within its budget.
    """

    stored: Shaped[Array, "batch height width channels"]
    psnr_db: Float[Array, " batch"]
    edge_share: Float[Array, " batch"]
    met: Bool[Array, " batch"]


def encode_batch(
    keys: Key[Array, " batch"],
    pixels: UInt8[Array | np.ndarray, "batch height width channels"],
    space: Directions,
    psnr_db: float | Float[Array, ""],
    design: Design,
    dtype: Any = np.float32,
    replace: bool = False,
    rounds: int = 40,
) -> Encoded:
    """`recode` of a batch, each image with its own key, and rounded to what `dtype` (float32, float16 or uint8) stores. Design
    "contrastive" is gaussian, or boxed for uint8; "guided" takes a `Guide`, "deep" a `Deep`, and "paper", which is INSECURE, a `Tile`.

    Bit for bit the same for an image in a batch of any size, in any place, over any number of devices of one kind.
    """
    calls = encode_calls(keys, pixels, space, psnr_db, design, dtype, replace, rounds)
    steps = jax.device_put([call() for call in calls], jax.local_devices()[0])
    return Encoded(*(jnp.concatenate(column)[: len(pixels)] for column in zip(*steps, strict=True)))


def encode_calls(
    keys, pixels, space, psnr_db, design, dtype=np.float32, replace=False, rounds=40
) -> list[Callable[[], Encoded]]:
    """The same in pieces of one size, each a call, the last one padded with zeros; the devices take turns. From several threads they
    keep all devices, and all cores of a CPU, busy, which one call at a time does not."""
    size = _FEW if design in ("guided", "deep") and jax.default_backend() == "cpu" else _STEP
    padding = -len(pixels) % size
    words, pixels = np.asarray(jax.random.key_data(keys)), np.asarray(pixels)
    if padding:
        words, pixels = (
            np.concatenate([rows, np.zeros_like(rows, shape=(padding, *rows.shape[1:]))]) for rows in (words, pixels)
        )
    strength, settings = np.float32(psnr_db), (design, dtype, replace, rounds, _together(design, space))

    def call(start: int, device: jax.Device) -> Encoded:
        rows = slice(start, start + size)
        return _step(*jax.device_put((words[rows], pixels[rows], space, strength), device), *settings)

    places = zip(range(0, len(pixels), size), itertools.cycle(jax.local_devices()))
    return [functools.partial(call, start, device) for start, device in places]


def _together(design: str, space: Directions) -> int:
    if jax.default_backend() != "cpu":
        return _STEP
    return _TRANSFORMED if design == "gaussian" and isinstance(space, FourierSubspace) else 1


@functools.partial(jax.jit, static_argnames=("design", "dtype", "replace", "rounds", "together"))
def _step(words, pixels, space, strength, design, dtype, replace, rounds, together) -> Encoded:
    def one(word, image) -> Encoded:
        key, box, met = jax.random.wrap_key_data(word, impl="threefry2x32"), dtype == np.uint8, jnp.ones((), bool)
        if design == "paper":
            recoded = paper_recode(key, to_float(image), space.layer, space.basis, strength)
        elif design == "guided":
            recoded = guided_recode(key, to_float(image), space, strength, box=box, rounds=rounds)
        elif design == "deep":
            recoded, met = deep_recode(key, to_float(image), space, strength, box=box)
        else:
            plain = ("boxed" if box else "gaussian") if design == "contrastive" else design
            recoded = recode(key, image, space, strength, design=plain, replace=replace, rounds=rounds)
        stored = jnp.round(jnp.clip(recoded, 0, 1) * 255) if dtype == np.uint8 else recoded
        stored = stored.astype(dtype)
        edge = jnp.mean((recoded <= 0) | (recoded >= 1))
        return Encoded(stored, psnr_db(to_float(stored) - to_float(image)), edge, met)

    chunk = None if together == 1 else together
    return jax.lax.map(lambda row: one(*row), (words, pixels), batch_size=chunk)
