"""Tier 2, from the whole release: noise gives itself away by its own covariance, whatever photographs look like.

equal eigenvalues   white noise in V_N has as many equal eigenvalues as V_N has directions; they stand out of the covariance
neighbours          noise that is fresh in every patch has nothing in common with the next patch, and photographs have; so what
                    two neighbours share lies outside V_N, whatever the noise's spectrum and whatever it follows
places              noise that is the same everywhere has the same covariance everywhere, and photographs have not; so what differs
                    from place to place lies outside V_N
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.attacks.moments import Moments
from ne_jax.core.linear_estimate import ROUNDING, changed, descending, given, inpainting, patch_prior
from ne_jax.core.pixels import Images
from ne_jax.errors import UserError

# Of the range in which eigenvalues count as equal; two steps may share a patch, so that there are fewer of them than it seems.
_SLACK = {"patches": 1.05, "steps": 1.3}


def equal_eigenvalues(stored: Images, knowledge: Knowledge, of: Literal["patches", "steps"] = "patches") -> Images:
    """Takes the largest group of nearly equal eigenvalues for V_N, then linear inpainting.

    Equal within what n patches leave of k equal ones, (1 + sqrt(k / n))^2 to (1 - sqrt(k / n))^2 (Marchenko and Pastur 1967).
    of: whose covariance, that of patches, or that of differences of neighbours, of which less is the image's. Raises UserError where
    less than a fifth are equal.
    """
    moments = given(knowledge.moments, "moments of the release")
    values, vectors = descending(moments.covariance if of == "patches" else moments.steps)
    start, end = _equal(values, moments.patches, _SLACK[of])
    if end - start < len(values) / 5:
        raise UserError(f"no more than {end - start} of {len(values)} eigenvalues are equal; no white noise shows")
    prior = patch_prior(given(knowledge.public, "public photographs"), knowledge.patch)
    return changed(stored, prior, inpainting(prior, vectors[:, start:end]))


def _equal(values: Float[np.ndarray, " d"], samples: int, slack: float) -> tuple[int, int]:
    """Start and end of the largest group of descending eigenvalues that may be equal ones, above rounding."""
    values = values[values > 10 * ROUNDING]
    for size in range(len(values), 0, -1):
        root = min(np.sqrt(size / samples), 0.95)
        ratios = values[: len(values) - size + 1] / values[size - 1 :]
        start = int(np.argmin(ratios))
        if ratios[start] <= ((1 + root) / (1 - root)) ** 2 * slack:
            return start, start + size
    return 0, 0


def shared_by_neighbours(stored: Images, knowledge: Knowledge, share: float = 0.05) -> Images:
    """Keeps the components of a patch that have most in common with those of its neighbours, and predicts the rest from them.

    Components are uncorrelated in releases, and ordered by the correlation of neighbours (AMUSE: Tong, Soon, Huang and Liu 1990, for
    sources that are mixed and differ in how they go on). share: how many are kept, of all, in (0, 1].
    """
    moments = given(knowledge.moments, "moments of the release")
    whiten = whitening(moments)
    shared, turns = np.linalg.eigh(whiten @ (moments.covariance - moments.steps) @ whiten)
    return rebuilt(stored, knowledge, whiten @ turns[:, np.argsort(-np.abs(shared))], _count(share, whiten))


def differs_by_place(stored: Images, knowledge: Knowledge, share: float = 0.05) -> Images:
    """Keeps the components of a patch whose variance differs most from place to place of an image, and predicts the rest from them.

    The same as `shared_by_neighbours`, with second moments of parts of the image in the place of those of neighbours (blind separation
    of sources that are not stationary: Pham and Cardoso 2001). share: how many components are kept, of all, in (0, 1].
    """
    moments = given(knowledge.moments, "moments of the release")
    whiten = whitening(moments)
    _, turns = descending(whiten @ moments.places @ whiten)
    return rebuilt(stored, knowledge, whiten @ turns, _count(share, whiten))


def _count(share: float, whiten: Float[np.ndarray, "d d"]) -> int:
    return max(1, round(share * len(whiten)))


def whitening(moments: Moments) -> Float[np.ndarray, "d d"]:
    """C^-1/2 of the release's patches."""
    values, vectors = np.linalg.eigh(moments.covariance)
    return (vectors / np.sqrt(np.maximum(values, ROUNDING))) @ vectors.T


def rebuilt(stored: Images, knowledge: Knowledge, filters: Float[np.ndarray, "d m"], count: int) -> Images:
    """Patches as photographs are, given what the first `count` filters, in columns, show of them."""
    shown, _ = np.linalg.qr(filters[:, :count])
    prior = patch_prior(given(knowledge.public, "public photographs"), knowledge.patch)
    covariance = prior.root @ prior.root
    whole = covariance @ shown @ np.linalg.solve(shown.T @ covariance @ shown, shown.T)
    return changed(stored, prior, whole - np.eye(len(whole)))


def _attack(name: str, title: str, run, grid, quick, source: str) -> Attack:
    return Attack(name, 2, title, "images", run, frozenset({"moments", "public"}), tuple(grid), tuple(quick), source)


_SHARES = tuple({"share": share} for share in (0.01, 0.02, 0.04, 0.08, 0.16))
_OF = ({"of": "patches"}, {"of": "steps"})
ATTACKS = (
    _attack(
        "equal_eigenvalues", "equal eigenvalues of the whole release, inpainted", equal_eigenvalues, _OF, _OF,
        "eigenvalues of white noise in a subspace; Marchenko and Pastur 1967",
    ),
    _attack(
        "shared_by_neighbours", "what neighbouring patches share, of the whole release", shared_by_neighbours, _SHARES,
        _SHARES[1:4], "AMUSE: Tong et al. 1990",
    ),
    _attack(
        "differs_by_place", "what differs from place to place, of the whole release", differs_by_place, _SHARES,
        _SHARES[1:4], "sources that are not stationary: Pham and Cardoso 2001",
    ),
)  # fmt: skip
