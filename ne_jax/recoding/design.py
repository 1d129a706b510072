"""What the rest of the software must know of a recoding design, and a recipe: a design with all that decides an image's pixels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from ne_jax.core.first_layer import FirstLayer
from ne_jax.core.pixels import Image
from ne_jax.core.subspace import Subspace

# Settings that stand in no design's part of the manifest: `replace` is told of every release, the others tell readers nothing.
_TOLD_ELSEWHERE = ("replace", "rounds", "fit")


class Context(NamedTuple):
    """What a job has that a design may look at, beside the image.

    space: the authorized models' low-sensitivity subspace. layers: their first layers. surrogate_layers: those of the models that are
    led away. authorized, surrogates: give the networks as readers, see `surrogate_views`; raise UserError for one without gradients.
    settings: the section `recode` of the config. threshold: of the rule that chose `space`. release_key: gives the key of what all images
    of the artefact share.
    """

    space: Subspace
    layers: tuple[FirstLayer, ...]
    surrogate_layers: tuple[FirstLayer, ...]
    authorized: Callable[[], tuple[Any, ...]]
    surrogates: Callable[[], tuple[Any, ...]]
    settings: Any
    threshold: float
    release_key: Callable[[], Key[Array, ""]]


class Gradients(NamedTuple):
    """Gradients that one image takes, of each surrogate and of each authorized model."""

    surrogates: int
    authorized: int


class Recoded(NamedTuple):
    """image: float32 in pixel units. met: whether the design could do on this very image what it promises."""

    image: Image
    met: bool | Bool[Array, ""] = True


def _space(context: Context) -> Subspace:
    return context.space


@dataclasses.dataclass(frozen=True)
class Design:
    """A recoding design; `designs.DESIGNS` has a row for each. Its functions are pure, and of a module, so that designs compare by value.

    name: in `recode.design` and in manifests. does: the same in one line, for people.
    recode: (key, image, recipe) -> Recoded, for one image, float32 in [0, 1], inside jit.
    settings: leaves of `recode` that it reads, beside the strength. With "surrogates" it needs some. With "fit" it may end up weaker than
        asked, which is an error unless that is set. Without "replace" or "jpeg_quality" it refuses them.
    directions: what its recipes hold of a job. subspace: what the manifest counts num_directions, of total_directions, of.
    inside: its changes lie in the low-sensitivity subspace.
    gaussian: its changes are Gaussian in that subspace, so that `bounds.reader_deviation` says what readers see of them.
    leaves_box: its pixels leave [0, 1], so that no 8-bit format can hold them.
    gradients: of networks, by the settings of `recode`; None for a design that runs none.
    unmet: said of an image that it cannot protect, why and what to do; empty for a design that never fails.
    warning: the mark of a design that is insecure, which every output bears; else empty.
    generation: counts up when the noise that it draws becomes another, so that a picture recoded before is in another artefact.
    transforms_at_once: images whose Fourier transforms a CPU takes at once; 1 where most of its work is something else.
    """

    name: str
    does: str
    recode: Callable[[PRNGKeyArray, Image, Recipe], Recoded]
    settings: tuple[str, ...]
    directions: Callable[[Context], Any] = _space
    subspace: Callable[[Context], Any] = _space
    inside: bool = True
    gaussian: bool = False
    leaves_box: bool = False
    gradients: Callable[[Any], Gradients] | None = None
    unmet: str = ""
    warning: str = ""
    generation: int = 1
    transforms_at_once: int = 1

    @property
    def needs_surrogates(self) -> bool:
        """Whether it leads models away: their networks if it `runs_networks`, else their first layers alone."""
        return "surrogates" in self.settings

    @property
    def runs_networks(self) -> bool:
        """Whether an image takes passes of networks, so that few images cost as much as thousands do with noise alone."""
        return self.gradients is not None

    @property
    def told(self) -> tuple[str, ...]:
        """The settings that its part of the manifest names."""
        return tuple(name for name in self.settings if name not in _TOLD_ELSEWHERE)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["directions", "psnr_db"],
    meta_fields=["design", "dtype", "replace", "rounds"],
)
@dataclasses.dataclass(frozen=True)
class Recipe:
    """How images are recoded. directions: what `design.directions` gives. psnr_db: strength, dB. dtype: of a stored number: uint8,
    float32 or float16. replace, rounds: see `recode`."""

    design: Design
    directions: Any
    psnr_db: float | Float[Array | np.ndarray, ""]
    dtype: type[np.generic] = np.float32
    replace: bool = False
    rounds: int = 40

    @property
    def box(self) -> bool:
        """Whether stored images stay in [0, 1], in multiples of 1/255."""
        return self.dtype == np.uint8
