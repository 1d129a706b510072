"""A network cut at several depths, from the first layer to the last block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from ne_jax.errors import UserError
from ne_jax.models.model import Model


def outputs_by_depth(model: Model) -> Callable[[Float[Array, "height width channels"]], tuple[Any, ...]]:
    """A function from one image in pixel units to what the first layer, and then every block (ConvNeXt: stage), makes of it.

    Raises UserError for a network that is no Flax network: its inner layers cannot be read.
    """
    if model.graphdef is None:
        raise UserError(f"{model.name} is no Flax network: its inner layers cannot be read or differentiated")
    mean, std = model.first_layer.mean, model.first_layer.std

    def outputs(image: Float[Array, "height width channels"]) -> tuple[Any, ...]:
        seen: list[Any] = []

        def noted(unit: Callable) -> Callable:
            return lambda x: seen.append(unit(x)) or seen[-1]

        def each(units) -> tuple[Any, ...]:
            return tuple(noted(unit) if callable(unit) else each(unit) for unit in units)

        module = nnx.merge(model.graphdef, model.state)
        parts = "blocks" if hasattr(module, "blocks") else "stages"
        units, module.stem = each(getattr(module, parts)), noted(module.stem)
        setattr(module, parts, units)
        module.encode(((image - mean) / std)[None])
        return tuple(output[0] for output in seen)

    return outputs
