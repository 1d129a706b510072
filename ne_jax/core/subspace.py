"""Low-sensitivity subspaces of images, of patches or of frequencies: what is done inside them. `rules.py` chooses the directions."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from ne_jax.core.first_layer import HIGHEST
from ne_jax.core.pixels import Image, Images
from ne_jax.core.polyphase import filter_cells
from ne_jax.core.threefry import normal
from ne_jax.core.unfold import fold, grid, unfold

Parts = Float[Array, "parts numbers"]


class Subspace:
    """A low-sensitivity subspace of images: a `PatchSubspace` or a `FourierSubspace`. What both have:

    singular_values: the layer's sigma_i in the subspace, descending. Low, not null: read them.
    sigma_1: the layer's largest singular value.
    window: (kh, kw, C); image_shape: (H, W, C), both static.
    num_directions, of total_directions, in each of num_patches independent parts of an image.
    """

    singular_values: Float[Array, " k"]
    sigma_1: Float[Array, ""]
    window: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    num_directions: int
    total_directions: int
    num_patches: int

    def parts(self, image: Image) -> Parts:
        """The image cut into its independent parts, a row each: patches, or the whole image."""
        raise NotImplementedError

    def whole(self, parts: Parts) -> Image:
        """The image of these parts; pixels of no part are zero."""
        raise NotImplementedError

    def coordinates(self, parts: Parts) -> Float[Array, "parts coordinates"]:
        """Of what of each part lies in the subspace, with the same inner products. Not always in the basis V_N."""
        raise NotImplementedError

    def combine(self, coordinates: Float[Array, "parts coordinates"]) -> Parts:
        """The parts in the subspace that have these coordinates."""
        raise NotImplementedError

    def sample(self, key: PRNGKeyArray) -> Image:
        """Fresh white Gaussian noise in the subspace: standard normal coordinates in any orthonormal basis."""
        raise NotImplementedError

    def noise(self, key: PRNGKeyArray, image: Image) -> Image:
        """The noise that an image gets, before it has a strength: `sample`, where noise does not follow the image."""
        return self.sample(key)

    def project(self, delta: Image) -> Image:
        """The part of `delta` in the subspace; zero where a pixel belongs to no patch."""
        return self.whole(self.combine(self.coordinates(self.parts(delta))))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["basis", "complement", "singular_values", "sigma_1"],
    meta_fields=["window", "image_shape"],
)
@dataclasses.dataclass(frozen=True)
class PatchSubspace(Subspace):
    """The low-sensitivity subspace V_N of every patch of an image.

    basis: V_N, orthonormal columns; k = basis.shape[1] of d directions.
    complement: V_S, the other r = d - k right singular vectors: the sensitive directions.
    singular_values: the layer's sigma_i for each column of V_N, descending. Low, not null: read them.
    sigma_1: the layer's largest singular value.
    window: (kh, kw, C); image_shape: (H, W, C), both static.
    """

    basis: Float[Array, "d k"]
    complement: Float[Array, "d r"]
    singular_values: Float[Array, " k"]
    sigma_1: Float[Array, ""]
    window: tuple[int, int, int]
    image_shape: tuple[int, int, int]

    @property
    def num_directions(self) -> int:
        """k, of each patch."""
        return self.basis.shape[1]

    @property
    def total_directions(self) -> int:
        """d, the numbers of a patch."""
        return self.basis.shape[0]

    @property
    def num_patches(self) -> int:
        """Whole patches of an image."""
        rows, columns = grid(self.image_shape, self.window)
        return rows * columns

    @property
    def _small(self) -> bool:
        """Whether V_N is the smaller side; else it is quicker to take away the part in V_S."""
        return self.basis.shape[1] <= self.complement.shape[1]

    def parts(self, image: Image) -> Parts:
        """Patches, row by row."""
        return unfold(image, self.window)

    def whole(self, parts: Parts) -> Image:
        """The image of these patches; pixels of no patch are zero."""
        return fold(parts, self.window, self.image_shape)

    def coordinates(self, parts: Parts) -> Float[Array, "parts coordinates"]:
        """In V_N where it is the smaller side, else the patches' own numbers without their part in V_S."""
        if self._small:
            return jnp.matmul(parts, self.basis, precision=HIGHEST)
        sensitive = jnp.matmul(parts, self.complement, precision=HIGHEST)
        return parts - jnp.matmul(sensitive, self.complement.T, precision=HIGHEST)

    def combine(self, coordinates: Float[Array, "parts coordinates"]) -> Parts:
        """The patches in the subspace that have these coordinates."""
        return jnp.matmul(coordinates, self.basis.T, precision=HIGHEST) if self._small else coordinates

    def sample(self, key: PRNGKeyArray) -> Image:
        """Fresh Gaussian noise for every patch: standard normal coordinates in V_N."""
        coordinates = normal(key, (self.num_patches, self.num_directions))
        return self.whole(jnp.matmul(coordinates, self.basis.T, precision=HIGHEST))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["projectors", "singular_values", "sigma_1"],
    meta_fields=["window", "strides", "image_shape"],
)
@dataclasses.dataclass(frozen=True)
class FourierSubspace(Subspace):
    """The low-sensitivity subspace of images of a first layer whose windows overlap, frequency by frequency (polyphase identity).

    projectors: V_N V_N^H at each frequency of `rfft2` over the grid of cells; a real image has a real projection.
    singular_values, sigma_1: as for patches, of images that wrap around; one entry for each real direction of an image.
    window: (kh, kw, C); strides; image_shape: (H, W, C), all static.
    """

    projectors: Complex[Array, "rows half p p"]
    singular_values: Float[Array, " k"]
    sigma_1: Float[Array, ""]
    window: tuple[int, int, int]
    strides: tuple[int, int]
    image_shape: tuple[int, int, int]

    @property
    def num_directions(self) -> int:
        """k, the real dimension of the subspace of images."""
        return self.singular_values.shape[0]

    @property
    def total_directions(self) -> int:
        """H W C, the numbers of an image."""
        return int(np.prod(self.image_shape))

    @property
    def num_patches(self) -> int:
        """1: the image is the only part."""
        return 1

    def parts(self, image: Image) -> Parts:
        """The image in one row."""
        return image.reshape(1, -1)

    def whole(self, parts: Parts) -> Image:
        """The row as an image."""
        return parts.reshape(self.image_shape)

    def coordinates(self, parts: Parts) -> Float[Array, "parts coordinates"]:
        """The projected image's own numbers."""
        return self.parts(filter_cells(self.whole(parts), self.projectors, self.strides))

    def combine(self, coordinates: Float[Array, "parts coordinates"]) -> Parts:
        """The same."""
        return coordinates

    def complement(self, delta: Image) -> Image:
        """The part of `delta` outside the subspace."""
        return delta - self.project(delta)

    def sample(self, key: PRNGKeyArray) -> Image:
        """Fresh white Gaussian noise in the subspace: unit variance for every real direction."""
        return self.project(normal(key, self.image_shape))


@jax.jit
def remove_subspace(stored: Images, space: Subspace) -> Images:
    """Tier 4: projection on the sensitive subspace, which is all that the authorized model sees. Knows its first layer."""
    return stored - jax.vmap(space.project)(stored)
