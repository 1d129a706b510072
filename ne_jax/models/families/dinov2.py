"""DINOv2 (Oquab et al., arXiv 2304.07193), with and without registers (Darcet et al., arXiv 2309.16588): a ViT with layer scale and
patches of 14 pixels. Published without a head: `features` is the class token; linear heads read it beside the mean patch.

Position embeddings were published for 518 pixels and are resized for 224, by each publisher in his own way.
"""

from __future__ import annotations

import dataclasses

from ne_jax.data.preprocess import Preprocess
from ne_jax.models.families import positions
from ne_jax.models.families.published import IMAGENET, timm_eval
from ne_jax.models.families.vit import SIZES, ViTConfig
from ne_jax.models.families.vit_formats import hugging_face_attention, linear, norm, outside_blocks, timm_keys
from ne_jax.models.porting.checkpoints import Format, Source

VARIANTS = {
    f"dinov2_{size}14" + ("_reg4" if registers else ""): ViTConfig(
        224, 14, *SIZES[size], 1000, registers=registers, layer_scale=True, mean_patch=True
    )
    for size in "sbl"
    for registers in (0, 4)
}


def _layer_scale(ours: str, *theirs: str) -> dict[str, Source]:
    return {f"{ours}.scale{branch}": Source(name) for branch, name in enumerate(theirs, 1)}


def meta_keys(config: ViTConfig) -> dict[str, Source]:
    """Where Meta's own .pth files keep each leaf."""
    # Meta shifts the scale by a tenth of a patch without registers, and smooths with them.
    plain = positions.fit(lambda old, new: positions.bicubic(old, new, old / (new + 0.1)))
    keys = timm_keys(config)
    for index in range(config.depth):
        keys |= _layer_scale(f"blocks.{index}", f"blocks.{index}.ls1.gamma", f"blocks.{index}.ls2.gamma")
    if not config.registers:
        return keys | {"pos_embed": Source("pos_embed", fit=plain)}
    return keys | {"registers": Source("register_tokens")}


def timm_dinov2_keys(config: ViTConfig) -> dict[str, Source]:
    """Where timm keeps each leaf. With registers, the class token's position is already added to the class token."""
    keys = meta_keys(config)
    stored = 0 if config.registers else 1
    resized = positions.fit(positions.bicubic_antialias, stored_prefix=stored)
    keys["pos_embed"] = Source("pos_embed", fit=resized)
    return keys | ({"registers": Source("reg_token")} if config.registers else {})


def hugging_face_keys(config: ViTConfig) -> dict[str, Source]:
    """Where transformers keeps each leaf (Dinov2Model, Dinov2ForImageClassification, Dinov2WithRegisters...)."""
    # transformers smooths with registers only, as Meta does.
    method = positions.bicubic_antialias if config.registers else positions.bicubic
    keys = outside_blocks(
        config, stem="embeddings.patch_embeddings.projection", tokens=("embeddings.cls_token", ""),
        last_norm="layernorm", heads=("classifier",),
        positions_at=Source("embeddings.position_embeddings", fit=positions.fit(method)),
    )  # fmt: skip
    if config.registers:
        keys["registers"] = Source("embeddings.register_tokens")
    for index in range(config.depth):
        ours, theirs = f"blocks.{index}", f"encoder.layer.{index}"
        keys |= hugging_face_attention(ours, theirs)
        keys |= linear(f"{ours}.fc1", f"{theirs}.mlp.fc1") | linear(f"{ours}.fc2", f"{theirs}.mlp.fc2")
        keys |= norm(f"{ours}.norm1", f"{theirs}.norm1") | norm(f"{ours}.norm2", f"{theirs}.norm2")
        keys |= _layer_scale(ours, f"{theirs}.layer_scale1.lambda1", f"{theirs}.layer_scale2.lambda1")
    return keys


def onnx_keys(config: ViTConfig) -> dict[str, Source]:
    """transformers' names as PyTorch's ONNX exporter leaves them: the position embedding in two, at the nodes that read it."""
    places = ("embeddings.Concat_6", "embeddings.Reshape_1")
    return hugging_face_keys(config) | {
        "pos_embed": Source(places, axis=1, fit=positions.fit(positions.bicubic)),
    }


def _meta_eval(config: ViTConfig) -> Preprocess:
    side = int(config.image_size * 256 / 224)
    return Preprocess(config.image_size, **IMAGENET, resize="shorter", resize_to=side, interpolation="bicubic")


def _round_crop(config: ViTConfig) -> Preprocess:
    return dataclasses.replace(_meta_eval(config), crop="round")


FORMATS = {
    "hugging_face": Format(
        hugging_face_keys, _meta_eval, ("dinov2.", "dinov2_with_registers."), ("embeddings.mask_token",)
    ),
    "timm": Format(timm_dinov2_keys, lambda config: timm_eval(config.image_size, 1.0)),
    "meta": Format(meta_keys, _round_crop, ignored=("mask_token",)),
    "onnx": Format(onnx_keys, _meta_eval, ("backbone.",), ("decoder.",)),
}
