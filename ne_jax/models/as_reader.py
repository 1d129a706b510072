"""A reader as a differentiable function of another model's pixels: its own preprocessing as two matrices, then its network."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32

from ne_jax.data.preprocess import Preprocess, adapt
from ne_jax.errors import UserError
from ne_jax.models.model import Model, Outputs


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["state", "mean", "std", "rows", "columns", "mix"],
    meta_fields=["graphdef"],
)
@dataclasses.dataclass(frozen=True)
class Reading:
    """A Flax model that reads images of a given shape, as a pytree: arrays inside, the network's structure static.

    rows, columns: what the model's resize and crop do to columns and to rows of an image. mix: its channels from the image's.
    mean, std: of the model.
    """

    state: Any
    mean: Float[Array, " channels"]
    std: Float[Array, " channels"]
    rows: Float32[Array, "size height"]
    columns: Float32[Array, "size width"]
    mix: Float32[Array, "image_channels channels"]
    graphdef: nnx.GraphDef

    def __call__(
        self,
        image: Float[Array, "height width image_channels"],
        warp: tuple[Float[Array, "height height"], Float[Array, "width width"]] | None = None,
    ) -> Outputs:
        """Logits and features of one image in pixel units, first moved by `warp`, matrices for its columns and its rows."""
        rows, columns = self.rows, self.columns
        if warp is not None:
            rows, columns = rows @ warp[0], columns @ warp[1]
        seen = jnp.einsum("sh,hwc,tw,cd->std", rows, image, columns, self.mix, optimize=((0, 1), (0, 2), (0, 1)))
        module = nnx.merge(self.graphdef, self.state)
        hidden = module.encode(((seen - self.mean) / self.std)[None])
        return Outputs(None if module.head is None else module.classify(hidden)[0], module.pool(hidden)[0])


def reading(model: Model, image_shape: tuple[int, int, int]) -> Reading:
    """The model as a reader of images of `image_shape`, as `adapt` would hand them to it.

    A border that the model's rule adds is black here.
    Raises UserError for a network that JAX cannot differentiate (`onnx:`, `torch:`).
    """
    if model.graphdef is None:
        raise UserError(f"{model.name} is no Flax network, so it has no gradients; choose surrogates that are")
    height, width, channels = image_shape
    spec = model.preprocess
    layer = model.first_layer
    rows, columns = _lines(spec, (height, width, channels)), _lines(spec, (width, height, channels))
    mix = _mix(channels, spec.channels)
    return Reading(model.state, layer.mean, layer.std, rows, columns, mix, model.graphdef)


def _lines(spec: Preprocess, shape: tuple[int, int, int]) -> Float32[Array, "size length"]:
    """The resize and crop of the first axis, read off from what `adapt` makes of images that vary along it alone."""
    zeros = dataclasses.replace(spec, mean=(0.0,) * spec.channels)  # a border adds nothing
    lines = np.broadcast_to(np.eye(shape[0], dtype=np.float32)[:, :, None, None], (shape[0], *shape))
    return jnp.asarray(adapt(lines, zeros)[:, :, spec.size // 2, 0].T)


def _mix(channels: int, wanted: int) -> Float32[Array, "channels wanted"]:
    one = Preprocess(1, mean=(0.0,) * wanted, std=(1.0,) * wanted)
    return jnp.asarray(adapt(np.eye(channels, dtype=np.float32)[:, None, None], one)[:, 0, 0])
