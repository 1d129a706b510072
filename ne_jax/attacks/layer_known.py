"""Tier 4, linear: the authorized model's first layer is known, or that of a sibling. Patches, or frequencies where windows overlap.

Answers of the layer itself, W y, are no attack: where W has full column rank, its pseudo-inverse gives y back and removes
nothing. Directions must be left out, or weighed against what photographs have there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
import numpy as np

from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.core import linear_estimate
from ne_jax.core.first_layer import FirstLayer
from ne_jax.core.linear_estimate import (
    Columns,
    Prior,
    Public,
    Square,
    adjoint,
    changed,
    given,
    low_vectors,
    removal,
    space_prior,
)
from ne_jax.core.pixels import Images
from ne_jax.core.polyphase import blocks
from ne_jax.core.rules import low_sensitivity
from ne_jax.core.spectrum import spectrum
from ne_jax.core.subspace import PatchSubspace, Subspace
from ne_jax.errors import UserError

Owner = Literal["space", "sibling"]


def _clean(knowledge: Knowledge) -> Images:
    """Public images, and those of known pairs if there are such: as many as who has pairs has."""
    public = given(knowledge.public, "public photographs")
    return public if knowledge.originals is None else np.concatenate([public, knowledge.originals])


def _of(knowledge: Knowledge, owner: Owner, share: float | None, image_shape: tuple[int, ...]) -> Subspace:
    """The subspace known, or as many of the layer's directions of least sigma as `share` asks."""
    space = given(getattr(knowledge, owner), f"the {owner}'s subspace" if owner == "sibling" else "the subspace")
    if space.image_shape != image_shape:
        raise UserError(f"images of {image_shape} do not fit a subspace of images {space.image_shape}")
    return space if share is None or not isinstance(space, PatchSubspace) else _resized(space, share)


def _resized(space: PatchSubspace, share: float) -> PatchSubspace:
    vectors = jnp.concatenate([space.complement, space.basis], 1)
    kept = space.total_directions - min(max(round(share * space.total_directions), 1), space.total_directions - 1)
    # Of directions that were sensitive the sigma is not told; nothing here reads it.
    values = jnp.full(space.total_directions - kept, space.singular_values[0])
    return PatchSubspace(vectors[:, kept:], vectors[:, :kept], values, space.sigma_1, space.window, space.image_shape)


def projection(stored: Images, knowledge: Knowledge, owner: Owner = "space", share: float | None = None) -> Images:
    """The public mean takes the place of what lies in the subspace: all that is left is what the authorized model sees.

    owner: whose subspace. share: directions taken, of all, in (0, 1), instead of the subspace's own; without effect where windows
    overlap.
    """
    space = _of(knowledge, owner, share, stored.shape[1:])
    return changed(stored, space_prior(_clean(knowledge), space), removal(low_vectors(space)))


def inpainting(
    stored: Images,
    knowledge: Knowledge,
    owner: Owner = "space",
    share: float | None = None,
    ridge: float = 1.0,
    wiener: bool = False,
) -> Images:
    """What photographs have in the subspace, given the rest of the patch (or frequency), takes the place of what lies in it. No
    linear map does better against strong noise in the subspace; `core.leak_floor` is its error.

    owner, share: as for `projection`. ridge: variance added to that of photographs, in units of that of rounding to 8 bits.
    wiener: best linear estimate at the noise's strength, estimated from the energy of `stored`, instead of for any strength.
    """
    space = _of(knowledge, owner, share, stored.shape[1:])
    prior, low = space_prior(_clean(knowledge), space, ridge), low_vectors(space)
    amplitude = _amplitude(stored, _clean(knowledge), space, prior, low) if wiener else np.inf
    return changed(stored, prior, linear_estimate.inpainting(prior, low, amplitude))


def _amplitude(stored: Images, public: Public, space: Subspace, prior: Prior, low: Columns) -> float:
    """Rms of the noise in each direction of the subspace: of what releases have there and photographs have not."""
    energy = [
        np.square(changed(images, prior, removal(low)) - images, dtype=np.float64).sum() / len(images)
        for images in (stored, public)
    ]
    excess = (energy[0] - energy[1]) / (space.num_directions * space.num_patches)
    return float(np.sqrt(max(excess, linear_estimate.ROUNDING)))


def pseudo_inverse(stored: Images, knowledge: Knowledge, share: float = 0.5) -> Images:
    """W_r^+ W y: the layer's answer, inverted in the directions of largest sigma alone; the public mean in the others.

    share: of all directions, in (0, 1), those that are left out.
    """
    found = spectrum(given(knowledge.layer, "the first layer"), stored.shape[1:])
    numbers = found.singular_values.shape[0]
    space = low_sensitivity(found, "count", min(max(round(share * numbers), 2), numbers - 1))
    return projection(stored, knowledge._replace(space=space))


def layer_wiener(stored: Images, knowledge: Knowledge, noise: float = 1e-2) -> Images:
    """Best linear estimate of a photograph from the layer's answer: Sx W^T (W Sx W^T + eta I)^-1 W (y - mean) + mean.

    noise: eta, in units of the mean energy of an answer to photographs; above 0.
    """
    layer = given(knowledge.layer, "the first layer")
    prior = _layer_prior(layer, _clean(knowledge))
    estimate = _estimate(layer, prior, stored.shape[1:], noise)
    return changed(stored, prior, estimate - np.eye(estimate.shape[-1]))


def _layer_prior(layer: FirstLayer, public: Images) -> Prior:
    if layer.has_patches:
        return linear_estimate.patch_prior(public, layer.window)
    return linear_estimate.frequency_prior(public, layer.strides)


def _estimate(layer: FirstLayer, prior: Prior, image_shape: tuple[int, int, int], noise: float) -> Square:
    """The matrix of `layer_wiener`, as R (R G R + eta I)^-1 R G with G = W^T W, at most as large as a unit."""
    matrix = np.asarray(layer.matrix if prior.root.ndim == 2 else blocks(layer, image_shape))
    answer = matrix @ prior.root
    gram = adjoint(answer) @ answer
    energy = np.trace(gram, axis1=-2, axis2=-1).real.mean() / gram.shape[-1]
    inner = gram + noise * energy * np.eye(gram.shape[-1])
    return prior.root @ np.linalg.solve(inner, adjoint(answer) @ matrix)


def noise_shares(
    stored: Images, layers: Mapping[str, FirstLayer], public: Public, noise: float = 1e-3
) -> dict[str, float]:
    """For which checkpoint a release was made: how much more energy than photographs it has once a candidate layer has read it.

    Of `layer_wiener`'s estimate, in coordinates in which photographs are white, the energy of releases over that of photographs: about
    1 for the layer that does not see the noise, large for others. The smallest is the authorized model's.
    """
    shares = {}
    for name, layer in layers.items():
        prior = _layer_prior(layer, public)
        read = prior.inverse @ _estimate(layer, prior, stored.shape[1:], noise)
        shares[name] = _energy(stored, prior, read) / _energy(public, prior, read)
    return shares


def _energy(images: Images, prior: Prior, read: Square) -> float:
    """Mean square of what a matrix makes of units. Of images, not by their second moment, whose rounding would be as large."""
    made = changed(images, prior, read - np.eye(read.shape[-1]))
    return float(np.square(linear_estimate.cut(made, prior.unit) - prior.mean).mean())


_SHARES = [{"share": share} for share in (0.2, 0.35, 0.5, 0.65)]


def _attack(name: str, title: str, run, knows: str, grid, quick, source: str) -> Attack:
    known = frozenset({knows, "public", "originals"})
    return Attack(name, 4, title, "images", run, known, tuple(grid), tuple(quick), source)


def _sibling(choices):
    return [{"owner": "sibling", **choice} for choice in choices]


_INPAINTINGS = [{}, {"ridge": 10.0}, {"ridge": 100.0}, {"wiener": True}]
_LINEAR = "best linear estimate of Gaussian images"
ATTACKS = (
    _attack("projection", "subspace removed", projection, "space", [{}], [{}], "arXiv 2510.10982, the method turned round"),
    _attack("inpainting", "subspace inpainted linearly", inpainting, "space", _INPAINTINGS, [{}, {"wiener": True}], _LINEAR),
    _attack(
        "pseudo_inverse", "layer's answer inverted", pseudo_inverse, "layer",
        [{"share": count / 20} for count in range(2, 15)], [{"share": 0.35}, {"share": 0.55}], "truncated SVD",
    ),
    _attack(
        "layer_wiener", "Wiener filter of the layer's answer", layer_wiener, "layer",
        [{"noise": noise} for noise in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)], [{"noise": 1e-2}, {"noise": 1e-4}], _LINEAR,
    ),
    _attack(
        "projection_sibling", "sibling's subspace removed", projection, "sibling",
        _sibling([{}, *_SHARES]), _sibling([{}]), "low-sensitivity subspaces of one family overlap",
    ),
    _attack(
        "inpainting_sibling", "sibling's subspace inpainted linearly", inpainting, "sibling",
        _sibling([*_INPAINTINGS, *_SHARES]), _sibling([{}, {"wiener": True}]), "low-sensitivity subspaces of one family overlap",
    ),
)  # fmt: skip
