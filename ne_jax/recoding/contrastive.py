"""Of a low-sensitivity subspace, the directions that a zoo of public models reacts to most (EVIDENCE.md, T9).

Noise in them harms readers more at the same PSNR, and as they lie inside V_N every certificate of V_N still holds. On the host, in
float64: a few matrices of the size of a patch, once for an authorized model.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, Int, PRNGKeyArray

from ne_jax.core.first_layer import FirstLayer, pads
from ne_jax.core.pixels import Image
from ne_jax.core.subspace import PatchSubspace, Subspace
from ne_jax.core.unfold import grid
from ne_jax.errors import UserError
from ne_jax.recoding.design import Context, Design, Recipe, Recoded
from ne_jax.recoding.subspace_noise import noise_for

# Share of sigma_1 below which the authorized layer's reaction counts as none: directions under it are chosen by the zoo alone.
_FLOOR = 1e-2


def contrastive(space: Subspace, readers: Sequence[FirstLayer], count: int | None = None) -> PatchSubspace:
    """The `count` directions of `space` with the most reaction of the readers per reaction of the authorized model.

    They span the leading solutions of G_pub v = lambda (G_a + eps I) v inside V_N (T9). G_pub: mean over the readers of
    `reader_gram`, each divided by its trace, so that none dominates. G_a: the authorized layer's, diag(sigma_i^2) in V_N.
    eps = (1e-2 sigma_1)^2: a reaction below one hundredth of sigma_1 is no reason to prefer another direction.

    space: of patches. readers: first layers on the same pixel grid, with any windows, strides and padding.
    count: from 1 to k = `space.num_directions`; None: half of k. Fewer directions harm more at one PSNR, but boxed noise fits less
        strength into them, and who guesses the zoo knows them. Where the zoo sees fewer than `count`, the rest is arbitrary.
    The result is exactly as `low_sensitivity` gives it: basis, complement, and the authorized layer's singular values in it, descending.
    It is about the mean: a single reader, in the zoo or not, may react less than to all of `space`; `zoo_gain` measures it.

    Raises UserError for a subspace of frequencies, for no readers, for a count out of range and for a reader that does not fit.
    """
    space = _of_patches(space)
    kept = max(space.num_directions // 2, 1) if count is None else count
    if not 0 < kept <= space.num_directions:
        raise UserError(f"count {count} is not from 1 to {space.num_directions}, the directions of the subspace")
    basis, sigma = np.asarray(space.basis, np.float64), np.asarray(space.singular_values, np.float64)
    grams = [basis.T @ (gram / np.trace(gram)) @ basis for gram in _grams(space, readers)]
    # With D = G_a + eps I, which is diagonal here, v = D^(-1/2) w makes the problem an ordinary symmetric one in w.
    root = np.sqrt(sigma**2 + (_FLOOR * float(space.sigma_1)) ** 2)
    _, vectors = np.linalg.eigh(np.mean(grams, axis=0) / np.outer(root, root))
    turned = np.linalg.qr(vectors[:, -kept:] / root[:, None], mode="complete")[0]
    # Turned once more inside the span, so that the authorized layer has orthogonal answers there: its singular values.
    _, inside, right = np.linalg.svd(sigma[:, None] * turned[:, :kept], full_matrices=False)
    complement = np.concatenate([np.asarray(space.complement, np.float64), basis @ turned[:, kept:]], axis=1)
    chosen, rest, values = (
        jnp.asarray(part, jnp.float32) for part in (basis @ turned[:, :kept] @ right.T, complement, np.abs(inside))
    )
    return PatchSubspace(chosen, rest, values, space.sigma_1, space.window, space.image_shape)


def zoo_gain(space: Subspace, readers: Sequence[FirstLayer]) -> Float64[np.ndarray, " readers"]:
    """Of each reader, the energy norm(T_u delta)^2 of white noise in `space` against white noise in all pixels of the patches, at
    the same PSNR: 1 is no help from the subspace. For readers with the same patches, `reader_deviation`'s relative_gain (T6).

    Raises UserError for a subspace of frequencies, for no readers and for a reader that does not fit.
    """
    space = _of_patches(space)
    basis = np.asarray(space.basis, np.float64)
    return np.array(
        [
            (np.sum(basis * (gram @ basis)) / space.num_directions) / (np.trace(gram) / space.total_directions)
            for gram in _grams(space, readers)
        ]
    )


def reader_gram(reader: FirstLayer, space: Subspace) -> Float64[np.ndarray, "d d"]:
    """G_u, the mean over the patches p of an image of U_p^T T^T T U_p, where U_p puts a patch into an image of zeros and T is the
    reader's first layer with its own windows, strides and padding: E norm(T n)^2 = P trace(V_N^T G_u V_N) for `space.sample`.

    Exact, borders too: a window at an offset from a patch sees the part of it that they share, and patches are counted by offset.
    d = the numbers of a patch, flattened as (row, column, channel); pixel units.
    Raises UserError for a subspace of frequencies, other channels, and images smaller than one window.
    """
    space = _of_patches(space)
    if reader.window[2] != space.window[2]:
        raise UserError(f"the reader {reader} takes {reader.window[2]} channels; the subspace has {space.window[2]}")
    matrix = np.asarray(reader.matrix, np.float64)
    seen = (matrix.T @ matrix).reshape(2 * reader.window)
    gram = np.zeros(2 * space.window)
    (tops, row_counts), (lefts, column_counts) = (_offsets(reader, space, axis) for axis in (0, 1))
    for top, rows in zip(tops, row_counts, strict=True):
        patch_rows, window_rows = _shared(top, space.window[0], reader.window[0])
        for left, columns in zip(lefts, column_counts, strict=True):
            patch_columns, window_columns = _shared(left, space.window[1], reader.window[1])
            # A view, added to in place.
            part = gram[patch_rows, patch_columns, :, patch_rows, patch_columns, :]
            part += rows * columns * seen[window_rows, window_columns, :, window_rows, window_columns, :]
    return gram.reshape(2 * (space.total_directions,)) / space.num_patches


def _of_patches(space: Subspace) -> PatchSubspace:
    if not isinstance(space, PatchSubspace):
        raise UserError(
            "the subspace is of frequencies, as the authorized model's windows overlap; contrastive directions need patches"
        )
    return space


def _grams(space: PatchSubspace, readers: Sequence[FirstLayer]) -> list[Float64[np.ndarray, "d d"]]:
    if not readers:
        raise UserError("there are no readers; give the first layers of one or more public models")
    grams = [reader_gram(reader, space) for reader in readers]
    for place, (reader, gram) in enumerate(zip(readers, grams, strict=True), 1):
        if not np.trace(gram) > 0:
            raise UserError(f"reader {place} of {len(readers)}, {reader}, sees nothing of the patches; leave it out")
    return grams


def _offsets(
    reader: FirstLayer, space: PatchSubspace, axis: int
) -> tuple[Int[np.ndarray, " offsets"], Int[np.ndarray, " offsets"]]:
    """Along one axis: where windows that share pixels with a patch begin, from its beginning, and in how many pairs of the two."""
    side, patch, window = space.image_shape[axis], space.window[axis], reader.window[axis]
    before, after = pads(reader, space.image_shape)[axis]
    places = (side + before + after - window) // reader.strides[axis] + 1
    if places < 1:
        raise UserError(f"the reader {reader} has windows larger than the subspace's images {space.image_shape}")
    starts = np.arange(places) * reader.strides[axis] - before
    offsets = (starts[:, None] - np.arange(grid(space.image_shape, space.window)[axis]) * patch).ravel()
    return np.unique(offsets[(offsets > -window) & (offsets < patch)], return_counts=True)


def _shared(offset: int | np.integer, patch: int, window: int) -> tuple[slice, slice]:
    """What a window that begins at `offset` shares with a patch, in the patch's pixels and in the window's."""
    first, last = max(offset, 0), min(offset + window, patch)
    return slice(first, last), slice(first - offset, last - offset)


def _recode(key: PRNGKeyArray, image: Image, recipe: Recipe) -> Recoded:
    return noise_for(recipe.dtype).recode(key, image, recipe)


def _directions(context: Context) -> PatchSubspace:
    return contrastive(context.space, context.surrogate_layers)


CONTRASTIVE = Design(
    "contrastive",
    "the same noise in the half of these directions that the surrogates' first layers react to most",
    recode=_recode,
    settings=("surrogates", "replace", "rounds"),
    directions=_directions,
    subspace=_directions,
)
