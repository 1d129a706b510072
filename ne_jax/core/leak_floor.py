"""What no amplitude hides (T8): the best linear reconstruction by whoever knows the low-sensitivity subspace."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ne_jax.core.linear_estimate import adjoint, low_vectors, prior_of, space_prior, taken
from ne_jax.core.polyphase import self_conjugate
from ne_jax.core.subspace import PatchSubspace, Subspace
from ne_jax.core.unfold import grid
from ne_jax.errors import UserError


def leak_floor(
    space: Subspace,
    clean: Float[np.ndarray, "n height width channels"] | Float[np.ndarray, "d d"],
    psnr_db: float | None = None,
) -> float:
    """PSNR (dB) of the best linear white-box reconstruction, were images Gaussian; attackers who are not linear may do better.

    Its squared error is trace(S_NN - S_NS S_SS^-1 S_SN), S the covariance of clean patches (of frequencies where windows overlap), N the
    low-sensitivity directions, S the others: stronger noise does not make it worse. The higher, the less a release hides.
    clean: images in pixel units, or the covariance of a patch (for patches alone). psnr_db: of white noise in the subspace; None: of
    any strength. Weaker noise gives a smaller error. Infinite where nothing is lost. Raises UserError for shapes that do not fit.
    """
    if clean.ndim == 2:
        if not isinstance(space, PatchSubspace) or clean.shape[0] != space.total_directions:
            raise UserError(f"a covariance of {clean.shape[0]} numbers does not fit the subspace; give images")
        prior = prior_of(space.window, np.zeros(len(clean)), np.asarray(clean, np.float64), ridge=1e-3)
    else:
        if clean.shape[1:] != space.image_shape:
            raise UserError(f"images of {clean.shape[1:]} do not fit a subspace of images {space.image_shape}")
        prior = space_prior(clean, space)
    numbers = float(np.prod(space.image_shape))
    amplitude = np.inf
    if psnr_db is not None:
        amplitude = np.sqrt(10 ** (-psnr_db / 10) * numbers / (space.num_directions * space.num_patches))
    lost = prior.root @ taken(prior, low_vectors(space), float(amplitude)) @ adjoint(prior.root)
    errors = np.trace(lost, axis1=-2, axis2=-1).real
    total = errors * space.num_patches if errors.ndim == 0 else (errors * _copies(space)).sum()
    return float(-10 * np.log10(total / numbers)) if total > 0 else np.inf


def _copies(space: Subspace) -> Float[np.ndarray, "1 half"]:
    """How many frequencies of a real image each column of `rfft2` stands for: 2, or 1 for those that are their own negatives."""
    _, columns = grid(space.image_shape, space.strides)
    copies = np.full((1, columns // 2 + 1), 2.0)
    copies[:, self_conjugate(columns)] = 1
    return copies
