"""Tiers 3 and 4: a U-Net that learns clean images from recoded ones, of pairs that leaked or that the attacker made himself.

The quick parameters take seconds on two cores, the full ones minutes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.attacks.known_pairs import ridge_decoder
from ne_jax.attacks.trained_networks import Batch, crops, descend, in_chunks, small_network
from ne_jax.core.linear_estimate import given
from ne_jax.core.pixels import Images, float_pixels, from_bytes
from ne_jax.recoding.design import Recipe
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.subspace_noise import noise_for

Pairs = Float[np.ndarray, "pairs height width channels"]  # beside other images


def _refined(graphdef, params, scale, noisy: Batch, decoded: Batch) -> Batch:
    found = nnx.merge(graphdef, params)(jnp.concatenate([decoded, noisy - decoded], axis=-1))
    return decoded + scale * found


def _pair_loss(graphdef, params, scale, batch):
    noisy, decoded, clean = batch
    return jnp.mean(jnp.abs(_refined(graphdef, params, scale, noisy, decoded) - clean))


def denoise(
    stored: Images,
    noisy: Pairs,
    clean: Pairs,
    knowledge: Knowledge,
    steps: int,
    widths: tuple[int, ...],
    ridge: float,
    rate: float,
) -> Images:
    """The stored images as a U-Net sees them that learned `clean` from `noisy`, L1.

    A convolution does not know where in a patch it is, but the subspace does; so the U-Net is given what `ridge_decoder` makes of
    the image beside it, and learns what is to be added, which is little where the noise lies in one subspace of patches. Without steps
    it is that decoder.
    """
    pairs = knowledge._replace(releases=noisy, originals=clean)
    learned, decoded = np.split(ridge_decoder(np.concatenate([noisy, stored]), pairs, ridge), [len(noisy)])
    scale = jnp.float32(np.std(learned - clean) + 1e-6)  # so that the rate is right however little the decoder leaves
    graphdef, params = small_network(2 * stored.shape[-1], stored.shape[-1], widths, knowledge.seed)
    batches = crops(np.random.default_rng(knowledge.seed), (noisy, learned, clean), knowledge.patch)
    params = descend(_pair_loss, graphdef, params, scale, batches, steps, rate)
    refine = jax.jit(functools.partial(_refined, graphdef, params, scale))
    both = np.concatenate([stored, decoded], axis=-1)
    return in_chunks(lambda images: refine(*np.split(images, 2, axis=-1)), both)


def unet(
    stored: Images,
    knowledge: Knowledge,
    steps: int = 60,
    widths: tuple[int, ...] = (16, 32, 64),
    ridge: float = 100.0,
    rate: float = 1e-3,
) -> Images:
    """`denoise`, learned from the releases whose clean images are known."""
    noisy, clean = given(knowledge.releases, "releases"), given(knowledge.originals, "the releases' clean images")
    return denoise(stored, noisy, clean, knowledge, steps, widths, ridge, rate)


def own_pairs(stored: Images, knowledge: Knowledge, copies: int) -> tuple[Pairs, Pairs]:
    """(recoded, clean): the public images, mirrored in every second copy, recoded by the attacker as most of `stored` seem to be: as
    strong as their energy in the subspace beyond that of public images, and in 8 bits if they stay in [0, 1].

    Raises UserError without public images or without a subspace.
    """
    public, space = given(knowledge.public, "public images"), given(knowledge.space, "the authorized model's subspace")

    @jax.jit
    def energy(image):
        return jnp.mean(space.project(image) ** 2)

    found, usual = (np.median([energy(image) for image in images]) for images in (stored, public))
    psnr_db = -10 * np.log10(max(found - usual, 1e-8))
    boxed = np.median([image.min() >= 0 and image.max() <= 1 for image in stored]) == 1
    clean = np.concatenate([public[:, :, ::-1] if copy % 2 else public for copy in range(copies)])
    clean = np.round(np.clip(clean, 0, 1) * 255).astype(np.uint8)
    keys = jax.random.split(jax.random.key(knowledge.seed), len(clean))
    dtype = np.uint8 if boxed else np.float32
    recoded = encode_batch(keys, clean, Recipe(noise_for(dtype), space, float(psnr_db), dtype)).stored
    return float_pixels(np.asarray(recoded)), from_bytes(clean)


def unet_own_pairs(
    stored: Images,
    knowledge: Knowledge,
    steps: int = 60,
    copies: int = 1,
    widths: tuple[int, ...] = (16, 32, 64),
    ridge: float = 100.0,
    rate: float = 1e-3,
) -> Images:
    """`denoise`, learned from public images that the attacker recodes himself, each `copies` times."""
    return denoise(stored, *own_pairs(stored, knowledge, copies), knowledge, steps, widths, ridge, rate)


_QUICK = ({"steps": 60},)
ATTACKS = (
    Attack(
        "unet", 3, "U-Net on pairs", "images", unet, frozenset({"releases", "originals"}),
        tuple({"steps": 2000, "ridge": ridge} for ridge in (1.0, 100.0)), _QUICK,
        "Ronneberger et al. 2015, arXiv 1505.04597, on pairs of clean and recoded images",
    ),
    Attack(
        "unet_own_pairs", 4, "U-Net on own pairs", "images", unet_own_pairs, frozenset({"public", "space"}),
        tuple({"steps": 2000, "copies": 4, "ridge": ridge} for ridge in (1.0, 100.0)), _QUICK,
        "Ronneberger et al. 2015, arXiv 1505.04597, on public images recoded by the attacker",
    ),
)  # fmt: skip
