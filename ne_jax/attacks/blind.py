"""Tier 2: non-transferable examples alone, and public photographs. No pair and nothing of the authorized model is known.

Noise that is confined to one linear subspace shows in second moments: there releases have more energy than photographs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.core.linear_estimate import (
    ROUNDING,
    Directions,
    Public,
    Unit,
    changed,
    cut,
    descending,
    given,
    inpainting,
    leading,
    patch_prior,
    prior_of,
    removal,
    second_moment,
    steps,
)
from ne_jax.core.pixels import Images
from ne_jax.errors import UserError

_REWEIGHTED = 20  # times that a tile is estimated, each from weights that the last one gave
_FIRST = 16  # leading eigenvalues that PCA leaves out of its search for a knee: those of photographs fall steeply there


def tile_average(
    stored: Images, knowledge: Knowledge, variant: Literal["constant", "patch", "seams", "places"] = "seams"
) -> Images:
    """Takes the mean patch of each image for its noise, up to what photographs have there: exact but for a patch if all have one noise.

    variant: "constant" leaves the public mean colour, "patch" the public mean patch; "seams" refines that by least squares so that
    patches meet without a step, weighed by public covariances, and takes the colour of the grey world; "places" weighs patches, number
    by number, by how sure public images are of them at their place, as of a black background.
    """
    unit, public = knowledge.patch, given(knowledge.public, "public photographs")
    prior, patches = patch_prior(public, unit), cut(stored, unit)
    colour = prior.mean.reshape(-1, unit[2]).mean(0)
    plain = np.tile(colour, unit[0] * unit[1])
    tile = patches.mean(1, dtype=np.float64) - (plain if variant == "constant" else prior.mean)
    if variant == "places":
        tile = _by_place(patches, cut(public, unit))
    if variant == "seams":
        edges = _edges(unit)
        jumps = np.stack([_jumps(one, unit).mean(0) for one in stored])
        spread = np.mean([(_jumps(one, unit) ** 2).mean(0) for one in public], axis=0) + ROUNDING
        # Both errors, of a mean patch and of a mean jump, fall with the number of patches, which therefore cancels.
        covariance = prior.root @ prior.root
        gain = covariance @ edges.T @ np.linalg.inv(edges @ covariance @ edges.T + np.diag(spread))
        tile += (jumps - tile @ edges.T) @ gain.T
        left = (patches.mean(1) - tile).reshape(len(stored), -1, unit[2]).mean(1)
        tile += np.tile(left - colour, unit[0] * unit[1])
    return _without(stored, tile, unit)


def _by_place(
    patches: Float[np.ndarray, "n patches d"], public: Float[np.ndarray, "m patches d"]
) -> Float[np.ndarray, "n d"]:
    """The most likely tile where the numbers of public images at each place are independent and Gaussian; then, again and again, with
    less weight for numbers that are further from their mean than these."""
    mean, variance = public.mean(0, dtype=np.float64), public.var(0, dtype=np.float64) + ROUNDING
    weights = np.broadcast_to(1 / variance, patches.shape)
    for _ in range(_REWEIGHTED):
        tile = (weights * (patches - mean)).sum(1) / weights.sum(1)
        weights = 1 / (variance + np.square(patches - mean - tile[:, None]))
    return tile


def _without(stored: Images, tiles: Float[np.ndarray, "n d"], unit: Unit) -> Images:
    rows, columns = stored.shape[1] // unit[0], stored.shape[2] // unit[1]
    whole = np.tile(tiles.reshape(-1, *unit).astype(np.float32), (1, rows, columns, 1))
    clean = np.array(stored, np.float32)
    clean[:, : whole.shape[1], : whole.shape[2]] -= whole
    return clean


def _edges(unit: Unit) -> Float[np.ndarray, "jumps d"]:
    """What a tile adds to the jumps from a patch to the next on its right, and to the next below."""
    pixels = np.eye(int(np.prod(unit))).reshape(*unit, -1)
    beside, below = pixels[:, -1] - pixels[:, 0], pixels[-1] - pixels[0]
    return np.concatenate([part.reshape(-1, pixels.shape[-1]) for part in (beside, below)])


def _jumps(image: Float[np.ndarray, "height width channels"], unit: Unit) -> Float[np.ndarray, "places jumps"]:
    """Pixels left of (above) a seam minus those right of (below) it: of whole patches that have both neighbours."""
    patches = cut(image[None], unit)[0].reshape(image.shape[0] // unit[0], image.shape[1] // unit[1], *unit)
    here = patches[:-1, :-1]
    beside = here[..., :, -1, :] - patches[:-1, 1:, :, 0, :]
    below = here[..., -1, :, :] - patches[1:, :-1, 0, :, :]
    parts = [part.reshape(here.shape[0] * here.shape[1], -1) for part in (beside, below)]
    return np.concatenate(parts, 1)


def _noise(
    moment: Float[np.ndarray, "d d"], public: Public, unit: Unit, directions: Directions
) -> Float[np.ndarray, "d k"]:
    """F with the noise's covariance F F^T, by the generalised eigenvalues of differences of neighbours: their second moment in releases
    against that in public images."""
    null = np.zeros(int(np.prod(unit)))
    prior = prior_of(unit, null, second_moment(steps(public, unit), null))
    values, vectors = descending(prior.inverse @ moment @ prior.inverse)
    count = leading(values, directions, floor=1.0)
    return prior.root @ (vectors[:, :count] * np.sqrt(np.maximum(values[:count] - 1, 1e-6)))


def single_image(stored: Images, knowledge: Knowledge, directions: Directions = "knee") -> Images:
    """`gevd_inpainting` from each image alone. Needs more patches in an image than numbers in a patch, else UserError."""
    unit, public = knowledge.patch, given(knowledge.public, "public photographs")
    patches, numbers = (stored.shape[1] // unit[0]) * (stored.shape[2] // unit[1]), int(np.prod(unit))
    if patches <= numbers:
        raise UserError(
            f"an image has {patches} patches of {numbers} numbers: one picture does not show their covariance"
        )
    prior, null = patch_prior(public, unit), np.zeros(numbers)
    images = [image[None] for image in stored]
    moments = [second_moment(steps(image, unit), null) for image in images]
    return np.concatenate(
        [
            changed(image, prior, inpainting(prior, _noise(moment, public, unit, directions)))
            for image, moment in zip(images, moments, strict=True)
        ]
    )


def principal_components(stored: Images, knowledge: Knowledge, directions: Directions = "knee") -> Images:
    """Principal components of the whole release are taken for noise and removed. Knows no photograph, so takes what images vary most in
    too.

    directions: their number, "knee" or a share of all.
    """
    moments = given(knowledge.moments, "moments of the release")
    prior = prior_of(knowledge.patch, moments.mean, moments.covariance)
    values, vectors = descending(moments.steps)
    skipped = min(_FIRST, len(values) // 4) if directions == "knee" else 0
    found = leading(values[skipped:], directions, ROUNDING, contrast=1.3)
    return changed(stored, prior, removal(vectors[:, : found + skipped if found else 0]))


def gevd_projection(stored: Images, knowledge: Knowledge, directions: Directions = "knee") -> Images:
    """V_N from `_noise`; the public mean takes the place of what lies in it."""
    public = given(knowledge.public, "public photographs")
    low, _ = np.linalg.qr(_seen(knowledge, public, directions))
    return changed(stored, patch_prior(public, knowledge.patch), removal(low))


def gevd_inpainting(stored: Images, knowledge: Knowledge, directions: Directions = "knee") -> Images:
    """V_N from `_noise`; what photographs have there, given the rest of the patch, takes the place of what lies in it."""
    public = given(knowledge.public, "public photographs")
    prior = patch_prior(public, knowledge.patch)
    return changed(stored, prior, inpainting(prior, _seen(knowledge, public, directions)))


def blind_wiener(stored: Images, knowledge: Knowledge, directions: Directions = 1.0, strength: float = 1.0) -> Images:
    """Best linear estimate with the noise's covariance estimated as what releases have more than photographs.

    strength: the noise's rms is taken that many times, which makes up for directions that are a little wrong; above 0.
    """
    public = given(knowledge.public, "public photographs")
    prior = patch_prior(public, knowledge.patch)
    return changed(stored, prior, inpainting(prior, _seen(knowledge, public, directions), strength))


def _seen(knowledge: Knowledge, public: Public, directions: Directions) -> Float[np.ndarray, "d k"]:
    """`_noise` of the whole release."""
    return _noise(given(knowledge.moments, "moments of the release").steps, public, knowledge.patch, directions)


_MOMENTS = "second moments of noise in one subspace; structure shared over blocks: Chang and Li, arXiv 2004.13263"
_SHARES = tuple({"directions": share} for share in ("knee", 0.2, 0.35, 0.5, 0.65))
_KNEE = ({"directions": "knee"},)


def _attack(name: str, title: str, run, knows: set[str], grid=_SHARES, quick=_KNEE, source: str = _MOMENTS) -> Attack:
    return Attack(name, 2, title, "images", run, frozenset(knows), tuple(grid), tuple(quick), source)


ATTACKS = (
    _attack(
        "tile_average", "mean patch of the image taken away", tile_average, {"public"},
        [{"variant": variant} for variant in ("constant", "patch", "seams", "places")],
        [{"variant": "seams"}, {"variant": "places"}],
        "differences of patches under one tile are those of the image",
    ),
    _attack("single_image", "covariance of one image", single_image, {"public"}),
    _attack(
        "principal_components", "principal components of releases", principal_components, {"moments"},
        quick=[{"directions": "knee"}, {"directions": 0.5}],
    ),
    _attack(
        "gevd_projection", "subspace from releases against photographs, removed", gevd_projection, {"moments", "public"},
        quick=[{"directions": "knee"}, {"directions": 0.5}],
    ),
    _attack("gevd_inpainting", "subspace from releases against photographs, inpainted", gevd_inpainting, {"moments", "public"}),
    _attack(
        "blind_wiener", "Wiener filter, noise estimated from releases", blind_wiener, {"moments", "public"},
        [{"directions": share, "strength": strength} for share in ("knee", 1.0) for strength in (1.0, 3.0, 10.0)],
        [{"directions": 1.0, "strength": 1.0}, {"directions": "knee", "strength": 3.0}],
    ),
)  # fmt: skip
