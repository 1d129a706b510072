"""Tier 4: attacks through the authorized model: its first layer stitched before another reader, and its features inverted."""

from __future__ import annotations

import functools
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from flax import nnx
from jaxtyping import Array, Float, Float32

from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.attacks.reader_training import before
from ne_jax.attacks.trained_networks import descend, in_chunks
from ne_jax.core.first_layer import HIGHEST, FirstLayer
from ne_jax.core.linear_estimate import given
from ne_jax.core.pixels import Image, Images
from ne_jax.core.unfold import fold, grid, unfold
from ne_jax.errors import UserError
from ne_jax.models.model import Model

Layer = Literal["first", "hidden", "features"]
_AT_ONCE = 8  # images inverted together


def _responses(layer: FirstLayer, image: Image) -> Float[Array, "rows columns outputs"]:
    """`layer.response`; of patches as one product, because the gradient of a convolution with long strides is slow on a CPU."""
    if not layer.tiles(image.shape):
        return layer.response(image)
    found = jnp.matmul(unfold(image - layer.mean, layer.window), layer.matrix.T, precision=HIGHEST)
    return found.reshape(*grid(image.shape, layer.window), -1)


# Stitching.


def _cell(layer: FirstLayer) -> tuple[int, int, int]:
    """The pixels from one output to the next: a patch, or less where windows overlap."""
    return (*layer.strides, layer.window[2])


def _context(layer: FirstLayer, leading: Float[Array, "outputs some"], image: Image) -> Float[Array, "cells numbers"]:
    """Of each cell a one, its outputs, and the leading components of those of the eight cells around it."""
    outputs = _responses(layer, image)
    few = jnp.matmul(outputs, leading, precision=HIGHEST)
    rows, columns = outputs.shape[:2]
    padded = jnp.pad(few, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = [
        padded[row : row + rows, column : column + columns]
        for row in range(3)
        for column in range(3)
        if (row, column) != (1, 1)
    ]
    ones = jnp.ones((rows, columns, 1))
    return jnp.concatenate([ones, outputs, *around], axis=-1).reshape(rows * columns, -1)


@jax.jit
def _gram(layer: FirstLayer, image: Image) -> Float[Array, "outputs outputs"]:
    outputs = _responses(layer, image)
    outputs = outputs.reshape(-1, outputs.shape[-1])
    return jnp.matmul(outputs.T, outputs, precision=HIGHEST)


@jax.jit
def _products(layer: FirstLayer, leading, image: Image) -> Float[Array, "numbers numbers_and_pixels"]:
    known = _context(layer, leading, image)
    both = jnp.concatenate([known, unfold(image, _cell(layer))], axis=1)
    return jnp.matmul(known.T, both, precision=HIGHEST)


def stitch(
    layer: FirstLayer, public: Images, ridge: float, neighbours: int
) -> tuple[Float[Array, "outputs some"], Float32[np.ndarray, "numbers pixels"]]:
    """The leading components of the outputs, and the map from `_context` to pixels of a cell: ridge regression on clean images.

    ridge: of the mean square of the numbers that pixels are predicted from; what a wide spread of singular values needs, as an exact
    inverse would bring the noise back. neighbours: components of each cell around.
    """
    gram = sum(np.asarray(_gram(layer, image), np.float64) for image in public)
    leading = jnp.asarray(np.linalg.eigh(gram)[1][:, ::-1][:, :neighbours], jnp.float32)
    total = sum(np.asarray(_products(layer, leading, image), np.float64) for image in public)
    size = len(total)
    load = np.full(size, ridge * np.trace(total[1:, 1:size]) / (size - 1))
    load[0] = 0
    return leading, np.linalg.solve(total[:, :size] + np.diag(load), total[:, size:]).astype(np.float32)


@jax.jit
def _seen(layer: FirstLayer, leading, matrix, images):
    def one(image):
        cells = jnp.matmul(_context(layer, leading, image), matrix, precision=HIGHEST)
        whole, inside = (fold(part, _cell(layer), image.shape) for part in (cells, jnp.ones_like(cells)))
        return jnp.where(inside > 0, whole, image)

    return jax.lax.map(one, images)


def stitching(reader: Model, knowledge: Knowledge, ridge: float = 1e-5, neighbours: int = 32) -> Model:
    """The reader behind the authorized first layer and one linear map (model stitching, Bansal et al. 2021, arXiv 2106.07682).

    The map is learned in closed form, on public images, from outputs of the layer at 3x3 places to the pixels between one output and
    the next. Regression is linear in what it predicts, so that the reader's own first layer of these pixels is the regression of its
    outputs, whatever its windows.
    Raises UserError without the layer or public images, and for a layer whose outputs are not one for each cell of pixels.
    """
    layer, public = (
        given(knowledge.layer, "the authorized model's first layer"),
        given(knowledge.public, "public images"),
    )
    shape = public.shape[1:]
    outputs = jax.eval_shape(layer.apply, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    if outputs[:2] != grid(shape, _cell(layer)):
        raise UserError(
            f"stitching needs an output of the first layer for each cell of pixels; {layer} has {outputs[:2]}"
        )
    seen = functools.partial(_seen, layer, *stitch(layer, public, ridge, neighbours))
    return before(lambda images: in_chunks(seen, np.asarray(images)), reader, shape)


# Inversion.


def _variation(image: Image) -> Float[Array, ""]:
    """Mean length of the differences to the pixel below and the pixel at the right, rounded off at one grey level."""
    down, right = jnp.diff(image, axis=0)[:, :-1], jnp.diff(image, axis=1)[:-1]
    return jnp.mean(jnp.sqrt(down**2 + right**2 + 1 / 255**2))


def _features(static, fixed, images: Float[Array, "n height width channels"]) -> Float[Array, "n ..."]:
    (depth, graphdef), (state, layer) = static, fixed[:2]
    if depth == "first":
        return jax.vmap(functools.partial(_responses, layer))(images)
    module = nnx.merge(graphdef, state)
    hidden = module.encode((images - layer.mean) / layer.std)
    return hidden if depth == "hidden" else module.pool(hidden)


def _waves(
    shape: tuple[int, ...],
) -> tuple[Float[Array, "height height"], Float[Array, "width width"], Float[Array, "height width 1"]]:
    """Orthonormal cosine transforms of columns and of rows, and the usual size of their coefficients in photographs: 1 / frequency."""
    rows, columns = (scipy.fft.dct(np.eye(length), axis=0, norm="ortho") for length in shape[:2])
    frequency = np.hypot(*np.meshgrid(*(np.arange(length) / length for length in shape[:2]), indexing="ij"))
    size = 1 / (frequency + 1 / max(shape[:2]))
    return tuple(jnp.asarray(values, jnp.float32) for values in (rows, columns, size[:, :, None]))


def _drawn(coefficients: Float[Array, "n height width channels"], waves) -> Float[Array, "n height width channels"]:
    rows, columns, size = waves
    return jnp.einsum("fh,nfgc,gw->nhwc", rows, coefficients * size, columns, precision=HIGHEST)


def _transformed(images: Float[Array, "n height width channels"], waves) -> Float[Array, "n height width channels"]:
    rows, columns, size = waves
    return jnp.einsum("fh,nhwc,gw->nfgc", rows, images, columns, precision=HIGHEST) / size


def _coefficient_loss(static, coefficients, fixed, target):
    return inversion_loss(static, _drawn(coefficients, fixed[3]), fixed, target)


def inversion_loss(static, images, fixed, target: Float[Array, "n ..."]) -> Float[Array, ""]:
    """Sum over images of the relative squared error of the features, and of the prior."""
    axes = tuple(range(1, target.ndim))
    error = jnp.sum((_features(static, fixed, images) - target) ** 2, axis=axes) / jnp.sum(target**2, axis=axes)
    return jnp.sum(error) + fixed[2] * jnp.sum(jax.vmap(_variation)(images))


def inversion(
    stored: Images,
    knowledge: Knowledge,
    depth: Layer = "first",
    start: Literal["stored", "grey"] = "grey",
    steps: int = 60,
    rate: float = 0.05,
    smoothness: float = 0.3,
) -> Images:
    """Images with the features that the authorized model has of the stored ones (Mahendran and Vedaldi 2015, arXiv 1412.0035): Adam on
    the relative squared error, and `smoothness` times the total variation.

    Steps are of cosine coefficients divided by their usual size, so that coarse features come first and noise that the features do
    not show stays away.

    depth: "first" layer, the last "hidden" state, or the final "features". One step costs a gradient of the model up to there.
    Raises UserError without the model, for images of another size than its own, and for features without gradients.
    """
    model = given(knowledge.model, "the authorized model")
    if model.graphdef is None and depth != "first":
        raise UserError(f"{model.name} is no Flax network, so its features have no gradients; depth first needs none")
    if stored.shape[1:] != model.preprocess.image_shape:
        raise UserError(f"inversion needs images of the authorized model's own size {model.preprocess.image_shape}")
    static, waves = (depth, model.graphdef), _waves(stored.shape[1:])
    fixed = (model.state, model.first_layer, jnp.float32(smoothness), waves)
    features = jax.jit(functools.partial(_features, static))

    def inverted(images):
        target = features(fixed, jnp.asarray(images))
        first = _transformed(jnp.asarray(images) if start == "stored" else jnp.full(images.shape, 0.5), waves)
        found = descend(_coefficient_loss, static, first, fixed, itertools.repeat(target), steps, rate)
        return _drawn(found, waves)

    return np.clip(in_chunks(inverted, stored, _AT_ONCE), 0, 1)


_DEEP = tuple(
    {"depth": depth, "steps": 300, "rate": 0.02, "start": start}
    for depth in ("hidden", "features")
    for start in ("stored", "grey")
)
ATTACKS = (
    Attack(
        "stitching", 4, "Stitching", "reader", stitching, frozenset({"layer", "public"}),
        tuple({"ridge": ridge} for ridge in (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)), ({"ridge": 1e-5},),
        "Bansal et al. 2021, arXiv 2106.07682",
    ),
    Attack(
        "inversion", 4, "Feature inversion", "images", inversion, frozenset({"model"}),
        (*({"steps": 300, "rate": 0.1, "smoothness": weight} for weight in (0.03, 0.1, 0.3, 1.0)), *_DEEP), ({"steps": 30, "rate": 0.07},),
        "Mahendran and Vedaldi 2015, arXiv 1412.0035",
    ),
)  # fmt: skip
