"""Families and their variants by name."""

from __future__ import annotations

import difflib
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from ne_jax.data.preprocess import Preprocess
from ne_jax.errors import UserError
from ne_jax.models.families import convnext, dinov2, efficientnet_lite, resnet, vit, vit_formats
from ne_jax.models.porting.checkpoints import Format

ASSETS = pathlib.Path(__file__).parent.parent / "assets" / "checkpoints"


class _OneKey(nnx.Rngs):
    """The same key for every leaf: for modules that are made only for their shapes, in a third of the time."""

    def __init__(self):
        pass

    def params(self) -> jax.Array:
        """The key."""
        return jax.random.key(0)


class Family(NamedTuple):
    """What each family has: the module, its variants, and how publishers store it (the first: how we export it)."""

    build: Callable[..., nnx.Module]
    variants: Mapping[str, Any]
    formats: Mapping[str, Format]

    def abstract(self, config: Any) -> tuple[nnx.GraphDef, nnx.State]:
        """The module without numbers, in eval mode, in two; the same ones each time, so change none of their leaves."""
        return _abstract(self.build, config)


@functools.cache  # a deep network takes a second, and an error's hint asks for all of them
def _abstract(build: Callable[..., nnx.Module], config: Any) -> tuple[nnx.GraphDef, nnx.State]:
    module = nnx.eval_shape(lambda: build(config, rngs=_OneKey()))
    module.eval()
    return nnx.split(module)


FAMILIES = (
    Family(resnet.ResNet, resnet.VARIANTS, resnet.FORMATS),
    Family(vit.ViT, vit.VARIANTS, vit_formats.FORMATS),
    Family(vit.ViT, dinov2.VARIANTS, dinov2.FORMATS),
    Family(convnext.ConvNeXt, convnext.VARIANTS, convnext.FORMATS),
    Family(efficientnet_lite.EfficientNetLite, efficientnet_lite.VARIANTS, efficientnet_lite.FORMATS),
)

# Checkpoints that this package ships: name -> architecture. `scripts/train_samples.py` trained them.
SAMPLES = {
    "vit_a": "vit_fashion",
    "vit_b": "vit_fashion",
    "vit_a_tuned": "vit_fashion",
    "resnet_a": "resnet_fashion",
    "resnet_b": "resnet_fashion",
    "convnext_a": "convnext_fashion",
}
FASHION = Preprocess(112, mean=(0.2860,), std=(0.3530,))  # of the training images


def names() -> list[str]:
    """Every name that `load_model` knows."""
    return [*SAMPLES, *(variant for family in FAMILIES for variant in family.variants)]


def find(architecture: str) -> tuple[Family, Any]:
    """Family and sizes of a published or shipped variant. Raises UserError for an unknown name."""
    for family in FAMILIES:
        if architecture in family.variants:
            return family, family.variants[architecture]
    near = difflib.get_close_matches(architecture, names(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names())}, onnx: or torch:"
    raise UserError(f'model "{architecture}" is unknown; {hint}')
