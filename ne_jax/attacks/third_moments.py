"""Tier 2, from the whole release: images are skewed and noise that is fresh is not, whatever its second moments.

Noise that is independent of the image has no third moment with it. So what patches have in common with products of the image's own
components lies outside V_N: a search for what is not Gaussian (Blanchard, Kawanabe, Sugiyama, Spokoiny and Mueller 2006).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.attacks.moments import Moments
from ne_jax.attacks.whole_release import rebuilt, whitening
from ne_jax.core.linear_estimate import Directions, cut, descending, given
from ne_jax.core.pixels import Images
from ne_jax.errors import UserError

_AT_ONCE = 512  # images
_FIRST = 8  # components of each kind that the search begins with
_ROUNDS = (32, 64, 96)  # components whose products are taken, at most, after those that it begins with
_MORE = 1.25  # as many eigenvectors of the covariance as components are looked for in

White = Float[np.ndarray, "images patches d"]


def third_moments(stored: Images, knowledge: Knowledge, share: Directions = "knee") -> Images:
    """Keeps the components of a patch that have third moments with the image's own, and predicts the rest from them.

    Where the image's own part in V_N was taken away, no eigenvector of the covariance is of both: components are looked for among those
    eigenvectors that have most to do with the image. share: how many components are kept, of all, in (0, 1]; "knee": as many as
    have clearly more of them. Raises UserError for fewer patches than a patch has numbers, and for
    files that are all alike.
    """
    moments, released = given(knowledge.moments, "moments of the release"), given(knowledge.released, "the release")
    whiten = whitening(moments)
    white = _white(released, knowledge, whiten)
    if white.shape[0] * white.shape[1] <= white.shape[2]:
        raise UserError(f"{len(white)} files have no more patches than a patch has numbers; third moments need more")
    if not white.any():
        raise UserError(
            "the files are all alike, or there is one: nothing varies at any place, and there are no third moments"
        )
    _, eigenvectors = np.linalg.eigh(moments.covariance)
    found, wanted = _first(white, moments, whiten), 0
    for count in (found.shape[1], *_ROUNDS):
        third = _third(white, found[:, :count]) @ eigenvectors
        size = np.square(third).sum(0)
        wanted = max(2, _knee(size) if share == "knee" else round(float(share) * len(size)))
        among = np.argsort(-size)[: round(_MORE * wanted)]
        _, _, turns = np.linalg.svd(third[:, among], full_matrices=False)
        found = eigenvectors[:, among] @ turns.T
    return rebuilt(stored, knowledge, whiten @ found, min(wanted, found.shape[1]))


def _knee(sizes: Float[np.ndarray, " d"]) -> int:
    """How many are large: the split of their logarithms into two groups whose means are furthest apart (Otsu 1979)."""
    logs = np.log(np.sort(sizes)[::-1] + 1e-12)
    counts = np.arange(1, len(logs))
    above = np.cumsum(logs)[:-1] / counts
    below = (logs.sum() - np.cumsum(logs)[:-1]) / counts[::-1]
    return int(np.argmax(counts * counts[::-1] * (above - below) ** 2)) + 1


def _white(released: Images, knowledge: Knowledge, whiten: Float[np.ndarray, "d d"]) -> White:
    """Patches with unit covariance, around the mean of their place."""
    parts = (released[start : start + _AT_ONCE] for start in range(0, len(released), _AT_ONCE))
    white = np.concatenate([cut(part, knowledge.patch) @ whiten.astype(np.float32) for part in parts])
    white -= white.mean(0, dtype=np.float64).astype(np.float32)
    return white


def _chunks(white: White) -> Iterator[White]:
    for start in range(0, len(white), _AT_ONCE):
        yield white[start : start + _AT_ONCE]


def _first(white: White, moments: Moments, whiten: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d m"]:
    """Where the search begins, orthonormal: components that vary most from patch to patch, that neighbours share, that differ from place to
    place, and of least variance. What of them is noise does no harm, as long as something is of the image."""
    shared = whiten @ (moments.covariance - moments.steps) @ whiten
    kinds = (_most_varied(white), descending(shared @ shared)[1], descending(whiten @ moments.places @ whiten)[1])
    _, least = np.linalg.eigh(moments.covariance)
    return np.linalg.qr(np.concatenate([kind[:, :_FIRST] for kind in (*kinds, least)], axis=1))[0]


def _most_varied(white: White) -> Float[np.ndarray, "d d"]:
    """Components in the order of their fourth moments with those that vary most, found by turns (Cardoso 1989: first with all)."""
    turns = np.eye(white.shape[2])
    for count in (white.shape[2], _FIRST, _FIRST, _FIRST):
        shown, total, weight = turns[:, :count].astype(np.float32), np.zeros_like(turns), 0.0
        for chunk in _chunks(white):
            rows = chunk.reshape(-1, len(turns))
            energy = np.square(rows @ shown).sum(1, keepdims=True)
            total, weight = total + (rows * energy).T @ rows, weight + float(energy.sum(dtype=np.float64))
        _, turns = descending(total / weight)
    return turns


def _third(white: White, shown: Float[np.ndarray, "d m"]) -> Float[np.ndarray, "products d"]:
    """Third moments of every two of the components `shown` with all numbers."""
    one, other = np.triu_indices(shown.shape[1])
    total, patches = np.zeros((len(one), len(shown))), white.shape[0] * white.shape[1]
    for chunk in _chunks(white):
        rows = chunk.reshape(-1, len(shown))
        components = rows @ shown.astype(np.float32)
        total += (components[:, one] * components[:, other]).T @ rows
    return total / patches / np.sqrt(1 + (one == other))[:, None]


ATTACKS = (
    Attack(
        "third_moments", 2, "third moments of the whole release", "images", third_moments,
        frozenset({"moments", "public", "released"}), tuple({"share": share} for share in ("knee", 0.06, 0.12, 0.16, 0.25, 0.4, 0.6)),
        ({"share": "knee"},), "components that are not Gaussian: Blanchard et al. 2006",
    ),
)  # fmt: skip
