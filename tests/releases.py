"""Small releases of real photographs, and all that attackers of any tier know of them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np
from PIL import Image

import ne_jax
from ne_jax.attacks.attack import Attack, Knowledge, restricted
from ne_jax.attacks.moments import growing
from tests.photos import photographs

WINDOW, SHAPE, DIRECTIONS, NUMBERS = (4, 4, 3), (64, 64, 3), 20, 48
PSNR_DB = 3.0


@functools.cache
def crops(first: int, last: int, step: int = 1) -> np.ndarray:
    """A square of every photograph, 64 x 64, float32 in [0, 1]."""
    photos = [photographs()[number] for number in range(first, last, step)]
    squares = [photo.crop((0, 0, min(photo.size), min(photo.size))) for photo in photos]
    small = [np.asarray(square.resize(SHAPE[:2], Image.Resampling.LANCZOS)) for square in squares]
    return np.stack(small).astype(np.float32) / np.float32(255)


def clean() -> np.ndarray:
    """Three photographs under attack; their neighbours are public, or the originals of other releases."""
    return crops(15, 20, 2)


def recoded(images: np.ndarray, space: ne_jax.Subspace, seed: int, psnr_db: float = PSNR_DB) -> np.ndarray:
    keys = jax.random.split(jax.random.key(seed), len(images))
    return np.asarray(jax.vmap(lambda key, image: ne_jax.recode(key, image, space, psnr_db))(keys, images))


def isotropic(images: np.ndarray, seed: int) -> np.ndarray:
    """White noise of the releases' PSNR."""
    noise = np.random.default_rng(seed).standard_normal(images.shape)
    return images + (10 ** (-PSNR_DB / 20) * noise).astype(np.float32)


@functools.cache
def known(make_layer: Callable) -> tuple[np.ndarray, Knowledge]:
    """Releases under attack, and everything else. 20 of 48 directions, at random, are null."""
    layer = make_layer(np.geomspace(1, 0.1, NUMBERS - DIRECTIONS), WINDOW, outputs=NUMBERS - DIRECTIONS).layer
    space = ne_jax.low_sensitivity(ne_jax.spectrum(layer, SHAPE), "count", DIRECTIONS)
    originals = crops(1, 15, 2)
    releases, again = (recoded(originals, space, seed) for seed in (1, 2))
    knowledge = Knowledge(0, WINDOW, crops(0, 20, 2), releases, again, originals, None, layer, space, None, space, b"")
    stored = recoded(clean(), space, 3)
    return stored, whole(knowledge, stored)


def whole(knowledge: Knowledge, stored: np.ndarray) -> Knowledge:
    """The whole release: what is known of it, and what is attacked."""
    released = np.concatenate([knowledge.releases, stored])
    return knowledge._replace(
        other=(knowledge.releases, knowledge.again),
        released=released,
        moments=growing(iter([released]), knowledge.patch, [len(released)])[0],
    )


def without_noise(knowledge: Knowledge) -> Knowledge:
    return whole(knowledge._replace(releases=knowledge.originals, again=knowledge.originals), clean())


def with_isotropic(knowledge: Knowledge) -> Knowledge:
    first, second = (isotropic(knowledge.originals, seed) for seed in (1, 2))
    return whole(knowledge._replace(releases=first, again=second), isotropic(clean(), 3))


def decibels(images: np.ndarray) -> float:
    """PSNR against the clean images, dB; 120 for these themselves."""
    return float(-10 * np.log10(np.mean((images - clean()) ** 2) + 1e-12))


def run(attack: Attack, stored: np.ndarray, knowledge: Knowledge, **parameters) -> np.ndarray:
    """What the attack makes of `stored`, by its first quick choice unless told, with no more knowledge than it names."""
    return attack.run(stored, restricted(knowledge, attack), **(parameters or attack.quick[0]))
