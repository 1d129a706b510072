"""Vision Transformer (Dosovitskiy et al., arXiv 2010.11929) and DeiT (Touvron et al., arXiv 2012.12877): pre-norm, class token.

The first layer is `stem`: a convolution whose stride is its kernel size, so its windows are patches that do not overlap.
DINOv2 (`dinov2.py`) uses this module with layer scale and, in some variants, registers. Knows the network and its published sizes;
`vit_formats.py` knows how publishers store them.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

_XAVIER = nnx.initializers.xavier_uniform()


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes of a ViT. `image_size` and `patch_size` are in pixels; `image_size` is a multiple of `patch_size`.

    num_classes: 0 for no head. distilled: DeiT's second token and head; logits are the mean of both heads.
    registers: tokens without a position (arXiv 2309.16588). layer_scale: a learned factor on every residual branch.
    data_efficient: trained as DeiT, which changes the preprocessing alone.
    mean_patch: the head reads the class token beside the mean patch (DINOv2's linear heads).
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_width: int
    num_classes: int
    channels: int = 3
    distilled: bool = False
    registers: int = 0
    layer_scale: bool = False
    mean_patch: bool = False
    data_efficient: bool = False
    epsilon: float = 1e-6

    @property
    def prefix(self) -> int:
        """Tokens with a position that stand before the patches."""
        return 2 if self.distilled else 1

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, num_heads: int, *, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.qkv = nnx.Linear(width, 3 * width, kernel_init=_XAVIER, rngs=rngs)
        self.proj = nnx.Linear(width, width, kernel_init=_XAVIER, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Every token mixed with every other."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return self.proj(mixed.reshape(batch, tokens, width))


class Block(nnx.Module):
    """Pre-norm encoder block: attention, then a two-layer MLP with the exact (erf) GELU."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.attn = Attention(config.width, config.num_heads, rngs=rngs)
        self.norm2 = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.fc1 = nnx.Linear(config.width, config.mlp_width, kernel_init=_XAVIER, rngs=rngs)
        self.fc2 = nnx.Linear(config.mlp_width, config.width, kernel_init=_XAVIER, rngs=rngs)
        self.scale1 = nnx.Param(jnp.ones(config.width)) if config.layer_scale else None
        self.scale2 = nnx.Param(jnp.ones(config.width)) if config.layer_scale else None

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Attention, then MLP, each on a normalised copy and added."""
        x = x + _scaled(self.attn(self.norm1(x)), self.scale1)
        return x + _scaled(self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False)), self.scale2)


def _scaled(branch: Float[Array, "batch tokens width"], scale: nnx.Param | None) -> Float[Array, "batch tokens width"]:
    return branch if scale is None else branch * scale[...]


def _head(config: ViTConfig, rngs: nnx.Rngs) -> nnx.Linear:
    inputs = (2 if config.mean_patch else 1) * config.width
    return nnx.Linear(inputs, config.num_classes, kernel_init=nnx.initializers.zeros, rngs=rngs)


class ViT(nnx.Module):
    """Images, normalised, to logits."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        patch = (config.patch_size, config.patch_size)
        self.stem = nnx.Conv(
            config.channels, config.width, patch, patch, padding="VALID", precision=jax.lax.Precision.HIGHEST, rngs=rngs
        )
        self.cls_token = nnx.Param(jnp.zeros((1, 1, config.width)))
        self.dist_token = nnx.Param(jnp.zeros((1, 1, config.width))) if config.distilled else None
        self.registers = nnx.Param(jnp.zeros((1, config.registers, config.width))) if config.registers else None
        tokens = config.prefix + config.num_patches
        self.pos_embed = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, tokens, config.width)))
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.depth)])
        self.norm = nnx.LayerNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.head = _head(config, rngs) if config.num_classes else None
        self.head_dist = _head(config, rngs) if config.num_classes and config.distilled else None
        self.config = config

    def encode(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch tokens features"]:
        """Normalised images to tokens after the last norm: class, distillation, registers, then patches by row."""
        patches = self.stem(images)
        batch, width = patches.shape[0], patches.shape[-1]
        first = [token[...] for token in (self.cls_token, self.dist_token) if token is not None]
        first = [jnp.broadcast_to(token, (batch, 1, width)) for token in first]
        x = jnp.concatenate([*first, patches.reshape(batch, -1, width)], axis=1) + self.pos_embed[...]
        if self.registers is not None:
            registers = jnp.broadcast_to(self.registers[...], (batch, *self.registers.shape[1:]))
            x = jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def pool(self, hidden: Float[Array, "batch tokens features"]) -> Float[Array, "batch features"]:
        """The class token; in a distilled model its mean with the distillation token."""
        return hidden[:, :2].mean(axis=1) if self.config.distilled else hidden[:, 0]

    def classify(self, hidden: Float[Array, "batch tokens features"]) -> Float[Array, "batch classes"]:
        """Tokens to logits."""
        if self.config.distilled:
            return (self.head(hidden[:, 0]) + self.head_dist(hidden[:, 1])) / 2
        if self.config.mean_patch:
            patches = hidden[:, self.config.prefix + self.config.registers :].mean(axis=1)
            return self.head(jnp.concatenate([hidden[:, 0], patches], axis=-1))
        return self.head(hidden[:, 0])

    def __call__(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        """Normalised images to logits."""
        return self.classify(self.encode(images))


SIZES = {"t": (192, 12, 3, 768), "s": (384, 12, 6, 1536), "b": (768, 12, 12, 3072), "l": (1024, 24, 16, 4096)}


def _published() -> dict[str, ViTConfig]:
    variants = {}
    for size, patch, side in itertools.product("sbl", (16, 32), (224, 384)):
        variants[f"vit_{size}{patch}" + (f"_{side}" if side != 224 else "")] = ViTConfig(
            side, patch, *SIZES[size], 1000
        )
    for size, distilled in itertools.product("tsb", (False, True)):
        name = f"deit_{size}16" + ("_distilled" if distilled else "")
        variants[name] = ViTConfig(224, 16, *SIZES[size], 1000, distilled=distilled, data_efficient=True)
    for distilled in (False, True):
        name = "deit_b16" + ("_distilled" if distilled else "") + "_384"
        variants[name] = ViTConfig(384, 16, *SIZES["b"], 1000, distilled=distilled, data_efficient=True)
    return variants


VARIANTS = {**_published(), "vit_fashion": ViTConfig(112, 28, 128, 4, 4, 256, 10, channels=1)}
