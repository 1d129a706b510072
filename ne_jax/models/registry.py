"""Models by name: what a family's file holds, made into pure functions of pixels."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from ne_jax import checkpoints
from ne_jax.errors import UserError
from ne_jax.first_layer import FirstLayer
from ne_jax.models import resnet, vit
from ne_jax.pixels import to_float
from ne_jax.preprocess import Preprocess

ASSETS = pathlib.Path(__file__).parent.parent / "assets" / "checkpoints"


class Family(NamedTuple):
    """What each file of `models/` has: the module, its variants, its key table, and which convolution comes first."""

    build: Callable[..., nnx.Module]
    variants: Mapping[str, Any]
    keys: Callable[[Any], dict[str, checkpoints.Source]]
    stem: str


FAMILIES = (
    Family(vit.ViT, vit.VARIANTS, vit.timm_keys, "patch_embed"),
    Family(resnet.ResNet, resnet.VARIANTS, resnet.torchvision_keys, "conv1"),
)

_FASHION = Preprocess(112, mean=(0.2860,), std=(0.3530,))  # of the training images
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "resize": "shorter", "resize_to": 256}
PREPROCESS = {
    "vit_fashion": _FASHION,
    "resnet_fashion": _FASHION,
    "vit_b16": Preprocess(
        224, mean=(0.5,) * 3, std=(0.5,) * 3, resize="shorter", resize_to=248, interpolation="bicubic"
    ),
    "resnet50": Preprocess(224, **_IMAGENET),
}

# Checkpoints that this package ships: name -> architecture. `scripts/train_samples.py` trained them.
SAMPLES = {
    "vit_a": "vit_fashion",
    "vit_b": "vit_fashion",
    "vit_a_tuned": "vit_fashion",
    "resnet_a": "resnet_fashion",
    "resnet_b": "resnet_fashion",
}


@dataclasses.dataclass(frozen=True)
class Model:
    """A network with its weights, as functions of pixels at its own input size.

    preprocess: how an image of any size becomes those pixels. first_layer: the first convolution, of pixel changes.
    sha256: of the checkpoint file. num_classes: length of the logits.
    """

    name: str
    architecture: str
    preprocess: Preprocess
    first_layer: FirstLayer
    sha256: str
    num_classes: int
    graphdef: nnx.GraphDef
    state: Any

    def apply(self, pixels: Shaped[Array | np.ndarray, "n height width channels"]) -> Float[Array, "n classes"]:
        """Logits. `pixels`: uint8, or float in pixel units (1 = full range); a float NE may leave [0, 1]."""
        return self._call(pixels)[0]

    def features(self, pixels: Shaped[Array | np.ndarray, "n height width channels"]) -> Float[Array, "n features"]:
        """What the classification head reads."""
        return self._call(pixels)[1]

    def _call(self, pixels):
        if tuple(pixels.shape[1:]) != self.preprocess.image_shape:
            raise UserError(f"{self.name} takes images {self.preprocess.image_shape}, not {tuple(pixels.shape[1:])}")
        mean, std = self.first_layer.mean, self.first_layer.std
        return _forward(self.graphdef, self.state, mean, std, to_float(pixels, "pixels"))


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef, state, mean, std, pixels):
    module = nnx.merge(graphdef, state)
    features = module.features((pixels - mean) / std)
    return module.classify(features), features


def names() -> list[str]:
    """Every name that `load_model` knows."""
    return [*SAMPLES, *(variant for family in FAMILIES for variant in family.variants)]


def find(architecture: str) -> tuple[Family, Any, Preprocess]:
    """Family, sizes and preprocessing of a published or shipped variant. Raises UserError for an unknown name."""
    for family in FAMILIES:
        if architecture in family.variants:
            return family, family.variants[architecture], PREPROCESS[architecture]
    near = difflib.get_close_matches(architecture, names(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names())}"
    raise UserError(f'model "{architecture}" is unknown; {hint}')


def load_model(name: str, checkpoint: str | os.PathLike | None = None, *, label: str | None = None) -> Model:
    """The model `name` with the weights of `checkpoint`, a safetensors file in timm's (ViT) or torchvision's (ResNet) names.

    name: a shipped sample ("vit_a", which brings its own checkpoint) or an architecture ("vit_b16", "resnet50").
    label: what the model is called in tables; `name` unless given.
    Raises UserError for an unknown name, no checkpoint, or a checkpoint that does not fit: every fault is named.
    """
    architecture = SAMPLES.get(name, name)
    family, config, preprocess = find(architecture)
    if checkpoint is None:
        if name not in SAMPLES:
            raise UserError(f"model {name} needs a checkpoint: a safetensors file in the published names")
        checkpoint = ASSETS / f"{name}.safetensors"

    abstract = nnx.eval_shape(lambda: family.build(config, rngs=nnx.Rngs(0)))
    abstract.eval()
    graphdef, empty = nnx.split(abstract)
    tensors = checkpoints.read_tensors(checkpoint)
    state = checkpoints.port(empty, family.keys(config), tensors, f"checkpoint {checkpoint} for {architecture}")
    stem = getattr(nnx.merge(graphdef, state), family.stem)
    padding = stem.padding if isinstance(stem.padding, str) else tuple(stem.padding)
    layer = FirstLayer(stem.kernel[...], stem.strides, padding, preprocess.mean, preprocess.std)
    return Model(
        label or name,
        architecture,
        preprocess,
        layer,
        checkpoints.sha256(checkpoint),
        config.num_classes,
        graphdef,
        state,
    )
