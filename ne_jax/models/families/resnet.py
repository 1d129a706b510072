"""ResNet v1.5 (He et al., arXiv 1512.03385; stride in the 3x3 convolution of a bottleneck, as torchvision has it).

The first layer is `stem`: 7x7 with stride 2, so its windows overlap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ne_jax.data.preprocess import Preprocess
from ne_jax.models.families.published import IMAGENET, torchvision_eval
from ne_jax.models.porting.checkpoints import CONV, LINEAR, Format, Source

_HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
_EXPANSION = {"basic": 1, "bottleneck": 4}


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a ResNet: blocks per stage, kind of block, channels of the stem (doubled at each later stage).

    num_classes: 0 for no head.
    """

    image_size: int
    stage_sizes: tuple[int, ...]
    block: Literal["basic", "bottleneck"]
    num_classes: int
    width: int = 64
    channels: int = 3


def _conv(inputs: int, outputs: int, kernel: int, stride: int, *, rngs: nnx.Rngs, **kwargs) -> nnx.Conv:
    """A convolution without bias, padded by half its kernel on every side, as PyTorch pads."""
    pad = kernel // 2
    return nnx.Conv(
        inputs, outputs, (kernel, kernel), (stride, stride), padding=((pad, pad), (pad, pad)), use_bias=False,
        kernel_init=_HE, rngs=rngs, **kwargs,
    )  # fmt: skip


def _norm(channels: int, *, rngs: nnx.Rngs, zero_scale: bool = False) -> nnx.BatchNorm:
    scale_init = nnx.initializers.zeros if zero_scale else nnx.initializers.ones
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, scale_init=scale_init, rngs=rngs)


class Downsample(nnx.Module):
    """The shortcut of a block that changes size: 1x1 convolution and norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.conv = _conv(inputs, outputs, 1, stride, rngs=rngs)
        self.norm = _norm(outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w inputs"]) -> Float[Array, "batch h2 w2 outputs"]:
        """Normalised projection of `x`."""
        return self.norm(self.conv(x))


class Block(nnx.Module):
    """Residual block. basic: 3x3, 3x3. bottleneck: 1x1, 3x3 (with the stride), 1x1 to four times the width."""

    def __init__(self, kind: str, inputs: int, width: int, stride: int, *, rngs: nnx.Rngs):
        outputs = width * _EXPANSION[kind]
        shapes = {
            "basic": ((inputs, width, 3, stride), (width, width, 3, 1)),
            "bottleneck": ((inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)),
        }[kind]
        self.convs = nnx.List([_conv(*shape, rngs=rngs) for shape in shapes])
        last = len(shapes) - 1
        self.norms = nnx.List([_norm(shape[1], rngs=rngs, zero_scale=i == last) for i, shape in enumerate(shapes)])
        same = stride == 1 and inputs == outputs
        self.downsample = None if same else Downsample(inputs, outputs, stride, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w inputs"]) -> Float[Array, "batch h2 w2 outputs"]:
        """Convolutions and shortcut, added and rectified."""
        shortcut = x if self.downsample is None else self.downsample(x)
        for conv, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
            x = jax.nn.relu(norm(conv(x)))
        return jax.nn.relu(self.norms[-1](self.convs[-1](x)) + shortcut)


class ResNet(nnx.Module):
    """Images, normalised, to logits."""

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        self.stem = _conv(config.channels, config.width, 7, 2, rngs=rngs, precision=jax.lax.Precision.HIGHEST)
        self.stem_norm = _norm(config.width, rngs=rngs)
        stages, inputs = [], config.width
        for stage, size in enumerate(config.stage_sizes):
            width, blocks = config.width * 2**stage, []
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(config.block, inputs, width, stride, rngs=rngs))
                inputs = width * _EXPANSION[config.block]
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.head = nnx.Linear(inputs, config.num_classes, rngs=rngs) if config.num_classes else None

    def encode(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns features"]:
        """Normalised images to the last stage's map."""
        x = jax.nn.relu(self.stem_norm(self.stem(images)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return x

    def pool(self, hidden: Float[Array, "batch rows columns features"]) -> Float[Array, "batch features"]:
        """The mean over space, which the head reads."""
        return jnp.mean(hidden, axis=(1, 2))

    def classify(self, hidden: Float[Array, "batch rows columns features"]) -> Float[Array, "batch classes"]:
        """The last map to logits."""
        return self.head(self.pool(hidden))

    def __call__(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        """Normalised images to logits."""
        return self.classify(self.encode(images))


VARIANTS = {
    "resnet18": ResNetConfig(224, (2, 2, 2, 2), "basic", 1000),
    "resnet34": ResNetConfig(224, (3, 4, 6, 3), "basic", 1000),
    "resnet50": ResNetConfig(224, (3, 4, 6, 3), "bottleneck", 1000),
    "resnet101": ResNetConfig(224, (3, 4, 23, 3), "bottleneck", 1000),
    "resnet152": ResNetConfig(224, (3, 8, 36, 3), "bottleneck", 1000),
    "resnet_fashion": ResNetConfig(112, (1, 1, 1, 1), "basic", 10, width=16, channels=1),
}


def _norm_keys(ours: str, theirs: str) -> dict[str, Source]:
    pairs = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return {f"{ours}.{leaf}": Source(f"{theirs}.{name}") for leaf, name in pairs.items()}


class _Names(NamedTuple):
    """Pairs (convolution, norm) of tensor name beginnings; stage, block and convolution count from 0."""

    stem: tuple[str, str]
    conv: Callable[[int, int, int], tuple[str, str]]
    shortcut: Callable[[int, int], tuple[str, str]]
    head: str


def _keys(config: ResNetConfig, names: _Names) -> dict[str, Source]:
    def pair(ours: tuple[str, str], theirs: tuple[str, str]) -> dict[str, Source]:
        return {f"{ours[0]}.kernel": Source(f"{theirs[0]}.weight", CONV), **_norm_keys(ours[1], theirs[1])}

    keys = pair(("stem", "stem_norm"), names.stem)
    if config.num_classes:
        keys |= {"head.kernel": Source(f"{names.head}.weight", LINEAR), "head.bias": Source(f"{names.head}.bias")}
    inputs, convs = config.width, {"basic": 2, "bottleneck": 3}[config.block]
    for stage, size in enumerate(config.stage_sizes):
        outputs = config.width * 2**stage * _EXPANSION[config.block]
        for index in range(size):
            ours = f"stages.{stage}.{index}"
            for conv in range(convs):
                keys |= pair((f"{ours}.convs.{conv}", f"{ours}.norms.{conv}"), names.conv(stage, index, conv))
            if index == 0 and (stage > 0 or inputs != outputs):
                keys |= pair((f"{ours}.downsample.conv", f"{ours}.downsample.norm"), names.shortcut(stage, index))
        inputs = outputs
    return keys


def torchvision_keys(config: ResNetConfig) -> dict[str, Source]:
    """Where torchvision, and timm, keep each leaf: path in this module -> tensor in the file."""

    def conv(stage: int, index: int, place: int) -> tuple[str, str]:
        block = f"layer{stage + 1}.{index}"
        return f"{block}.conv{place + 1}", f"{block}.bn{place + 1}"

    def shortcut(stage: int, index: int) -> tuple[str, str]:
        block = f"layer{stage + 1}.{index}.downsample"
        return f"{block}.0", f"{block}.1"

    return _keys(config, _Names(("conv1", "bn1"), conv, shortcut, "fc"))


def hugging_face_keys(config: ResNetConfig) -> dict[str, Source]:
    """Where transformers keeps each leaf (ResNetForImageClassification)."""

    def parts(place: str) -> tuple[str, str]:
        return f"{place}.convolution", f"{place}.normalization"

    def conv(stage: int, index: int, place: int) -> tuple[str, str]:
        return parts(f"encoder.stages.{stage}.layers.{index}.layer.{place}")

    def shortcut(stage: int, index: int) -> tuple[str, str]:
        return parts(f"encoder.stages.{stage}.layers.{index}.shortcut")

    return _keys(config, _Names(parts("embedder.embedder"), conv, shortcut, "classifier.1"))


def _hugging_face_eval(config: ResNetConfig) -> Preprocess:
    side = int(config.image_size / 0.875)
    return Preprocess(config.image_size, **IMAGENET, resize="shorter", resize_to=side, interpolation="bicubic")


FORMATS = {
    "torchvision": Format(torchvision_keys, lambda config: torchvision_eval(config.image_size, 256)),
    "hugging_face": Format(hugging_face_keys, _hugging_face_eval, ("resnet.",)),
}
