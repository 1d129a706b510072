"""Tier 3, linear: pairs of clean and recoded images of the same authorized model are known."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.attacks.released_twice import difference_noise
from ne_jax.core.first_layer import HIGHEST
from ne_jax.core.linear_estimate import (
    ROUNDING,
    Directions,
    changed,
    cross_moment,
    cut,
    descending,
    given,
    inpainting,
    patch_prior,
    second_moment,
)
from ne_jax.core.pixels import Images
from ne_jax.core.threefry import normal
from ne_jax.recoding.noise_keys import noise_keys

_SHOWN = 64  # patches that are compared with a seed's noise
_BATCH = 256  # seeds at once
_LEAST = 0.3  # correlation that counts as found, and at least six times that of another seed's noise


def _pairs(knowledge: Knowledge) -> tuple[Images, Images]:
    return given(knowledge.releases, "releases"), given(knowledge.originals, "the releases' clean images")


def difference_subspace(
    stored: Images, knowledge: Knowledge, directions: Directions = "knee", wiener: bool = False
) -> Images:
    """V_N from the singular values of recoded - clean, then linear inpainting; with ceil(k / patches) pairs it is exact.

    directions: how many, "knee" or a share of all; "knee" leaves images as they are where no step shows.
    wiener: best linear estimate under noise of the covariance seen, instead of noise of any strength.
    """
    releases, originals = _pairs(knowledge)
    public = given(knowledge.public, "public photographs")
    prior = patch_prior(np.concatenate([originals, public]), knowledge.patch)
    noise = difference_noise(releases, originals, knowledge.patch, directions)
    return changed(stored, prior, inpainting(prior, noise, 1.0 if wiener else np.inf))


def _regression(
    shown: Float[np.ndarray, "n patches shown"], wanted: Float[np.ndarray, "n patches wanted"], ridge: float
) -> Float[np.ndarray, "wanted shown"]:
    """Matrix E of least mean |wanted - E shown|^2 + lambda |E|^2, lambda = ridge times the variance of rounding to 8 bits."""
    size = shown.shape[2]
    own = second_moment(shown, np.zeros(size)) + ridge * ROUNDING * np.eye(size)
    return np.linalg.solve(own, cross_moment(shown, wanted)).T


def ridge_decoder(stored: Images, knowledge: Knowledge, ridge: float = 100.0) -> Images:
    """Ridge regression, from pairs, of what a patch lacks on what it shows. Pairs without noise give the identity.

    ridge: above 0, in units of the variance of rounding to 8 bits.
    """
    releases, originals = _pairs(knowledge)
    prior = patch_prior(originals, knowledge.patch)
    recoded, clean = cut(releases, knowledge.patch), cut(originals, knowledge.patch)
    centred = recoded - prior.mean.astype(np.float32)
    return changed(stored, prior, _regression(centred, clean - recoded, ridge))


def context_decoder(stored: Images, knowledge: Knowledge, ridge: float = 100.0, components: int = 24) -> Images:
    """`ridge_decoder`, then a second regression of what is still lacking on 3 x 3 decoded patches, each by its leading principal
    components: what a patch hides its neighbours tell in part.

    components: of each of the nine patches, at least 1.
    """
    releases, originals = _pairs(knowledge)
    unit = knowledge.patch
    decoded = ridge_decoder(releases, knowledge, ridge)
    prior = patch_prior(originals, unit)
    _, vectors = descending(prior.root)
    shown = vectors[:, :components]
    lacking = cut(originals, unit) - cut(decoded, unit)
    matrix = _regression(_context(decoded, unit, prior.mean, shown), lacking, ridge)
    first = ridge_decoder(stored, knowledge, ridge)
    more = _context(first, unit, prior.mean, shown) @ matrix.T.astype(np.float32)
    rows, columns = stored.shape[1] // unit[0], stored.shape[2] // unit[1]
    whole = more.reshape(-1, rows, columns, *unit).transpose(0, 1, 3, 2, 4, 5)
    first = np.array(first)
    first[:, : rows * unit[0], : columns * unit[1]] += whole.reshape(len(stored), rows * unit[0], columns * unit[1], -1)
    return first


def _context(
    images: Images, unit: tuple[int, int, int], mean: Float[np.ndarray, " d"], shown: Float[np.ndarray, "d k"]
) -> Float[np.ndarray, "n patches nine_k"]:
    """Components of the nine patches around each, those beyond the border as the last inside."""
    rows, columns = images.shape[1] // unit[0], images.shape[2] // unit[1]
    components = (cut(images, unit) - mean.astype(np.float32)) @ shown.astype(np.float32)
    grid = components.reshape(len(images), rows, columns, -1)
    padded = np.pad(grid, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    nine = [padded[:, row : row + rows, column : column + columns] for row in range(3) for column in range(3)]
    return np.concatenate(nine, -1).reshape(len(images), rows * columns, -1)


def weak_secret(
    release: Float[np.ndarray, "height width channels"],
    original: Float[np.ndarray, "height width channels"],
    patch: tuple[int, int, int],
    directions: int,
    seeds: int,
    artefact: bytes,
) -> bytes | None:
    """The secret that the noise of one pair was drawn from, if it is a whole number below `seeds`: 32 bytes of it, or its digits.

    Keys are derived as `recoding.noise_keys` does, from the secret, `artefact` and the clean picture. Noise in an unknown basis of
    `directions` orthonormal vectors has the inner products, patch by patch, of its standard normal coordinates: no subspace need be known.
    """
    noise = cut((release - original)[None], patch)[0]
    shown = noise[:_SHOWN].astype(np.float64)
    pairs = np.triu_indices(len(shown), 1)
    products = jnp.asarray((shown @ shown.T)[pairs], jnp.float32)
    pixels = np.round(original[None] * 255).astype(np.uint8)
    least = max(_LEAST, 6 / np.sqrt(max(len(pairs[0]), 1)))
    candidates = [secret for seed in range(seeds) for secret in (seed.to_bytes(32, "big"), str(seed).encode())]
    for start in range(0, len(candidates), _BATCH):
        batch = candidates[start : start + _BATCH]
        keys = jnp.concatenate([noise_keys(secret, artefact, pixels) for secret in batch])
        match = np.asarray(_match(keys, products, (len(noise), directions)))
        if match.max() > least:
            return batch[int(match.argmax())]
    return None


@functools.partial(jax.jit, static_argnames="shape")
def _match(
    keys: Key[Array, " seeds"], products: Float[Array, " pairs"], shape: tuple[int, int]
) -> Float[Array, " seeds"]:
    """Correlation of the inner products of patches with those of each key's noise."""
    pairs = np.triu_indices(min(_SHOWN, shape[0]), 1)

    def one(key):
        shown = normal(key, shape)[:_SHOWN]
        own = jnp.matmul(shown, shown.T, precision=HIGHEST)[pairs]
        return jnp.sum(own * products) / jnp.maximum(jnp.linalg.norm(own) * jnp.linalg.norm(products), 1e-30)

    return jax.lax.map(one, keys)


def seed_search(stored: Images, knowledge: Knowledge, seeds: int = 1000) -> Images:
    """Tries weak secrets on the first pair. Images as they are where none fits, as with 256 random bits.

    Found, a secret proves that the noise can be drawn again for every picture that is known; a picture that is not known keeps its key,
    which hangs on its content, so that it is decoded by the subspace alone, like in `difference_subspace`.
    seeds: how many, at least 1.
    """
    releases, originals = _pairs(knowledge)
    directions = difference_noise(releases, originals, knowledge.patch, "knee").shape[1]
    found = None
    if directions:
        found = weak_secret(releases[0], originals[0], knowledge.patch, directions, seeds, knowledge.artefact)
    return np.array(stored, np.float32) if found is None else difference_subspace(stored, knowledge)


def _attack(name: str, title: str, run, grid, quick, source: str, *more: str) -> Attack:
    knows = frozenset({"releases", "originals", *more})
    return Attack(name, 3, title, "images", run, knows, tuple(grid), tuple(quick), source)


_RIDGES = [{"ridge": ridge} for ridge in (1.0, 100.0, 1e4)]
ATTACKS = (
    _attack(
        "difference_subspace", "subspace from pairs, inpainted", difference_subspace,
        [{"directions": share} for share in ("knee", 0.2, 0.35, 0.5, 0.65)] + [{"directions": 1.0, "wiener": True}],
        [{"directions": "knee"}, {"directions": 1.0, "wiener": True}], "known plaintext; singular values of differences", "public",
    ),
    _attack("ridge_decoder", "linear decoder of a patch", ridge_decoder, _RIDGES, _RIDGES[:2], "known plaintext; ridge regression"),
    _attack(
        "context_decoder", "linear decoder of 3 x 3 patches", context_decoder, _RIDGES, _RIDGES[:2],
        "known plaintext; ridge regression in two steps",
    ),
    _attack(
        "seed_search", "weak secrets tried", seed_search, [{"seeds": 10_000}], [{"seeds": 300}], "exhaustive search", "public",
        "artefact",
    ),
)  # fmt: skip
