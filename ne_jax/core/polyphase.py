"""First layers whose windows overlap, as one small matrix for each spatial frequency (the polyphase identity).

Under circular padding a convolution of stride s only mixes, at each frequency of the grid of s x s cells, the C s^2 numbers of a
cell: split the image into cells (polyphase components), take the 2-D DFT over the grid, and the layer is one complex
matrix (M, C s^2) for each frequency. With the unitary DFT its singular values are those of the image's map (EVIDENCE.md, T1).
A real image needs half of the frequencies; the other half is their complex conjugate.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int

from ne_jax.core.first_layer import HIGHEST, FirstLayer, pads
from ne_jax.core.unfold import fold, grid, unfold
from ne_jax.errors import UserError


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["singular_values", "block_values", "vectors"],
    meta_fields=["window", "strides", "image_shape"],
)
@dataclasses.dataclass(frozen=True)
class PolyphaseSpectrum:
    """Singular value decomposition of a first layer on images that wrap around at their borders.

    singular_values: of all H W C directions of an image, descending; a direction and its conjugate have the same, twice.
    block_values: the same by frequency of `rfft2` over the grid of (H / s) x (W / s) cells, descending in each; p = C s^2.
    vectors: right singular vectors in columns, unitary; a cell is flattened as (row, column, channel). Frequencies f and -f of
        the first and of the Nyquist column have conjugate vectors, self-conjugate frequencies real ones, exactly.
    window: (kh, kw, C); strides; image_shape: (H, W, C), all static.
    """

    singular_values: Float[Array, " directions"]
    block_values: Float[Array, "rows half p"]
    vectors: Complex[Array, "rows half p p"]
    window: tuple[int, int, int]
    strides: tuple[int, int]
    image_shape: tuple[int, int, int]


def polyphase_spectrum(layer: FirstLayer, image_shape: tuple[int, int, int]) -> PolyphaseSpectrum:
    """Spectrum of `layer` with its padding replaced by a wrap-around, on images of `image_shape` (H, W, C).

    Raises UserError when strides exceed the kernel (pixels between the windows are not seen) or do not divide H and W.
    """
    if any(stride > side for stride, side in zip(layer.strides, layer.window, strict=False)):
        raise UserError(
            f"the first layer's windows {layer.window[:2]} move by {layer.strides} and leave pixels out; "
            "choose a model whose first layer sees every pixel"
        )
    if (
        min(
            side + sum(pad) - kernel
            for side, pad, kernel in zip(image_shape, pads(layer, image_shape), layer.window, strict=False)
        )
        < 0
    ):
        raise UserError(
            f"image_shape {image_shape} with padding {layer.padding} is smaller than one window {layer.window[:2]}"
        )
    if any(side % stride for side, stride in zip(image_shape, layer.strides, strict=False)):
        raise UserError(
            f"image_shape {image_shape} is not divisible by the first layer's strides {layer.strides}; crop or resize it"
        )
    values, vectors = _decompose(layer, image_shape)
    columns = image_shape[1] // layer.strides[1]
    twice = values[:, 1 : (columns + 1) // 2]  # the half that rfft2 leaves out
    ordered = jnp.sort(jnp.concatenate([values.ravel(), twice.ravel()]), descending=True)
    return PolyphaseSpectrum(ordered, values, vectors, layer.window, layer.strides, tuple(image_shape))


def cell(strides: tuple[int, int], image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(s, s, C): what one place of the grid holds."""
    return (*strides, image_shape[2])


def _places(window: int, stride: int, pad: int, cells: int) -> tuple[Int[np.ndarray, " u"], Int[np.ndarray, " u"]]:
    """Of each tap of a window, along one axis: the cell, counted from the output's and wrapped, and the place in the cell."""
    offsets = np.arange(window) - pad
    return offsets // stride % cells, offsets % stride


def blocks(layer: FirstLayer, image_shape: tuple[int, int, int]) -> Complex[Array, "rows half outputs p"]:
    """The layer's matrix at each frequency of `rfft2` (polyphase identity): the DFT, conjugated, of its taps on the grid."""
    shape, ((top, _), (left, _)) = grid(image_shape, layer.strides), pads(layer, image_shape)
    row, down = _places(layer.window[0], layer.strides[0], top, shape[0])
    column, right = _places(layer.window[1], layer.strides[1], left, shape[1])
    taps = jnp.zeros((*shape, *cell(layer.strides, image_shape), layer.kernel.shape[-1]))
    # Added, not set: where the kernel is larger than the image several taps fall on one place.
    taps = taps.at[row[:, None], column, down[:, None], right].add(layer.kernel / layer.std[:, None])
    response = jnp.conj(jnp.fft.rfft2(taps.reshape(*shape, -1, taps.shape[-1]), axes=(0, 1)))
    return response.swapaxes(2, 3)


def triangles(matrices: Complex[Array, "rows half outputs p"]) -> Complex[Array, "rows half rank p"]:
    """R of a QR factorisation: the same singular values and right vectors, at most p rows."""
    return jnp.linalg.qr(matrices, mode="r")


def _right(matrices):
    """Singular values, padded with zeros to p, and right singular vectors in columns. Real for real matrices."""
    # An SVD, not the Gram matrix's eigenvectors: these would square the rounding error.
    _, values, right = jnp.linalg.svd(jnp.linalg.qr(matrices, mode="r"), full_matrices=True)
    missing = right.shape[-1] - values.shape[-1]
    return jnp.pad(values, ((0, 0), (0, 0), (0, missing))), jnp.conj(right.swapaxes(-1, -2))


@functools.partial(jax.jit, static_argnames=("image_shape",))
def _decompose(layer: FirstLayer, image_shape: tuple[int, int, int]):
    matrices = blocks(layer, image_shape)
    values, vectors = _right(matrices)
    real = np.ix_(*(self_conjugate(size) for size in grid(image_shape, layer.strides)))
    for_real = _right(matrices[real].real)
    values, vectors = values.at[real].set(for_real[0]), vectors.at[real].set(for_real[1].astype(vectors.dtype))
    _, columns = grid(image_shape, layer.strides)
    return mirror(values, columns), mirror(vectors, columns)


def self_conjugate(size: int) -> list[int]:
    """The frequencies of a DFT of `size` that are their own negatives."""
    return [0, size // 2] if size % 2 == 0 and size > 1 else [0]


def mirror(array: Array, columns: int) -> Array:
    """`array`, over the frequencies of `rfft2`, with its entry at -f made the conjugate of that at f where it holds both: in the
    columns of the self-conjugate frequencies."""
    rows = array.shape[0]
    source = np.minimum(np.arange(rows), -np.arange(rows) % rows)
    for column in self_conjugate(columns):
        one = array[source, column]
        flipped = (np.arange(rows) != source).reshape(-1, *(1,) * (one.ndim - 1))
        array = array.at[:, column].set(jnp.where(flipped, jnp.conj(one), one))
    return array


def multiplicity(rows: int, columns: int) -> Int[np.ndarray, "rows half"]:
    """Real directions for each complex one at a frequency of `rfft2`: 2 for a pair (f, -f), 1 for a frequency that is its own
    negative, 0 for the second of a pair of which both are in the half."""
    counts = np.full((rows, columns // 2 + 1), 2)
    for column in self_conjugate(columns):
        counts[rows // 2 + 1 :, column] = 0
        counts[self_conjugate(rows), column] = 1
    return counts


def lowest(spectrum: PolyphaseSpectrum, count: int) -> tuple[Bool[Array, "rows half p"], int]:
    """Which directions of smallest sigma to take, and how many real ones: the most that are at most `count` and split no conjugate
    pair, so `count` or one less. On the host."""
    rows, columns = grid(spectrum.image_shape, spectrum.strides)
    values = np.asarray(spectrum.block_values)
    counts = np.broadcast_to(multiplicity(rows, columns)[..., None], values.shape).ravel()
    order = np.argsort(values, axis=None, kind="stable")
    total = np.cumsum(counts[order])
    first = int(np.searchsorted(total, count, side="right"))  # the first that would be too many
    taken = np.zeros(values.size, bool)
    taken[order[:first]] = True
    return mirror(jnp.asarray(taken.reshape(values.shape)), columns), int(total[first - 1]) if first else 0


@jax.jit
def projectors(vectors: Complex[Array, "rows half p p"], taken: Bool[Array, "rows half p"]):
    """V_N V_N^H at each frequency."""
    kept = jnp.where(taken[..., None, :], vectors, 0)
    return jnp.matmul(kept, jnp.conj(kept.swapaxes(-1, -2)), precision=HIGHEST)


def filter_cells(
    image: Float[Array, "height width channels"],
    matrices: Complex[Array, "rows half p p"],
    strides: tuple[int, int],
) -> Float[Array, "height width channels"]:
    """The image with the cells' DFT at each frequency multiplied by that frequency's matrix."""
    shape, unit = grid(image.shape, strides), cell(strides, image.shape)
    cells = unfold(image, unit).reshape(*shape, -1)
    frequencies = jnp.einsum("...pq,...q->...p", matrices, jnp.fft.rfft2(cells, axes=(0, 1)), precision=HIGHEST)
    filtered = jnp.fft.irfft2(frequencies, s=shape, axes=(0, 1))
    return fold(filtered.reshape(-1, filtered.shape[-1]), unit, image.shape)


def gains(
    layer: FirstLayer, projectors: Complex[Array, "rows half p p"], image_shape: tuple[int, int, int]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The layer's norm on images that wrap around: in the projectors' subspace, and in all directions."""
    matrices = triangles(blocks(layer, image_shape))
    low = jnp.linalg.svd(jnp.matmul(matrices, projectors, precision=HIGHEST), compute_uv=False)
    return low.max(), jnp.linalg.svd(matrices, compute_uv=False).max()


def repeats(layer: FirstLayer, image_shape: tuple[int, int, int]) -> int:
    """How often, at most, a place of the grid is an output of the zero-padded layer: 1, unless padding exceeds what it needs."""
    axes = zip(image_shape, pads(layer, image_shape), layer.window, layer.strides, strict=False)
    outputs = [(side + sum(pad) - kernel) // stride + 1 for side, pad, kernel, stride in axes]
    return int(
        np.prod([-(-count // side) for count, side in zip(outputs, grid(image_shape, layer.strides), strict=True)])
    )


def wrap_around(
    layer: FirstLayer, delta: Float[Array, "height width channels"]
) -> Float[Array, "padded_height padded_width channels"]:
    """What a wrap-around has where the layer pads with zeros; zero where the image itself is."""
    places = [
        np.arange(-low, side + high) for side, (low, high) in zip(delta.shape, pads(layer, delta.shape), strict=False)
    ]
    row, column = (place % side for place, side in zip(places, delta.shape, strict=False))
    above, beside = ((place < 0) | (place >= side) for place, side in zip(places, delta.shape, strict=False))
    return jnp.where((above[:, None] | beside)[..., None], delta[row][:, column], 0)


def unpadded(layer: FirstLayer) -> FirstLayer:
    """The layer on images that are padded already."""
    return FirstLayer(layer.kernel, layer.strides, "VALID", layer.mean, layer.std)
