from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ne_jax.core.unfold import fold, grid, unfold

SIZES = st.integers(1, 4)


def test_patches_are_row_major_and_flattened_as_row_column_channel():
    """Patch p = (row, column) of the grid, its entry = (row, column, channel) of the patch."""
    image = jnp.arange(4 * 6 * 2, dtype=jnp.float32).reshape(4, 6, 2)
    patches = unfold(image, (2, 3, 2))
    assert patches.shape == (4, 12)
    for index, (row, column) in enumerate([(0, 0), (0, 3), (2, 0), (2, 3)]):
        assert np.array_equal(patches[index], image[row : row + 2, column : column + 3].reshape(-1))


@settings(max_examples=10)
@given(
    rows=SIZES,
    columns=SIZES,
    height=SIZES,
    width=SIZES,
    channels=SIZES,
    bottom=st.integers(0, 3),
    right=st.integers(0, 3),
)
def test_fold_undoes_unfold(rows, columns, height, width, channels, bottom, right):
    """fold(unfold(x)) is x on whole patches and zero on the pixels of no patch."""
    window = (height, width, channels)
    shape = (rows * height + min(bottom, height - 1), columns * width + min(right, width - 1), channels)
    image = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    patches = jax.jit(unfold, static_argnums=1)(image, window)
    again = np.asarray(jax.jit(fold, static_argnums=(1, 2))(patches, window, shape))
    assert grid(shape, window) == (rows, columns)
    assert patches.shape == (rows * columns, height * width * channels)
    assert np.array_equal(again[: rows * height, : columns * width], image[: rows * height, : columns * width])
    assert not again[rows * height :].any() and not again[:, columns * width :].any()


def test_unfold_meets_the_layer_patch_for_patch(graded):
    """The layer's matrix times each unfolded patch is its convolution: both flatten a patch in the same order."""
    image = jnp.asarray(np.random.default_rng(0).standard_normal((8, 12, 3)), jnp.float32)
    patches, matrix = unfold(image, graded.layer.window), np.asarray(graded.layer.matrix)
    found = np.asarray(graded.layer.apply(image)).reshape(6, -1)
    # 48 products and sums in float32 on each side.
    limit = 2 * 48 * np.finfo(np.float32).eps * (np.abs(patches) @ np.abs(matrix).T)
    assert (np.abs(found - np.asarray(patches, np.float64) @ matrix.T.astype(np.float64)) <= limit).all()
