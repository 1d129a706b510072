"""Noise in the low-sensitivity subspace that does not give the subspace away by its moments (FAULTS.md, G4).

White noise that is fresh in every patch shows in a release: as many equal eigenvalues as V_N has directions, nothing shared by
neighbouring patches, and the same covariance at every place of an image. Photographs have none of that, and neither has this noise:

unequal    each direction has an amplitude of its own, log-uniform over a hundredfold, so that no group of eigenvalues stands out
persistent each direction goes on from a patch to the next with a correlation of its own, from 0 to .99, as directions of photographs do
placed     each direction has another amplitude at each place of the image
restless   each direction has another amplitude in each image, so that the noise is not Gaussian as a whole
following  part of it hangs on what the file shows of the image, through waves that nobody knows: what the image's own numbers have in
           common among each other, they have in common with the noise too (third moments)

Amplitudes, correlations and waves come from the secret, and are the same for all images of an artefact. All of it lies in V_N: every
certificate holds. What the noise follows is in the file anyway, so that it tells nothing more of the image.
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
_FOLLOWING = 0.3  # share of a direction's variance that hangs on the image
_WAVES = 1.5  # radians, standard deviation of the phase from patch to patch
_FAINT = 5e-3  # rms, pixel units: patches that show less than that have less of a phase


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["basis", "complement", "singular_values", "sigma_1", "amplitudes", "persistence", "waves", "phases"],
    meta_fields=["window", "image_shape"],
)
@dataclasses.dataclass(frozen=True)
class HardenedSubspace(PatchSubspace):
    """The same subspace, whose noise is not white: what `recode` draws from it is hardened.

    amplitudes: of each direction of `basis` in each patch of the image. persistence: correlation of a direction's noise in a patch with
    that in the next one to the right, or below; in [0, 1). waves: what of a patch that is as strong everywhere moves the phase of each
    direction, radians. phases: in radians, where a patch shows nothing.
    """

    amplitudes: Float[Array, "patches k"]
    persistence: Float[Array, " k"]
    waves: Float[Array, "d k"]
    phases: Float[Array, " k"]

    def sample(self, key: PRNGKeyArray) -> Image:
        """Hardened noise that follows no image; of its expected energy every patch and direction has its own share."""
        return self._with_coordinates(self._walking(key))

    def noise(self, key: PRNGKeyArray, image: Image) -> Image:
        """Hardened noise, .3 of whose variance follows what `image` has outside the subspace."""
        return self._with_coordinates(
            (1 - _FOLLOWING) ** 0.5 * self._walking(key) + _FOLLOWING**0.5 * self._following(image)
        )

    def _walking(self, key: PRNGKeyArray) -> Float[Array, "patches k"]:
        """Fresh coordinates of variance 1, which go on from patch to patch, more in one image than in another."""
        fresh = normal(key, (self.num_patches + 1, self.num_directions))
        rows, columns = grid(self.image_shape, self.window)
        field = fresh[:-1].reshape(rows, columns, -1)
        field = _going_on(jnp.swapaxes(_going_on(field, self.persistence), 0, 1), self.persistence)
        coordinates = jnp.swapaxes(field, 0, 1).reshape(self.num_patches, -1)
        return coordinates * jnp.exp(_IMAGE_NEPERS * fresh[-1] - _IMAGE_NEPERS**2)

    def _following(self, image: Image) -> Float[Array, "patches k"]:
        """Waves of what each patch shows, whatever its contrast."""
        patches = self.parts(image)
        shown = patches - self.combine(self.coordinates(patches))
        level = jnp.sqrt(jnp.mean(shown**2, axis=1, keepdims=True))
        return 2**0.5 * jnp.sin(jnp.matmul(shown / (level + _FAINT), self.waves, precision=HIGHEST) + self.phases)

    def _with_coordinates(self, coordinates: Float[Array, "patches k"]) -> Image:
        return self.whole(jnp.matmul(coordinates * self.amplitudes, self.basis.T, precision=HIGHEST))


def _going_on(fresh: Float[Array, "steps others k"], persistence: Float[Array, " k"]) -> Float[Array, "steps others k"]:
    """A stationary walk of variance 1 along the first axis (autoregressive, of order 1)."""
    new = jnp.sqrt(1 - persistence**2)

    def step(before, drawn):
        now = persistence * before + new * drawn
        return now, now

    _, rest = jax.lax.scan(step, fresh[0], fresh[1:])
    return jnp.concatenate([fresh[:1], rest])


def hardened(key: Key[Array, ""] | PRNGKeyArray, space: Subspace) -> HardenedSubspace:
    """The subspace with amplitudes, persistence and waves drawn from `key`, which must be as secret as the noise: who knows them can look
    for their like in a release. One key for all images of a release. Raises UserError for a subspace of frequencies."""
    if not isinstance(space, PatchSubspace):
        raise UserError(
            "the subspace is of frequencies, as the authorized model's windows overlap; hardened noise needs patches, deep does not"
        )
    range_key, persistence_key, place_key, wave_key, phase_key = jax.random.split(key, 5)
    count, numbers = space.num_directions, space.total_directions
    levels = _RANGE_DB * _uniform(range_key, count) + _PLACE_DB * normal(place_key, (space.num_patches, count))
    return HardenedSubspace(
        **{field.name: getattr(space, field.name) for field in dataclasses.fields(PatchSubspace)},
        amplitudes=10 ** (levels / 20 - _RANGE_DB / 20),
        persistence=1 - _LEAST_NEW ** _uniform(persistence_key, count),
        waves=normal(wave_key, (numbers, count)) * np.float32(_WAVES / np.sqrt(numbers)),
        phases=2 * np.pi * _uniform(phase_key, count),
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
    "noise in the same directions, unequal, going on from patch to patch and following the image, which a whole release does not show",
    recode=_recode,
    settings=("replace", "rounds", "fit"),
    directions=_directions,
    generation=2,  # since its noise follows the image
)
