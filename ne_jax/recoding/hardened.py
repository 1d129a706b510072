"""Noise in the low-sensitivity subspace that does not give the subspace away by its second moments (FAULTS.md, G4).

White noise that is fresh in every patch shows in a release: as many equal eigenvalues as V_N has directions, nothing shared by
neighbouring patches, and the same covariance at every place of an image. Photographs have none of that, and neither has this noise:

unequal    each direction has an amplitude of its own, log-uniform over a hundredfold, so that no group of eigenvalues stands out
persistent each direction goes on from a patch to the next with a correlation of its own, from 0 to .99, as directions of photographs do
placed     each direction has another amplitude at each place of the image
restless   each direction has another amplitude in each image, so that the noise is not Gaussian as a whole

Amplitudes and correlations come from the secret, and are the same for all images under it. All of it lies in V_N: every certificate holds.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from ne_jax.core.first_layer import HIGHEST
from ne_jax.core.pixels import Image
from ne_jax.core.subspace import PatchSubspace, Subspace
from ne_jax.core.threefry import normal, words
from ne_jax.core.unfold import grid
from ne_jax.errors import UserError
from ne_jax.recoding.design import Context, Design, Recipe, Recoded
from ne_jax.recoding.subspace_noise import noise_for

_RANGE_DB = 40.0  # between the strongest and the weakest direction
_LEAST_NEW = 1e-2  # of 1 - correlation: what photographs share most, their colour, goes on as well as this
_PLACE_DB = 3.0  # standard deviation of a direction's amplitude from place to place
_IMAGE_NEPERS = 0.5  # and from image to image


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["basis", "complement", "singular_values", "sigma_1", "amplitudes", "persistence"],
    meta_fields=["window", "image_shape"],
)
@dataclasses.dataclass(frozen=True)
class HardenedSubspace(PatchSubspace):
    """The same subspace, whose noise is not white: what `recode` draws from it is hardened.

    amplitudes: of each direction of `basis` in each patch of the image. persistence: correlation of a direction's noise in a patch with
    that in the next one to the right, or below; in [0, 1).
    """

    amplitudes: Float[Array, "patches k"]
    persistence: Float[Array, " k"]

    def sample(self, key: PRNGKeyArray) -> Image:
        """Hardened noise; of its expected energy every patch and direction has its own share."""
        fresh = normal(key, (self.num_patches + 1, self.num_directions))
        rows, columns = grid(self.image_shape, self.window)
        field = fresh[:-1].reshape(rows, columns, -1)
        field = _going_on(jnp.swapaxes(_going_on(field, self.persistence), 0, 1), self.persistence)
        coordinates = jnp.swapaxes(field, 0, 1).reshape(self.num_patches, -1)
        coordinates *= self.amplitudes * jnp.exp(_IMAGE_NEPERS * fresh[-1])
        return self.whole(jnp.matmul(coordinates, self.basis.T, precision=HIGHEST))


def _going_on(fresh: Float[Array, "steps others k"], persistence: Float[Array, " k"]) -> Float[Array, "steps others k"]:
    """A stationary walk of variance 1 along the first axis (autoregressive, of order 1)."""
    new = jnp.sqrt(1 - persistence**2)

    def step(before, drawn):
        now = persistence * before + new * drawn
        return now, now

    _, rest = jax.lax.scan(step, fresh[0], fresh[1:])
    return jnp.concatenate([fresh[:1], rest])


def hardened(key: Key[Array, ""] | PRNGKeyArray, space: Subspace) -> HardenedSubspace:
    """The subspace with amplitudes and persistence drawn from `key`, which must be as secret as the noise: who knows them can look for
    their like in a release. One key for all images of a release. Raises UserError for a subspace of frequencies."""
    if not isinstance(space, PatchSubspace):
        raise UserError(
            "the subspace is of frequencies, as the authorized model's windows overlap; hardened noise needs patches, deep does not"
        )
    range_key, persistence_key, place_key = jax.random.split(key, 3)
    count = space.num_directions
    levels = _RANGE_DB * _uniform(range_key, count) + _PLACE_DB * normal(place_key, (space.num_patches, count))
    return HardenedSubspace(
        **{field.name: getattr(space, field.name) for field in dataclasses.fields(PatchSubspace)},
        amplitudes=10 ** (levels / 20 - _RANGE_DB / 20),
        persistence=1 - _LEAST_NEW ** _uniform(persistence_key, count),
    )


def _uniform(key: PRNGKeyArray, count: int) -> Float[Array, " count"]:
    """In [0, 1), 24 bits."""
    return (words(key, count) >> np.uint32(8)).astype(jnp.float32) * np.float32(2**-24)


def _recode(key: PRNGKeyArray, image: Image, recipe: Recipe) -> Recoded:
    return noise_for(recipe.dtype).recode(key, image, recipe)


def _directions(context: Context) -> HardenedSubspace:
    return hardened(context.release_key(), context.space)


HARDENED = Design(
    "hardened",
    "noise in the same directions, unequal and going on from patch to patch, so that a whole release does not show them",
    recode=_recode,
    settings=("replace", "rounds", "fit"),
    directions=_directions,
)
