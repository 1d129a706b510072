"""A network with its weights, as functions of pixels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from ne_jax.core.first_layer import FirstLayer
from ne_jax.core.pixels import to_float
from ne_jax.data.preprocess import Preprocess
from ne_jax.errors import UserError


class Outputs(NamedTuple):
    """What a model says of a batch. logits: None for a network without a head."""

    logits: Float[Array | np.ndarray, "n classes"] | None
    features: Float[Array | np.ndarray, "n features"]


@dataclasses.dataclass(frozen=True)
class Model:
    """A network with its weights, as functions of pixels at its own input size.

    name: what it is called in tables. architecture: the variant's name.
    preprocess: how an image of any size becomes those pixels. first_layer: the first convolution, of pixel changes.
    digest: gives the hash of the source of the weights, `sha256`. num_classes: length of the logits; 0 for a network without a head.
    forward: float pixels -> Outputs. publisher: whose tensor names the checkpoint has.
    graphdef, state: the Flax module in two; None for networks of other frameworks.
    notes: what loading had to say, a line each.
    """

    name: str
    architecture: str
    preprocess: Preprocess
    first_layer: FirstLayer
    digest: Callable[[], str]
    num_classes: int
    forward: Callable[[Float[Array, "n height width channels"]], Outputs]
    publisher: str = ""
    graphdef: nnx.GraphDef | None = None
    state: Any = None
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """SHA-256 of the source of the weights. Raises UserError if the file was changed after it was loaded."""
        return self.digest()

    def __call__(self, pixels: Shaped[Array | np.ndarray, "n height width channels"]) -> Outputs:
        """Logits and features. `pixels`: uint8, or float in pixel units (1 = full range); a float NE may leave [0, 1]."""
        return self.forward(self._checked(pixels))

    def apply(self, pixels: Shaped[Array | np.ndarray, "n height width channels"]) -> Float[Array, "n classes"]:
        """Logits. Raises UserError for a network without a head."""
        if not self.num_classes:
            raise UserError(
                f"{self.name} has no head, so it gives no logits; use features, or a checkpoint with a head"
            )
        return self(pixels).logits

    def features(self, pixels: Shaped[Array | np.ndarray, "n height width channels"]) -> Float[Array, "n features"]:
        """The image in one vector: the class token (ViT, DeiT, DINOv2), else what the classification head reads."""
        return self(pixels).features

    def hidden(self, pixels: Shaped[Array | np.ndarray, "n height width channels"]) -> Float[Array, "n ..."]:
        """The last hidden state of a Flax network: every token after the last norm, or the last map."""
        if self.graphdef is None:
            raise UserError(f"{self.name} is no Flax network: its hidden states cannot be read")
        layer = self.first_layer
        return _encode(self.graphdef, self.state, layer.mean, layer.std, self._checked(pixels))

    def _checked(self, pixels):
        if tuple(pixels.shape[1:]) != self.preprocess.image_shape:
            raise UserError(f"{self.name} takes images {self.preprocess.image_shape}, not {tuple(pixels.shape[1:])}")
        return to_float(pixels, "pixels")


def flax_forward(graphdef: nnx.GraphDef, state: Any, layer: FirstLayer) -> Callable[[Any], Outputs]:
    """`Model.forward` of a Flax module that has `encode`, `pool` and `classify`."""
    return functools.partial(_forward, graphdef, state, layer.mean, layer.std)


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef, state, mean, std, pixels) -> Outputs:
    module = nnx.merge(graphdef, state)
    hidden = module.encode((pixels - mean) / std)
    return Outputs(None if module.head is None else module.classify(hidden), module.pool(hidden))


@functools.partial(jax.jit, static_argnums=0)
def _encode(graphdef, state, mean, std, pixels):
    return nnx.merge(graphdef, state).encode((pixels - mean) / std)
