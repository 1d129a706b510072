"""What an attack is, and what it may know: pure functions of stored images and of knowledge, each with its tier and parameters.

Tiers (0: feeds the file to another model): 1 image processing; 2 non-transferable examples alone, and public photographs; 3 pairs of
clean and recoded images; 4 the authorized model's first layer or network, or a sibling's; 5 labels: trains readers on the release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from ne_jax.attacks.moments import Moments
from ne_jax.core.first_layer import FirstLayer
from ne_jax.core.pixels import Images
from ne_jax.core.subspace import Subspace
from ne_jax.models.model import Model

Parameters = Mapping[str, Any]


class Knowledge(NamedTuple):
    """What an attacker has beside the images under attack. An attack gets the fields that it names (`Attack.knows`), the others None.

    seed: of whatever is random in the attack. patch: (height, width, channels) of the authorized model's windows, which the release's
    manifest tells; 8 x 8 where windows overlap.
    public: clean images of other pictures. moments: of all files of the release. released: the files themselves, evenly spread where
    not all fit into memory. releases: some of them, of which more may be known.
    again: `releases` once more, the same pictures under new noise. other: files of the release, and the same pictures in another artefact
    that was released. beside: the images under attack in that artefact, in their order. copies: files of the release, and others of it
    whose pictures are nearly the same; that they are is told by the owner's records, the best case for the attacker.
    originals: the clean images of `releases`, in their order; attacks of tier 4 take them for more public ones.
    labels: of `releases`, a reader's classes.
    layer, space: the authorized model's first layer and low-sensitivity subspace. model: the whole authorized model.
    sibling: low-sensitivity subspace of another model of the same geometry.
    artefact: what noise keys hang on beside the secret and the image; the manifest tells all of it.
    """

    seed: int = 0
    patch: tuple[int, int, int] = (8, 8, 3)
    public: Images | None = None
    releases: Images | None = None
    again: Images | None = None
    originals: Images | None = None
    labels: Int[np.ndarray, " n"] | None = None
    layer: FirstLayer | None = None
    space: Subspace | None = None
    model: Model | None = None
    sibling: Subspace | None = None
    artefact: bytes | None = None
    moments: Moments | None = None
    released: Images | None = None
    other: tuple[Images, Images] | None = None
    beside: Images | None = None
    copies: tuple[Images, Images] | None = None


class Attack(NamedTuple):
    """One way to make a release readable.

    kind "images": run(stored, knowledge, **parameters) -> images that readers are given, float32 in pixel units, any size.
    kind "reader": run(reader, knowledge, **parameters) -> a Model or another callable of images -> Outputs, which is given the stored
    images as they are.
    name: in records, lower_case. tier: 1 to 5. title: in tables. knows: the fields of Knowledge that it reads beside seed and patch.
    grid: parameters to choose from, on the attacker's own images; quick: fewer, for the quick suite (at least one).
    source: paper or idea that it comes from.
    """

    name: str
    tier: int
    title: str
    kind: Literal["images", "reader"]
    run: Callable[..., Any]
    knows: frozenset[str]
    grid: tuple[Parameters, ...]
    quick: tuple[Parameters, ...]
    source: str


def restricted(knowledge: Knowledge, attack: Attack) -> Knowledge:
    """Only what the attack may know."""
    allowed = {"seed", "patch", *attack.knows}
    return knowledge._replace(**{name: None for name in Knowledge._fields if name not in allowed})
