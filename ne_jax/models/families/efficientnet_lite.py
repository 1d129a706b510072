"""EfficientNet-Lite (Tan and Le, arXiv 1905.11946, in Google's form for phones): ReLU6, no squeeze-and-excite, a stem and a head of
the same width in every variant. TensorFlow's padding throughout, which adds the odd pixel right and below.

The first layer is `stem`: 3x3 with stride 2, so its windows overlap.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ne_jax.data.preprocess import Preprocess
from ne_jax.models.families.depthwise_conv import depthwise
from ne_jax.models.families.published import INCEPTION, timm_eval
from ne_jax.models.porting.checkpoints import CONV, LINEAR, Format, Source

_HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
_STEM, _TOP = 32, 1280  # channels, the same in every variant
# Of each stage before scaling: kernel, stride of the first block, expansion, channels, blocks.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


@dataclasses.dataclass(frozen=True)
class EfficientNetLiteConfig:
    """Sizes of an EfficientNet-Lite: factors on the channels and on the number of blocks; num_classes 0 is a network without head."""

    image_size: int
    width: float
    depth: float
    num_classes: int
    channels: int = 3
    epsilon: float = 1e-3


class _BlockSize(NamedTuple):
    inputs: int
    outputs: int
    kernel: int
    stride: int
    expansion: int


def _scaled(channels: int, factor: float) -> int:
    """The nearest multiple of 8, but not less than nine tenths."""
    scaled = channels * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def _block_sizes(config: EfficientNetLiteConfig) -> list[list[_BlockSize]]:
    """Blocks of each stage. The first stage and the last stay as deep as they are."""
    stages, inputs = [], _STEM
    for index, (kernel, stride, expansion, channels, repeats) in enumerate(_STAGES):
        outputs = _scaled(channels, config.width)
        fixed = index in (0, len(_STAGES) - 1)
        count = repeats if fixed else math.ceil(repeats * config.depth)
        first = _BlockSize(inputs, outputs, kernel, stride, expansion)
        stages.append([first, *[first._replace(inputs=outputs, stride=1)] * (count - 1)])
        inputs = outputs
    return stages


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, *, rngs: nnx.Rngs, **kwargs) -> nnx.Conv:
    sides, strides = (kernel, kernel), (stride, stride)
    return nnx.Conv(
        inputs, outputs, sides, strides, padding="SAME", use_bias=False, kernel_init=_HE, rngs=rngs, **kwargs
    )


def _norm(channels: int, epsilon: float, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, momentum=0.99, epsilon=epsilon, rngs=rngs)


class Block(nnx.Module):
    """Inverted bottleneck: 1x1 to `expansion` times the channels (where that is more), each channel alone, 1x1 to the outputs."""

    def __init__(self, size: _BlockSize, epsilon: float, *, rngs: nnx.Rngs):
        inner = size.inputs * size.expansion
        self.expand = _conv(size.inputs, inner, 1, rngs=rngs) if size.expansion > 1 else None
        self.expand_norm = _norm(inner, epsilon, rngs=rngs) if size.expansion > 1 else None
        alone = {"feature_group_count": inner, "conv_general_dilated": depthwise}
        self.dwconv = _conv(inner, inner, size.kernel, size.stride, **alone, rngs=rngs)
        self.dwconv_norm = _norm(inner, epsilon, rngs=rngs)
        self.project = _conv(inner, size.outputs, 1, rngs=rngs)
        self.project_norm = _norm(size.outputs, epsilon, rngs=rngs)
        self.residual = size.stride == 1 and size.inputs == size.outputs

    def __call__(self, x: Float[Array, "batch h w inputs"]) -> Float[Array, "batch h2 w2 outputs"]:
        """The projection, which is not rectified, and `x` where they have one shape."""
        wide = x if self.expand is None else jax.nn.relu6(self.expand_norm(self.expand(x)))
        wide = jax.nn.relu6(self.dwconv_norm(self.dwconv(wide)))
        narrow = self.project_norm(self.project(wide))
        return narrow + x if self.residual else narrow


class EfficientNetLite(nnx.Module):
    """Images, normalised, to logits."""

    def __init__(self, config: EfficientNetLiteConfig, *, rngs: nnx.Rngs):
        stages = _block_sizes(config)
        self.stem = _conv(config.channels, _STEM, 3, 2, precision=jax.lax.Precision.HIGHEST, rngs=rngs)
        self.stem_norm = _norm(_STEM, config.epsilon, rngs=rngs)
        blocks = [[Block(size, config.epsilon, rngs=rngs) for size in stage] for stage in stages]
        self.stages = nnx.List([nnx.List(stage) for stage in blocks])
        self.top = _conv(stages[-1][-1].outputs, _TOP, 1, rngs=rngs)
        self.top_norm = _norm(_TOP, config.epsilon, rngs=rngs)
        self.head = nnx.Linear(_TOP, config.num_classes, rngs=rngs) if config.num_classes else None

    def encode(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns features"]:
        """Normalised images to the last map, of 1280 channels."""
        x = jax.nn.relu6(self.stem_norm(self.stem(images)))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return jax.nn.relu6(self.top_norm(self.top(x)))

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
    "efficientnet_lite0": EfficientNetLiteConfig(224, 1.0, 1.0, 1000),
    "efficientnet_lite1": EfficientNetLiteConfig(240, 1.0, 1.1, 1000),
    "efficientnet_lite2": EfficientNetLiteConfig(260, 1.1, 1.2, 1000),
    "efficientnet_lite3": EfficientNetLiteConfig(280, 1.2, 1.4, 1000),
    "efficientnet_lite4": EfficientNetLiteConfig(300, 1.4, 1.8, 1000),
}

# Layers of a block: ours -> (convolution, norm) of theirs.
_LITE = {
    "expand": ("_expand_conv", "_bn0"),
    "dwconv": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
_TIMM = {"expand": ("conv_pw", "bn1"), "dwconv": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
# timm has another kind of block, with other names, where nothing is expanded.
_TIMM_UNEXPANDED = {"dwconv": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}


def _pair_keys(ours: str, conv: str, norm: str) -> dict[str, Source]:
    """Rows of a convolution without bias and of the norm after it."""
    pairs = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    norms = {f"{ours}_norm.{leaf}": Source(f"{norm}.{name}") for leaf, name in pairs.items()}
    return {f"{ours}.kernel": Source(f"{conv}.weight", CONV), **norms}


def _block_keys(ours: str, theirs: str, names: dict[str, tuple[str, str]]) -> dict[str, Source]:
    keys: dict[str, Source] = {}
    for layer, (conv, norm) in names.items():
        keys |= _pair_keys(f"{ours}.{layer}", f"{theirs}.{conv}", f"{theirs}.{norm}")
    return keys


def _head_keys(config: EfficientNetLiteConfig, theirs: str) -> dict[str, Source]:
    rows = {"head.kernel": Source(f"{theirs}.weight", LINEAR), "head.bias": Source(f"{theirs}.bias")}
    return rows if config.num_classes else {}


def lite_keys(config: EfficientNetLiteConfig) -> dict[str, Source]:
    """Where the package efficientnet-lite-pytorch keeps each leaf: path in this module -> tensor in the file."""
    keys = {
        **_pair_keys("stem", "_conv_stem", "_bn0"),
        **_pair_keys("top", "_conv_head", "_bn1"),
        **_head_keys(config, "_fc"),
    }
    count = 0
    for stage, blocks in enumerate(_block_sizes(config)):
        for index, size in enumerate(blocks):
            names = {layer: pair for layer, pair in _LITE.items() if layer != "expand" or size.expansion > 1}
            keys |= _block_keys(f"stages.{stage}.{index}", f"_blocks.{count}", names)
            count += 1
    return keys


def timm_keys(config: EfficientNetLiteConfig) -> dict[str, Source]:
    """Where timm keeps each leaf (tf_efficientnet_lite0 to 4)."""
    keys = {
        **_pair_keys("stem", "conv_stem", "bn1"),
        **_pair_keys("top", "conv_head", "bn2"),
        **_head_keys(config, "classifier"),
    }
    for stage, blocks in enumerate(_block_sizes(config)):
        for index, size in enumerate(blocks):
            names = _TIMM if size.expansion > 1 else _TIMM_UNEXPANDED
            keys |= _block_keys(f"stages.{stage}.{index}", f"blocks.{stage}.{index}", names)
    return keys


def _google_eval(config: EfficientNetLiteConfig) -> Preprocess:
    """Google's rule, to which the package's weights were trained: the centre but for a border of 32 pixels in all, 127 and 128.

    Google resizes with a bilinear filter that skips pixels; of PIL's filters the bicubic one comes nearest, as timm found too.
    """
    size, mean, std = config.image_size, (127 / 255,) * 3, (128 / 255,) * 3
    return Preprocess(size, mean, std, "crop_first", size + 32, "bicubic")


def _timm_eval(config: EfficientNetLiteConfig) -> Preprocess:
    """By depth, for timm shows Lite3 and Lite4 larger images than Google (300 and 380 pixels); here they have Google's size."""
    crop, filter_name = {
        1.1: (0.882, "bicubic"),
        1.2: (0.890, "bicubic"),
        1.4: (0.904, "bilinear"),
        1.8: (0.920, "bilinear"),
    }.get(config.depth, (0.875, "bicubic"))
    return timm_eval(config.image_size, crop, INCEPTION, filter_name)


FORMATS = {
    "efficientnet_lite_pytorch": Format(lite_keys, _google_eval),
    "timm": Format(timm_keys, _timm_eval),
}
