"""Which directions are low-sensitivity: four rules, and the subspace, of patches or of frequencies, that they choose."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from ne_jax.core.first_layer import HIGHEST
from ne_jax.core.pixels import Images
from ne_jax.core.polyphase import PolyphaseSpectrum, filter_cells, lowest, projectors
from ne_jax.core.spectrum import Spectrum
from ne_jax.core.threefry import normal
from ne_jax.core.unfold import fold, grid, unfold
from ne_jax.errors import UserError

Rule = Literal["relative", "count", "energy", "utility"]
Image = Float[Array, "height width channels"]
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


def low_sensitivity(
    spectrum: Spectrum | PolyphaseSpectrum,
    rule: Rule,
    value: float,
    *,
    psnr_db: float | None = None,
    feature_norm: float | None = None,
) -> Subspace:
    """The low-sensitivity subspace that `rule` chooses.

    relative: sigma_i <= value * sigma_1, value in [0, 1). Rounding error of the SVD counts as zero.
    count: the `value` directions of smallest sigma. The only rule with a static size, hence for patches usable inside jit.
    energy: the most directions that hold at most the share `value` in [0, 1) of sum sigma_i^2.
    utility: the most directions for which the utility bound (T1) sigma_max(V_N) * norm(delta) of a change at `psnr_db` (dB)
        is at most `value` times `feature_norm`, the usual norm of the layer's response to an image. `strongest_psnr_db`
        then gives the strength up to which the bound stays below the gap.

    Where windows overlap, directions and norms are of the whole image, and of the layer on images that wrap around: `certify`
    adds what the true border does. A direction comes with its conjugate, so count and energy may take one direction less.
    Raises UserError for a value out of range, and when no direction or every direction would be chosen.
    """
    dimension = spectrum.singular_values.shape[0]
    if rule == "count":
        count = int(value)
        if not 0 < count < dimension or count != value:
            raise UserError(
                f"count {value} is not a whole number from 1 to {dimension - 1} ({_whole(spectrum)} has {dimension} directions)"
            )
    else:
        if rule not in ("relative", "energy", "utility"):
            raise UserError(f'rule "{rule}" is unknown; choose relative, count, energy or utility')
        if not 0 <= value < 1:
            raise UserError(f"{rule} threshold {value} is not in [0, 1)")
        count = _count(spectrum, rule, value, psnr_db, feature_norm)
    values = spectrum.singular_values
    if isinstance(spectrum, PolyphaseSpectrum):
        taken, kept = lowest(spectrum, count)
        if kept == 0:
            raise UserError(f"rule {rule} with {value:g} would split two conjugate directions; take at least 2")
        return FourierSubspace(
            projectors(spectrum.vectors, taken), values[dimension - kept :], values[0],
            spectrum.window, spectrum.strides, spectrum.image_shape,
        )  # fmt: skip
    first, vectors = dimension - count, spectrum.vectors
    return PatchSubspace(
        vectors[:, first:], vectors[:, :first], values[first:], values[0], spectrum.window, spectrum.image_shape
    )


def _whole(spectrum: Spectrum | PolyphaseSpectrum) -> str:
    return "a patch" if isinstance(spectrum, Spectrum) else "an image"


def _rounding(window: tuple[int, int, int]) -> float:
    """Share of sigma_1 below which a singular value is zero to float32: each number that the SVD saw is a sum over a window."""
    return int(np.prod(window)) * float(np.finfo(np.float32).eps)


def _count(
    spectrum: Spectrum | PolyphaseSpectrum, rule: str, value: float, psnr_db: float | None, feature_norm: float | None
) -> int:
    """How many of the last directions a value-dependent rule takes. On the host."""
    sigma = np.asarray(spectrum.singular_values, np.float64)
    rounding = _rounding(spectrum.window) * sigma[0]
    if rule == "energy":
        held = np.cumsum(np.where(sigma <= rounding, 0, sigma)[::-1] ** 2)
        count = int(np.sum(held <= value * held[-1]))
    else:
        limit = value * sigma[0]
        if rule == "utility":
            if psnr_db is None or feature_norm is None:
                raise UserError("the utility rule needs psnr_db and feature_norm")
            limit = value * feature_norm / delta_norm(psnr_db, spectrum.image_shape)
        count = int(np.sum(sigma <= max(limit, rounding)))
    if count == 0:
        patches = isinstance(spectrum, Spectrum)
        hint = "" if patches else " (as a rule, only layers whose windows do not overlap have null directions)"
        raise UserError(
            f"no low-sensitivity direction under rule {rule} with {value:g}: the smallest sigma / sigma_1 of this layer is "
            f"{sigma[-1] / sigma[0]:.3g}; raise the threshold above it, use rule count, or choose another model{hint}"
        )
    if count == len(sigma):
        raise UserError(
            f"rule {rule} with {value:g} takes all {count} directions, and the image with them; lower the threshold"
        )
    return count


def delta_norm(psnr_db: float, image_shape: tuple[int, ...]) -> float:
    """Norm of a change of an image of that shape at that PSNR, in pixel units."""
    return float(np.sqrt(np.prod(image_shape)) * 10 ** (-psnr_db / 20))


def strongest_psnr_db(space: Subspace, gap: float, feature_norm: float) -> float:
    """The PSNR (dB) at which the utility bound (T1) reaches `gap` times `feature_norm`; weaker is higher. -inf when the
    subspace is exactly null to float32, so that any strength does. Without what the true border does where windows overlap."""
    sigma = float(space.singular_values[0])
    if sigma <= _rounding(space.window) * float(space.sigma_1):
        return -np.inf
    return float(20 * np.log10(sigma * np.sqrt(np.prod(space.image_shape)) / (gap * feature_norm)))


@jax.jit
def remove_subspace(stored: Images, space: Subspace) -> Images:
    """Tier 4: projection on the sensitive subspace, which is all that the authorized model sees. Knows its first layer."""
    return stored - jax.vmap(space.project)(stored)
