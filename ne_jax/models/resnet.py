"""ResNet v1.5 (He et al., arXiv 1512.03385; stride in the 3x3 convolution of a bottleneck, as torchvision has it).

The first layer is `conv1`: 7x7 with stride 2, so its windows overlap.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ne_jax.checkpoints import CONV, LINEAR, Source

_HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
_EXPANSION = {"basic": 1, "bottleneck": 4}


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a ResNet: blocks per stage, kind of block, channels of the stem (doubled at each later stage)."""

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
    """Images, normalised, to logits. `features` are the averaged outputs of the last stage."""

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        self.conv1 = _conv(config.channels, config.width, 7, 2, rngs=rngs, precision=jax.lax.Precision.HIGHEST)
        self.bn1 = _norm(config.width, rngs=rngs)
        stages, inputs = [], config.width
        for stage, size in enumerate(config.stage_sizes):
            width, blocks = config.width * 2**stage, []
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(config.block, inputs, width, stride, rngs=rngs))
                inputs = width * _EXPANSION[config.block]
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.fc = nnx.Linear(inputs, config.num_classes, rngs=rngs)

    def features(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch features"]:
        """Normalised images to what the head reads."""
        x = jax.nn.relu(self.bn1(self.conv1(images)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return jnp.mean(x, axis=(1, 2))

    def classify(self, features: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
        """Features to logits."""
        return self.fc(features)

    def __call__(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        """Normalised images to logits."""
        return self.classify(self.features(images))


VARIANTS = {
    "resnet50": ResNetConfig(224, (3, 4, 6, 3), "bottleneck", 1000),
    "resnet_fashion": ResNetConfig(112, (1, 1, 1, 1), "basic", 10, width=16, channels=1),
}


def _norm_keys(ours: str, theirs: str) -> dict[str, Source]:
    pairs = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return {f"{ours}.{leaf}": Source(f"{theirs}.{name}") for leaf, name in pairs.items()}


def torchvision_keys(config: ResNetConfig) -> dict[str, Source]:
    """Where torchvision keeps each leaf: path in this module -> tensor in the file."""
    keys = {
        "conv1.kernel": Source("conv1.weight", CONV),
        **_norm_keys("bn1", "bn1"),
        "fc.kernel": Source("fc.weight", LINEAR),
        "fc.bias": Source("fc.bias"),
    }
    inputs, convs = config.width, {"basic": 2, "bottleneck": 3}[config.block]
    for stage, size in enumerate(config.stage_sizes):
        outputs = config.width * 2**stage * _EXPANSION[config.block]
        for index in range(size):
            ours, theirs = f"stages.{stage}.{index}", f"layer{stage + 1}.{index}"
            for conv in range(convs):
                keys[f"{ours}.convs.{conv}.kernel"] = Source(f"{theirs}.conv{conv + 1}.weight", CONV)
                keys |= _norm_keys(f"{ours}.norms.{conv}", f"{theirs}.bn{conv + 1}")
            if index == 0 and (stage > 0 or inputs != outputs):
                keys[f"{ours}.downsample.conv.kernel"] = Source(f"{theirs}.downsample.0.weight", CONV)
                keys |= _norm_keys(f"{ours}.downsample.norm", f"{theirs}.downsample.1")
        inputs = outputs
    return keys
