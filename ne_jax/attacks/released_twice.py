"""Tier 2, from two recodings of one picture, or of two that are nearly the same: their difference is noise and little else.

pictures under two secrets    `repeated_release`, which one secret prevents
pictures in two artefacts     `artefact_difference`, `both_artefacts` and `between_artefacts`: two models, designs, strengths or formats
near copies in one release    `near_copies`: frames of a video, a picture saved twice
"""

from __future__ import annotations

import numpy as np

from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.core.linear_estimate import (
    ROUNDING,
    Columns,
    Directions,
    Unit,
    changed,
    cross_moment,
    cut,
    descending,
    given,
    inpainting,
    leading,
    patch_prior,
    second_moment,
    steps,
)
from ne_jax.core.pixels import Images


def repeated_release(stored: Images, knowledge: Knowledge, directions: Directions = "knee") -> Images:
    """Two releases of one picture under new noise differ in V_N alone. Their differences give it, then linear inpainting.

    Where no step shows in their spectrum, images stay as they are.
    """
    public = given(knowledge.public, "public photographs")
    first, second = given(knowledge.releases, "releases"), given(knowledge.again, "the same pictures under new noise")
    prior = patch_prior(public, knowledge.patch)
    return changed(stored, prior, inpainting(prior, difference_noise(first, second, knowledge.patch, directions)))


def artefact_difference(stored: Images, knowledge: Knowledge, directions: Directions = "knee") -> Images:
    """Two artefacts of one picture, of two strengths, designs or number formats, differ in V_N alone: as `repeated_release`."""
    first, second = given(knowledge.other, "another artefact")
    return repeated_release(stored, knowledge._replace(releases=first, again=second), directions)


def near_copies(stored: Images, knowledge: Knowledge, directions: Directions = "knee") -> Images:
    """Files of pictures that are nearly the same differ in V_N, and by what little these differ: as `repeated_release`."""
    first, second = given(knowledge.copies, "near copies")
    return repeated_release(stored, knowledge._replace(releases=first, again=second), directions)


def both_artefacts(stored: Images, knowledge: Knowledge, margin: float = 0.03) -> Images:
    """A picture from its files in both artefacts, whose noises n1 and n2 are fresh and may lie in two subspaces, as those of two
    authorized models do: what one hides the other may show.

    Where the noise of one file is not in the other's subspace, n1 is a linear map of the difference n1 - n2: the regression of the first
    file on the difference, over differences of neighbouring patches, which hold less of the picture. What noise that leaves, in directions
    that both hide, is inpainted.
    margin: least variance of noise that is inpainted, of the largest variance in the difference; in [0, 1].
    """
    beside = given(knowledge.beside, "the same images in another artefact")[: len(stored)]
    first, second = given(knowledge.other, "another artefact")
    prior, unit = patch_prior(given(knowledge.public, "public photographs"), knowledge.patch), knowledge.patch
    apart = steps(first - second, unit)
    differences = second_moment(apart, np.zeros(apart.shape[2]))
    shared = cross_moment(steps(first, unit), apart)
    values, vectors = np.linalg.eigh(differences)
    seen = values > 2 * ROUNDING
    taken = shared @ (vectors[:, seen] / values[seen]) @ vectors[:, seen].T
    left = taken @ differences @ (np.eye(len(taken)) - taken.T)
    found, directions = descending((left + left.T) / 2)
    hidden = directions[:, found > margin * max(values[-1], ROUNDING)]
    between = stored - beside
    only_first = changed(between, prior._replace(mean=np.zeros_like(prior.mean)), taken - np.eye(len(taken)))
    return changed(stored - only_first, prior, inpainting(prior, hidden))


def between_artefacts(stored: Images, knowledge: Knowledge, share: float = 0.5) -> Images:
    """A point on the line through the two files of a picture: x1 + share (x2 - x1).

    Two strengths a and b of one noise would give the picture itself, share = a / (a - b); noise that is fresh in each artefact gives no
    more than a weighted mean does.
    """
    beside = given(knowledge.beside, "the same images in another artefact")[: len(stored)]
    return stored + np.float32(share) * (beside - stored)


def difference_noise(first: Images, second: Images, unit: Unit, directions: Directions) -> Columns:
    """F with F F^T the second moment of patches of first - second, in its leading eigenvectors; numbers below rounding are none."""
    values, vectors = descending(second_moment(cut(first - second, unit), np.zeros(int(np.prod(unit)))))
    count = leading(values, directions, floor=2 * ROUNDING, contrast=4.0)
    return vectors[:, :count] * np.sqrt(np.maximum(values[:count], ROUNDING))


_DIFFERENCES = "differences of two recodings lie in the subspace"
_SHARES = tuple({"directions": share} for share in ("knee", 0.2, 0.35, 0.5, 0.65))
_MARGINS = tuple({"margin": margin} for margin in (0.003, 0.01, 0.03, 0.1, 0.3))
# Of strengths 3 to 20 dB apart under one noise, a / (a - b) is 3.4 to 1.1, or -2.4 to -.1 from the stronger one.
_POINTS = tuple({"share": share} for share in (0.25, 0.5, 0.75, 1.1, 1.3, 1.8, 2.5, 3.4, -0.1, -0.3, -0.8, -1.5, -2.4))


def _attack(
    name: str, title: str, run, knows: set[str], grid=_SHARES, quick=_SHARES[:1], source=_DIFFERENCES
) -> Attack:
    return Attack(name, 2, title, "images", run, frozenset(knows), tuple(grid), tuple(quick), source)


ATTACKS = (
    _attack(
        "repeated_release", "pictures released twice", repeated_release, {"releases", "again", "public"},
        source="second moments of noise in one subspace; structure shared over blocks: Chang and Li, arXiv 2004.13263",
    ),
    _attack(
        "artefact_difference", "pictures released in another artefact", artefact_difference, {"other", "public"},
        quick=[{"directions": "knee"}, {"directions": 0.35}],
    ),
    _attack(
        "both_artefacts", "two artefacts of the picture itself, one explained by their difference", both_artefacts,
        {"other", "beside", "public"}, _MARGINS, _MARGINS[1:4],
    ),
    _attack(
        "between_artefacts", "two artefacts of the picture itself, on the line through them", between_artefacts, {"beside"},
        _POINTS, _POINTS, "two strengths of one noise give the picture",
    ),
    _attack("near_copies", "near copies in the release", near_copies, {"copies", "public"}),
)  # fmt: skip
