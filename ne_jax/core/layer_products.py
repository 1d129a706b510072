"""T delta with a proved limit of its error: a first layer's windows as rows of a matrix, cell by cell of its strides."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ne_jax.core.enclosure import Columns, Plan, Rounded, as_columns, cut_up, plan, product, rows
from ne_jax.core.first_layer import FirstLayer, pads


def cell_kernel(layer: FirstLayer, front: tuple[int, int] = (0, 0)) -> Float[Array, "down across numbers outputs"]:
    """kernel / std as cells of stride x stride pixels, of the numbers of a cell each: zeros `front` of it, above and to the left,
    and behind it up to whole cells."""
    kernel = layer.kernel / layer.std[:, None]
    channels, (down, across) = layer.window[2], layer.strides
    behind = [-(front[axis] + layer.window[axis]) % layer.strides[axis] for axis in (0, 1)]
    kernel = jnp.pad(kernel, ((front[0], behind[0]), (front[1], behind[1]), (0, 0), (0, 0)))
    rows, columns = kernel.shape[0] // down, kernel.shape[1] // across
    cells = kernel.reshape(rows, down, columns, across, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return cells.reshape(rows, columns, down * across * channels, -1)


def _window_rows(
    layer: FirstLayer, images: Float[Array, "count height width channels"], cells: tuple[int, int]
) -> Float[Array, "count places numbers"]:
    """The windows of padded images, a row each, of down x across cells and cell by cell: zeros for pixels that are padded."""
    (down, across), pad = layer.strides, pads(layer, images.shape[1:])
    places = [
        (side + sum(more) - kernel) // stride + 1
        for side, more, kernel, stride in zip(images.shape[1:], pad, layer.window, layer.strides, strict=False)
    ]
    shape = [place + cell - 1 for place, cell in zip(places, cells, strict=True)]
    # As many pixels as those cells have: where windows leave out the last ones, these are cut off.
    behind = [
        count * stride - side - low
        for count, stride, side, (low, _) in zip(shape, layer.strides, images.shape[1:], pad, strict=False)
    ]
    cut = images[:, : images.shape[1] + min(behind[0], 0), : images.shape[2] + min(behind[1], 0)]
    whole = jnp.pad(cut, ((0, 0), *((low, max(high, 0)) for (low, _), high in zip(pad, behind, strict=True)), (0, 0)))
    apart = whole.reshape(len(images), shape[0], down, shape[1], across, -1).transpose(0, 1, 3, 2, 4, 5)
    apart = apart.reshape(len(images), *shape, -1)
    shifted = [
        apart[:, row : row + places[0], column : column + places[1]]
        for row in range(cells[0])
        for column in range(cells[1])
    ]
    return jnp.concatenate(shifted, axis=-1).reshape(len(images), places[0] * places[1], -1)


def covering(layer: FirstLayer) -> int:
    """How many windows, at most, see a pixel."""
    return int(np.prod([-(-side // stride) for side, stride in zip(layer.window, layer.strides, strict=False)]))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["layer", "kernel"], meta_fields=["cells", "cut"])
@dataclasses.dataclass(frozen=True)
class ExactLayer:
    """A first layer whose kernel, of down x across cells, is cut into digits once. T is of the float32 numbers kernel / std."""

    layer: FirstLayer
    kernel: Columns
    cells: tuple[int, int]
    cut: Plan

    @classmethod
    def of(cls, layer: FirstLayer) -> ExactLayer:
        """The layer, made ready."""
        cut, kernel = plan(int(np.prod(layer.window))), cell_kernel(layer)
        matrix = kernel.reshape(-1, kernel.shape[-1])
        return cls(layer, as_columns(matrix, cut, own_units=True), kernel.shape[:2], cut)

    def apply(self, delta: Float[Array, "height width channels"]) -> Rounded:
        """T delta, a row for each place."""
        whole = cut_up(delta, self.cut)
        left = rows(_window_rows(self.layer, whole.parts, self.cells), whole, self.cut)
        return product(left, self.kernel, self.cut, repeats=covering(self.layer))
