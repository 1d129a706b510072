"""ConvNeXt (Liu et al., arXiv 2201.03545), the first version, as published for ImageNet-1k at 224 pixels.

The first layer is `stem`: a convolution whose stride is its kernel size, so its windows are patches that do not overlap.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ne_jax.data.preprocess import Preprocess
from ne_jax.models.families.depthwise_conv import depthwise
from ne_jax.models.families.published import IMAGENET, timm_eval, torchvision_eval
from ne_jax.models.porting.checkpoints import CONV, LINEAR, Format, Source

_INIT = nnx.initializers.truncated_normal(0.02)
_EPSILON = 1e-6  # of every norm but the last, with every publisher


@dataclasses.dataclass(frozen=True)
class ConvNeXtConfig:
    """Sizes of a ConvNeXt: blocks and channels of each stage; num_classes 0 is a network without head.

    epsilon: of the last norm, the one before the head.
    """

    image_size: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    num_classes: int
    channels: int = 3
    patch_size: int = 4
    epsilon: float = 1e-6


def _patches(inputs: int, outputs: int, size: int, *, rngs: nnx.Rngs, **kwargs) -> nnx.Conv:
    """A convolution of patches that do not overlap."""
    side = (size, size)
    return nnx.Conv(inputs, outputs, side, side, padding="VALID", kernel_init=_INIT, rngs=rngs, **kwargs)


def _norm(width: int, epsilon: float = _EPSILON, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance, a difference of two large numbers, loses digits.
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


class Block(nnx.Module):
    """7x7 convolution of each channel alone, norm, two-layer MLP with the exact (erf) GELU, scaled and added."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        alone = {"feature_group_count": width, "conv_general_dilated": depthwise}
        self.dwconv = nnx.Conv(width, width, (7, 7), padding=((3, 3), (3, 3)), **alone, kernel_init=_INIT, rngs=rngs)
        self.norm = _norm(width, rngs=rngs)
        self.fc1 = nnx.Linear(width, 4 * width, kernel_init=_INIT, rngs=rngs)
        self.fc2 = nnx.Linear(4 * width, width, kernel_init=_INIT, rngs=rngs)
        self.gamma = nnx.Param(jnp.full((width,), 1e-6))

    def __call__(self, x: Float[Array, "batch h w width"]) -> Float[Array, "batch h w width"]:
        """`x` and the scaled branch."""
        hidden = jax.nn.gelu(self.fc1(self.norm(self.dwconv(x))), approximate=False)
        return x + self.gamma[...] * self.fc2(hidden)


class Downsample(nnx.Module):
    """Norm, then half the height and width."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.norm = _norm(inputs, rngs=rngs)
        self.conv = _patches(inputs, outputs, 2, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w inputs"]) -> Float[Array, "batch h2 w2 outputs"]:
        """Smaller feature map of more channels."""
        return self.conv(self.norm(x))


class Stage(nnx.Module):
    """Blocks of one size. Every stage but the first starts with a `downsample`."""

    def __init__(self, inputs: int, width: int, depth: int, *, rngs: nnx.Rngs):
        self.downsample = None if inputs == 0 else Downsample(inputs, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs=rngs) for _ in range(depth)])

    def __call__(self, x: Float[Array, "batch h w inputs"]) -> Float[Array, "batch h2 w2 width"]:
        """The stage's feature map."""
        x = x if self.downsample is None else self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class ConvNeXt(nnx.Module):
    """Images, normalised, to logits."""

    def __init__(self, config: ConvNeXtConfig, *, rngs: nnx.Rngs):
        first, last = config.widths[0], config.widths[-1]
        highest = jax.lax.Precision.HIGHEST
        self.stem = _patches(config.channels, first, config.patch_size, precision=highest, rngs=rngs)
        self.stem_norm = _norm(first, rngs=rngs)
        sizes = zip((0, *config.widths), config.widths, config.depths, strict=False)
        self.stages = nnx.List([Stage(*size, rngs=rngs) for size in sizes])
        self.norm = _norm(last, config.epsilon, rngs=rngs)
        self.head = nnx.Linear(last, config.num_classes, kernel_init=_INIT, rngs=rngs) if config.num_classes else None

    def encode(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w features"]:
        """Normalised images to the last stage's feature map."""
        x = self.stem_norm(self.stem(images))
        for stage in self.stages:
            x = stage(x)
        return x

    def pool(self, hidden: Float[Array, "batch h w features"]) -> Float[Array, "batch features"]:
        """Feature map to what the head reads: its mean over all places, normalised."""
        return self.norm(jnp.mean(hidden, axis=(1, 2)))

    def classify(self, hidden: Float[Array, "batch h w features"]) -> Float[Array, "batch classes"]:
        """Feature map to logits."""
        return self.head(self.pool(hidden))

    def __call__(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        """Normalised images to logits."""
        return self.classify(self.encode(images))


VARIANTS = {
    "convnext_t": ConvNeXtConfig(224, (3, 3, 9, 3), (96, 192, 384, 768), 1000),
    "convnext_s": ConvNeXtConfig(224, (3, 3, 27, 3), (96, 192, 384, 768), 1000),
    "convnext_b": ConvNeXtConfig(224, (3, 3, 27, 3), (128, 256, 512, 1024), 1000),
    "convnext_l": ConvNeXtConfig(224, (3, 3, 27, 3), (192, 384, 768, 1536), 1000),
    "convnext_fashion": ConvNeXtConfig(112, (1, 1, 1), (32, 64, 128), 10, channels=1, patch_size=8, epsilon=1e-12),
}


class _Names(NamedTuple):
    """What a publisher calls the layers. {stage} and {block} count from 0, {even} is 2 stage and {odd} 2 stage + 1."""

    stem: str
    stem_norm: str
    downsample: str  # of which 0 is the norm and 1 the convolution
    block: str
    dwconv: str
    block_norm: str
    fc1: str
    fc2: str
    gamma: str
    norm: str
    head: str


_HUGGING_FACE = _Names(
    "embeddings.patch_embeddings", "embeddings.layernorm",
    "encoder.stages.{stage}.downsampling_layer", "encoder.stages.{stage}.layers.{block}",
    "dwconv", "layernorm", "pwconv1", "pwconv2", "layer_scale_parameter", "layernorm", "classifier",
)  # fmt: skip
_TIMM = _Names(
    "stem.0", "stem.1", "stages.{stage}.downsample", "stages.{stage}.blocks.{block}",
    "conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma", "head.norm", "head.fc",
)  # fmt: skip
_TORCHVISION = _Names(
    "features.0.0", "features.0.1", "features.{even}", "features.{odd}.{block}",
    "block.0", "block.2", "block.3", "block.5", "layer_scale", "classifier.0", "classifier.2",
)  # fmt: skip
_FACEBOOK = _Names(
    "downsample_layers.0.0", "downsample_layers.0.1", "downsample_layers.{stage}", "stages.{stage}.{block}",
    "dwconv", "norm", "pwconv1", "pwconv2", "gamma", "norm", "head",
)  # fmt: skip


def _layer_keys(ours: str, theirs: str, permute: tuple[int, ...]) -> dict[str, Source]:
    return {f"{ours}.kernel": Source(f"{theirs}.weight", permute), f"{ours}.bias": Source(f"{theirs}.bias")}


def _norm_keys(ours: str, theirs: str) -> dict[str, Source]:
    return {f"{ours}.scale": Source(f"{theirs}.weight"), f"{ours}.bias": Source(f"{theirs}.bias")}


def _block_keys(names: _Names, ours: str, theirs: str, width: int) -> dict[str, Source]:
    scale_shape = (width, 1, 1) if names is _TORCHVISION else None
    return {
        **_layer_keys(f"{ours}.dwconv", f"{theirs}.{names.dwconv}", CONV),
        **_norm_keys(f"{ours}.norm", f"{theirs}.{names.block_norm}"),
        **_layer_keys(f"{ours}.fc1", f"{theirs}.{names.fc1}", LINEAR),
        **_layer_keys(f"{ours}.fc2", f"{theirs}.{names.fc2}", LINEAR),
        f"{ours}.gamma": Source(f"{theirs}.{names.gamma}", shape=scale_shape),
    }


def _keys(names: _Names, config: ConvNeXtConfig) -> dict[str, Source]:
    """Path of a leaf in this module -> tensor in a publisher's file."""
    keys = {
        **_layer_keys("stem", names.stem, CONV),
        **_norm_keys("stem_norm", names.stem_norm),
        **_norm_keys("norm", names.norm),
    }
    if config.num_classes:
        keys |= _layer_keys("head", names.head, LINEAR)
    for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        ours, place = f"stages.{stage}", {"stage": stage, "even": 2 * stage, "odd": 2 * stage + 1}
        if stage > 0:
            theirs = names.downsample.format(**place)
            keys |= _norm_keys(f"{ours}.downsample.norm", f"{theirs}.0")
            keys |= _layer_keys(f"{ours}.downsample.conv", f"{theirs}.1", CONV)
        for block in range(depth):
            keys |= _block_keys(names, f"{ours}.blocks.{block}", names.block.format(**place, block=block), width)
    return keys


def _hugging_face_eval(config: ConvNeXtConfig) -> Preprocess:
    """From 384 pixels on, ConvNeXt is shown the whole image."""
    size, rule = config.image_size, {"resize": "squash"}
    if size < 384:
        rule = {"resize": "shorter", "resize_to": int(size * 256 / 224)}
    return Preprocess(size, **IMAGENET, **rule, interpolation="bicubic")


def _facebook_eval(config: ConvNeXtConfig) -> Preprocess:
    """The rule that transformers took over, with torchvision's way to find the centre."""
    return dataclasses.replace(_hugging_face_eval(config), crop="round")


def _torchvision_eval(config: ConvNeXtConfig) -> Preprocess:
    """torchvision chose the resize of each variant for its accuracy at 224 pixels."""
    resize_to = {(96, 9): 236, (96, 27): 230}.get((config.widths[0], config.depths[2]), 232)
    return torchvision_eval(config.image_size, config.image_size * resize_to // 224)


def _with_small_epsilon(config: ConvNeXtConfig) -> ConvNeXtConfig:
    """transformers' configurations say so of the last norm, and only of that."""
    return dataclasses.replace(config, epsilon=1e-12)


FORMATS = {
    "hugging_face": Format(
        functools.partial(_keys, _HUGGING_FACE), _hugging_face_eval, ("convnext.",), sizes=_with_small_epsilon
    ),
    "timm": Format(functools.partial(_keys, _TIMM), lambda config: timm_eval(config.image_size, 0.875)),
    "torchvision": Format(functools.partial(_keys, _TORCHVISION), _torchvision_eval),
    "facebook": Format(functools.partial(_keys, _FACEBOOK), _facebook_eval),
}
