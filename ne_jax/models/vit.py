"""Vision Transformer (Dosovitskiy et al., arXiv 2010.11929), pre-norm, class token, as published for ViT-B/16.

The first layer is `patch_embed`: a convolution whose stride is its kernel size, so its windows are patches that do
not overlap.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ne_jax.checkpoints import CONV, LINEAR, Source


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes of a ViT. `image_size` and `patch_size` are in pixels; `image_size` is a multiple of `patch_size`."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_width: int
    num_classes: int
    channels: int = 3

    @property
    def num_tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, num_heads: int, *, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.qkv = nnx.Linear(width, 3 * width, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)
        self.proj = nnx.Linear(width, width, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Every token mixed with every other."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return self.proj(mixed.reshape(batch, tokens, width))


class Block(nnx.Module):
    """Pre-norm encoder block: attention, then a two-layer MLP with the exact (erf) GELU."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(config.width, epsilon=1e-6, rngs=rngs)
        self.attn = Attention(config.width, config.num_heads, rngs=rngs)
        self.norm2 = nnx.LayerNorm(config.width, epsilon=1e-6, rngs=rngs)
        self.fc1 = nnx.Linear(config.width, config.mlp_width, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)
        self.fc2 = nnx.Linear(config.mlp_width, config.width, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Attention, then MLP, each on a normalised copy and added."""
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False))


class ViT(nnx.Module):
    """Images, normalised, to logits. `features` are the class token after the last norm."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        patch = (config.patch_size, config.patch_size)
        self.patch_embed = nnx.Conv(
            config.channels, config.width, patch, patch, padding="VALID", precision=jax.lax.Precision.HIGHEST, rngs=rngs
        )
        self.cls_token = nnx.Param(jnp.zeros((1, 1, config.width)))
        self.pos_embed = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, config.num_tokens, config.width)))
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.depth)])
        self.norm = nnx.LayerNorm(config.width, epsilon=1e-6, rngs=rngs)
        self.head = nnx.Linear(config.width, config.num_classes, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def features(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch features"]:
        """Normalised images to what the head reads."""
        patches = self.patch_embed(images)
        tokens = patches.reshape(patches.shape[0], -1, patches.shape[-1])
        cls = jnp.broadcast_to(self.cls_token[...], (tokens.shape[0], 1, tokens.shape[-1]))
        x = jnp.concatenate([cls, tokens], axis=1) + self.pos_embed[...]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]

    def classify(self, features: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
        """Features to logits."""
        return self.head(features)

    def __call__(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        """Normalised images to logits."""
        return self.classify(self.features(images))


VARIANTS = {
    "vit_b16": ViTConfig(224, 16, 768, 12, 12, 3072, 1000),
    "vit_fashion": ViTConfig(112, 28, 128, 4, 4, 256, 10, channels=1),
}


def timm_keys(config: ViTConfig) -> dict[str, Source]:
    """Where timm keeps each leaf: path in this module -> tensor in the file."""
    keys = {
        "patch_embed.kernel": Source("patch_embed.proj.weight", CONV),
        "patch_embed.bias": Source("patch_embed.proj.bias"),
        "cls_token": Source("cls_token"),
        "pos_embed": Source("pos_embed"),
        "norm.scale": Source("norm.weight"),
        "norm.bias": Source("norm.bias"),
        "head.kernel": Source("head.weight", LINEAR),
        "head.bias": Source("head.bias"),
    }
    layers = {"attn.qkv": "attn.qkv", "attn.proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    for index in range(config.depth):
        block = f"blocks.{index}"
        for ours, theirs in layers.items():
            keys[f"{block}.{ours}.kernel"] = Source(f"{block}.{theirs}.weight", LINEAR)
            keys[f"{block}.{ours}.bias"] = Source(f"{block}.{theirs}.bias")
        for norm in ("norm1", "norm2"):
            keys[f"{block}.{norm}.scale"] = Source(f"{block}.{norm}.weight")
            keys[f"{block}.{norm}.bias"] = Source(f"{block}.{norm}.bias")
    return keys
