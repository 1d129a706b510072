"""How publishers store ViT and DeiT: the name and axis order of each weight in timm's, transformers', torchvision's and Google's files,
and the preprocessing that goes with them.

Knows names in files; `vit.py` knows the network. DINOv2 (`dinov2.py`) shares most rows.
"""

from __future__ import annotations

import dataclasses

from ne_jax.data.preprocess import Preprocess
from ne_jax.models.families import positions
from ne_jax.models.families.published import IMAGENET, INCEPTION, timm_eval, torchvision_eval
from ne_jax.models.families.vit import ViTConfig
from ne_jax.models.porting.checkpoints import CONV, LINEAR, Format, Source


def linear(ours: str, *theirs: str) -> dict[str, Source]:
    """Rows of a linear layer; several of theirs lie side by side in ours."""
    names = [tuple(f"{name}.{leaf}" for name in theirs) for leaf in ("weight", "bias")]
    return {f"{ours}.kernel": Source(names[0], LINEAR), f"{ours}.bias": Source(names[1])}


def norm(ours: str, theirs: str) -> dict[str, Source]:
    """Rows of a LayerNorm."""
    return {f"{ours}.scale": Source(f"{theirs}.weight"), f"{ours}.bias": Source(f"{theirs}.bias")}


def outside_blocks(
    config: ViTConfig,
    *,
    stem: str,
    tokens: tuple[str, str],
    positions_at: Source,
    last_norm: str,
    heads: tuple[str, ...],
) -> dict[str, Source]:
    """Rows of all leaves but the blocks', for files in PyTorch's axis order. tokens: class and distillation token's names."""
    keys = {
        "stem.kernel": Source(f"{stem}.weight", CONV),
        "stem.bias": Source(f"{stem}.bias"),
        "cls_token": Source(tokens[0]),
        "pos_embed": positions_at,
        **norm("norm", last_norm),
    }
    if config.distilled:
        keys["dist_token"] = Source(tokens[1])
    if config.num_classes:
        for ours, theirs in zip(("head", "head_dist"), heads, strict=False):
            keys |= linear(ours, theirs) if ours == "head" or config.distilled else {}
    return keys


def timm_keys(config: ViTConfig) -> dict[str, Source]:
    """Where timm, and Meta's original files, keep each leaf: path in this module -> tensor in the file."""
    keys = outside_blocks(
        config, stem="patch_embed.proj", tokens=("cls_token", "dist_token"), last_norm="norm", heads=("head", "head_dist"),
        positions_at=Source("pos_embed", fit=positions.fit(positions.bicubic_antialias, config.prefix)),
    )  # fmt: skip
    for block in (f"blocks.{index}" for index in range(config.depth)):
        keys |= linear(f"{block}.attn.qkv", f"{block}.attn.qkv") | linear(f"{block}.attn.proj", f"{block}.attn.proj")
        keys |= linear(f"{block}.fc1", f"{block}.mlp.fc1") | linear(f"{block}.fc2", f"{block}.mlp.fc2")
        keys |= norm(f"{block}.norm1", f"{block}.norm1") | norm(f"{block}.norm2", f"{block}.norm2")
    return keys


def hugging_face_attention(ours: str, theirs: str) -> dict[str, Source]:
    """Rows of a block's attention, as all of transformers' ViTs have it."""
    parts = [f"{theirs}.attention.attention.{part}" for part in ("query", "key", "value")]
    return linear(f"{ours}.attn.qkv", *parts) | linear(f"{ours}.attn.proj", f"{theirs}.attention.output.dense")


def hugging_face_keys(config: ViTConfig) -> dict[str, Source]:
    """Where transformers keeps each leaf (ViTForImageClassification, DeiTForImageClassification and ...WithTeacher)."""
    keys = outside_blocks(
        config, stem="embeddings.patch_embeddings.projection", last_norm="layernorm",
        tokens=("embeddings.cls_token", "embeddings.distillation_token"),
        heads=("cls_classifier", "distillation_classifier") if config.distilled else ("classifier",),
        positions_at=Source("embeddings.position_embeddings", fit=positions.fit(positions.bicubic, config.prefix)),
    )  # fmt: skip
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}", f"encoder.layer.{index}"
        keys |= hugging_face_attention(ours, theirs)
        keys |= linear(f"{ours}.fc1", f"{theirs}.intermediate.dense") | linear(f"{ours}.fc2", f"{theirs}.output.dense")
        keys |= norm(f"{ours}.norm1", f"{theirs}.layernorm_before") | norm(f"{ours}.norm2", f"{theirs}.layernorm_after")
    return keys


def torchvision_keys(config: ViTConfig) -> dict[str, Source]:
    """Where torchvision keeps each leaf."""
    resized = positions.fit(positions.bicubic_corners, config.prefix)
    keys = outside_blocks(
        config, stem="conv_proj", tokens=("class_token", ""), last_norm="encoder.ln", heads=("heads.head",),
        positions_at=Source("encoder.pos_embedding", fit=resized),
    )  # fmt: skip
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}", f"encoder.layers.encoder_layer_{index}"
        attention = f"{theirs}.self_attention"
        keys[f"{ours}.attn.qkv.kernel"] = Source(f"{attention}.in_proj_weight", LINEAR)
        keys[f"{ours}.attn.qkv.bias"] = Source(f"{attention}.in_proj_bias")
        keys |= linear(f"{ours}.attn.proj", f"{attention}.out_proj")
        keys |= linear(f"{ours}.fc1", f"{theirs}.mlp.0") | linear(f"{ours}.fc2", f"{theirs}.mlp.3")
        keys |= norm(f"{ours}.norm1", f"{theirs}.ln_1") | norm(f"{ours}.norm2", f"{theirs}.ln_2")
    return keys


def google_keys(config: ViTConfig) -> dict[str, Source]:
    """Where Google's npz files keep each leaf, in Flax Linen's own axis order, heads apart."""
    encoder, width, heads = "Transformer", config.width, config.num_heads
    split, joined = (width, heads, width // heads), (heads, width // heads, width)
    resized = positions.fit(positions.linear_corners, config.prefix)
    keys = {
        "stem.kernel": Source("embedding/kernel"),
        "stem.bias": Source("embedding/bias"),
        "cls_token": Source("cls"),
        "pos_embed": Source(f"{encoder}/posembed_input/pos_embedding", fit=resized),
        "norm.scale": Source(f"{encoder}/encoder_norm/scale"),
        "norm.bias": Source(f"{encoder}/encoder_norm/bias"),
    }
    for leaf in ("kernel", "bias") if config.num_classes else ():
        keys[f"head.{leaf}"] = Source(f"head/{leaf}")
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}", f"{encoder}/encoderblock_{index}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        parts = [f"{attention}/{part}" for part in ("query", "key", "value")]
        keys[f"{ours}.attn.qkv.kernel"] = Source(tuple(f"{part}/kernel" for part in parts), shape=split)
        keys[f"{ours}.attn.qkv.bias"] = Source(tuple(f"{part}/bias" for part in parts), shape=split[1:])
        keys[f"{ours}.attn.proj.kernel"] = Source(f"{attention}/out/kernel", shape=joined)
        keys[f"{ours}.attn.proj.bias"] = Source(f"{attention}/out/bias")
        for layer, place in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            for leaf in ("kernel", "bias"):
                keys[f"{ours}.{layer}.{leaf}"] = Source(f"{theirs}/MlpBlock_3/{place}/{leaf}")
        for layer, place in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            for leaf in ("scale", "bias"):
                keys[f"{ours}.{layer}.{leaf}"] = Source(f"{theirs}/{place}/{leaf}")
    return keys


def _hugging_face_eval(config: ViTConfig) -> Preprocess:
    if config.data_efficient:
        side = int(config.image_size * 256 / 224)
        return Preprocess(config.image_size, **IMAGENET, resize_to=side, interpolation="bicubic")
    return Preprocess(config.image_size, **INCEPTION)


def _timm_eval(config: ViTConfig) -> Preprocess:
    crop = 1.0 if config.image_size == 384 else 0.9
    return timm_eval(config.image_size, crop, IMAGENET if config.data_efficient else INCEPTION)


def _torchvision_eval(config: ViTConfig) -> Preprocess:
    shorter = 242 if (config.width, config.patch_size) == (1024, 16) else 256
    return torchvision_eval(config.image_size, shorter * config.image_size // 224)


def _hugging_face_sizes(config: ViTConfig) -> ViTConfig:
    return dataclasses.replace(config, epsilon=1e-12)


FORMATS = {
    "timm": Format(timm_keys, _timm_eval),
    "hugging_face": Format(hugging_face_keys, _hugging_face_eval, ("vit.", "deit."), ("pooler.",), _hugging_face_sizes),
    "torchvision": Format(torchvision_keys, _torchvision_eval),
    "google": Format(google_keys, lambda config: Preprocess(config.image_size, **INCEPTION)),
}
