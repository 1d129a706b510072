"""Logits of published checkpoints, at real sizes and in the publishers' own files, against the publishers' own code."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
from flax import nnx

from ne_jax.models.loading import load_model
from tests import oracles
from tests.oracles import timm, torch, torchvision, transformers

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5,) * 3, (0.5,) * 3
BATCH = 16


def random_pixels(count: int, size: int = 224, seed: int = 0) -> np.ndarray:
    """uint8 noise, two thirds of it in blocks of 56 pixels: unlike white noise, images that differ in class."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, -(-size // 56), -(-size // 56), 3))
    blocks = coarse.repeat(56, axis=1).repeat(56, axis=2)[:, :size, :size]
    return ((2 * blocks + generator.integers(0, 256, (count, size, size, 3))) // 3).astype(np.uint8)


def normalised(pixels: np.ndarray, statistics) -> np.ndarray:
    mean, std = (np.asarray(values, np.float32) for values in statistics)
    return (pixels * np.float32(1 / 255) - mean) / std


def nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def save_timm(theirs: torch.nn.Module, folder: pathlib.Path) -> pathlib.Path:
    safetensors.torch.save_file(theirs.state_dict(), folder / "model.safetensors", {"format": "pt"})
    return folder


def save_torchvision(theirs: torch.nn.Module, folder: pathlib.Path) -> pathlib.Path:
    torch.save(theirs.state_dict(), folder / "model-0a1b2c3d.pth")
    return folder / "model-0a1b2c3d.pth"


def save_transformers(theirs: Any, folder: pathlib.Path) -> pathlib.Path:
    theirs.save_pretrained(folder)
    return folder


def save_sharded(theirs: Any, folder: pathlib.Path) -> pathlib.Path:
    theirs.save_pretrained(folder, max_shard_size="80MB")
    assert (folder / "model.safetensors.index.json").is_file() and not (folder / "model.safetensors").exists()
    return folder


Places = Callable[[Any], tuple[torch.nn.Module, torch.nn.Module]]
# The first layer and the first block of each published implementation.
OF_TIMM: Places = lambda m: (m.patch_embed.proj, m.blocks[0])  # noqa: E731
OF_TORCHVISION: Places = lambda m: (m.conv_proj, m.encoder.layers[0])  # noqa: E731
OF_RESNET: Places = lambda m: (m.conv1, m.layer1[0])  # noqa: E731


def of_transformers(model: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    base = model.base_model
    if isinstance(base, transformers.ResNetModel):
        return base.embedder.embedder.convolution, base.encoder.stages[0].layers[0]
    return base.embeddings.patch_embeddings.projection, (getattr(base, "layers", None) or base.encoder.layer)[0]


SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
DINO = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 224, "patch_size": 14}
T = transformers


class Row(NamedTuple):
    """One published implementation, and how near ours must come."""

    name: str
    build: Callable[[], torch.nn.Module]
    save: Callable[[Any, pathlib.Path], pathlib.Path]
    places: Places
    statistics: tuple = IMAGENET
    main: bool = False
    slow: bool = False
    limit: float = 1e-4


def of_hub(name: str, build: Callable[..., Any], config: Any, **arguments) -> Row:
    return Row(name, lambda: build(config), arguments.pop("save", save_transformers), of_transformers, **arguments)


def of_timm(name: str, theirs: str, **arguments) -> Row:
    sizes = {"img_size": 224} if "dinov2" in theirs else {}
    return Row(name, lambda: timm.create_model(theirs, **sizes), save_timm, OF_TIMM, **arguments)


ROWS = {
    "ResNet-50, torchvision": Row("resnet50", torchvision.models.resnet50, save_torchvision, OF_RESNET, main=True),
    "ResNet-50, transformers": of_hub(
        "resnet50", T.ResNetForImageClassification, T.ResNetConfig(num_labels=1000), save=save_sharded
    ),
    "ResNet-152, torchvision": Row(
        "resnet152", torchvision.models.resnet152, save_torchvision, OF_RESNET, limit=1e-3, slow=True
    ),
    "ViT-S/16, timm": of_timm("vit_s16", "vit_small_patch16_224", statistics=HALF),
    "ViT-S/16, transformers": of_hub(
        "vit_s16", T.ViTForImageClassification, T.ViTConfig(num_labels=1000, **SMALL), statistics=HALF
    ),
    "ViT-S/16, torchvision": Row(
        "vit_s16",
        lambda: torchvision.models.VisionTransformer(224, 16, 12, 6, 384, 1536),
        save_torchvision,
        OF_TORCHVISION,
    ),
    "ViT-B/16, timm": of_timm("vit_b16", "vit_base_patch16_224", statistics=HALF, main=True, slow=True),
    "ViT-B/16, transformers": of_hub(
        "vit_b16",
        T.ViTForImageClassification,
        T.ViTConfig(num_labels=1000),
        save=save_sharded,
        statistics=HALF,
        slow=True,
    ),
    "ViT-B/16, torchvision": Row("vit_b16", torchvision.models.vit_b_16, save_torchvision, OF_TORCHVISION, slow=True),
    "ViT-L/16, timm": of_timm("vit_l16", "vit_large_patch16_224", statistics=HALF, limit=1e-3, slow=True),
    "DeiT-B, timm": of_timm("deit_b16", "deit_base_patch16_224", main=True, slow=True),
    "DeiT-B, transformers": of_hub("deit_b16", T.ViTForImageClassification, T.ViTConfig(num_labels=1000), slow=True),
    "DeiT-S distilled, timm": of_timm("deit_s16_distilled", "deit_small_distilled_patch16_224"),
    "DeiT-S distilled, transformers": of_hub(
        "deit_s16_distilled", T.DeiTForImageClassificationWithTeacher, T.DeiTConfig(num_labels=1000, **SMALL)
    ),
    "DINOv2-S, transformers": of_hub("dinov2_s14", T.Dinov2Model, T.Dinov2Config(**DINO), main=True),
    "DINOv2-S with a head, transformers": of_hub(
        "dinov2_s14", T.Dinov2ForImageClassification, T.Dinov2Config(num_labels=1000, **DINO), slow=True
    ),
    "DINOv2-S with registers, transformers": of_hub(
        "dinov2_s14_reg4", T.Dinov2WithRegistersModel, T.Dinov2WithRegistersConfig(**DINO)
    ),
    "DINOv2-S with registers, timm": of_timm("dinov2_s14_reg4", "vit_small_patch14_reg4_dinov2"),
}


def calibrated(model: Any) -> Any:
    """Statistics of BatchNorm as of images seen, which keep 152 layers of order one and images apart."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    if norms:
        answer(model.train(), normalised(random_pixels(8, seed=1), IMAGENET))
    return model.eval()


def row_marks(name: str) -> list:
    """Some only when asked for: another row says the same in less time."""
    return [pytest.mark.slow] if ROWS[name].slow else []


class Pair(NamedTuple):
    row: Row
    theirs: Any
    ours: Any


@pytest.fixture(scope="module", params=[pytest.param(name, marks=row_marks(name)) for name in ROWS])
def pair(request):
    """A published implementation with random weights, and ours of the file that it wrote."""
    row = ROWS[request.param]
    with torch.device("meta"):  # drawing initial weights takes longer than all the rest
        theirs = row.build()
    theirs = calibrated(oracles.randomise(theirs.to_empty(device="cpu"), 1))
    with tempfile.TemporaryDirectory() as folder:
        ours = load_model(row.name, row.save(theirs, pathlib.Path(folder)))
    return Pair(row, theirs, ours)


def answer(theirs: Any, images: np.ndarray) -> np.ndarray:
    """The published implementation's logits, or the class token where it has no head."""
    with torch.inference_mode():
        out = theirs(nchw(images))
    out = getattr(out, "logits", getattr(out, "pooler_output", out))
    return out.numpy()


def agree(pair: Pair, count: int) -> np.ndarray:
    """Logits (class tokens where there is no head) of ours and theirs agree within the row's limit, and the classes; gives theirs."""
    row, theirs, ours = pair
    pixels, batch = random_pixels(count), min(BATCH, count)
    parts = [pixels[start : start + batch] for start in range(0, count, batch)]
    found = np.concatenate([ours.apply(part) if ours.num_classes else ours.features(part) for part in parts])
    expected = np.concatenate([answer(theirs, normalised(part, row.statistics)) for part in parts])
    oracles.close(found, expected, row.limit)
    assert (found.argmax(-1) == expected.argmax(-1)).sum() == count
    assert expected.std(axis=0).mean() >= 10 * row.limit * expected.std()  # so that the limit says something
    return expected


def test_logits_are_the_published_ones(pair):
    """The same weights and pixels give the published implementation's logits (class token where there is no head), to 1e-4 of
    their spread (1e-3 for the deepest), and the same class first."""
    assert (pair.ours.preprocess.mean, pair.ours.preprocess.std) == pair.row.statistics
    agree(pair, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair", [pytest.param(name, marks=row_marks(name)) for name, row in ROWS.items() if row.main], indirect=True
)
def test_the_same_class_on_64_images(pair):
    """Of the main variants, 64 of 64, of classes that differ."""
    assert len(set(agree(pair, 64).argmax(-1))) >= 3


class _Enough(Exception):
    """The rest of the network is not needed."""


def first_outputs(theirs: Any, places: tuple[torch.nn.Module, ...], images: np.ndarray) -> list[torch.Tensor]:
    seen = []

    def keep(_module, _inputs, output):
        seen.append(output[0] if isinstance(output, tuple) else output)
        if len(seen) == len(places):
            raise _Enough

    hooks = [place.register_forward_hook(keep) for place in places]
    with pytest.raises(_Enough):
        answer(theirs, images)
    for hook in hooks:
        hook.remove()
    return seen


def test_first_layers_are_the_published_ones(pair):
    """The stem, and all up to the first block's end, agree to 1e-5 of their spread: rounding, and nothing else."""
    row, theirs, ours = pair
    images = normalised(random_pixels(2), row.statistics)
    stem, block = first_outputs(theirs, row.places(theirs), images)
    module = nnx.merge(ours.graphdef, ours.state)
    oracles.close(module.stem(jnp.asarray(images)), stem.permute(0, 2, 3, 1), 1e-5)
    if row.name.startswith("resnet"):
        module.stages = nnx.List([nnx.List(module.stages[0][:1])])
        block = block.permute(0, 2, 3, 1)
    else:
        module.blocks, module.norm = nnx.List(module.blocks[:1]), jnp.asarray
    oracles.close(jax.jit(lambda x: module.encode(x))(images), block, 1e-5)


def resized_as_meta_does(positions: torch.Tensor, registers: bool) -> torch.Tensor:
    """`interpolate_pos_encoding` of facebookresearch/dinov2 for 224 pixels: an offset of .1 without registers, else smoothed."""
    how = {"size": (16, 16), "antialias": True} if registers else {"scale_factor": (16.1 / 37, 16.1 / 37)}
    grid = positions[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, mode="bicubic", **how)
    assert grid.shape[-2:] == (16, 16)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, 256, -1)], dim=1)


@pytest.mark.parametrize("registers", [False, True], ids=["plain", "registers"])
def test_meta_s_own_files_are_read_as_meta_reads_them(tmp_path, registers):
    """Meta's .pth of DINOv2: its names, its mask token (left out with a word), its way of resizing positions."""
    theirs = timm.create_model(
        "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2", img_size=224
    )
    big = timm.create_model("vit_small_patch14_dinov2", img_size=518)
    tensors = dict(oracles.randomise(big, 2).state_dict()) | {"mask_token": torch.ones(1, 384)}
    if registers:
        tensors["register_tokens"] = 0.3 * torch.randn(1, 4, 384, generator=torch.Generator().manual_seed(0))
    torch.save(tensors, tmp_path / "dinov2_vits14_pretrain.pth")
    ours = load_model("dinov2_s14_reg4" if registers else "dinov2_s14", tmp_path / "dinov2_vits14_pretrain.pth")
    assert ours.publisher == "meta" and any("mask_token" in note for note in ours.notes)
    del tensors["mask_token"]
    tensors["pos_embed"] = resized_as_meta_does(tensors["pos_embed"], registers)
    if registers:  # timm adds the class token's position to the class token
        tensors["reg_token"] = tensors.pop("register_tokens")
        tensors["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
        tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
    theirs.load_state_dict(tensors)
    pixels = random_pixels(2)
    oracles.close(ours.features(pixels), answer(theirs.eval(), normalised(pixels, IMAGENET)), 1e-4)


def google_tensors() -> dict[str, np.ndarray]:
    """ViT-S/32 as google-research/vision_transformer writes it."""
    generator, encoder = np.random.default_rng(3), "Transformer"

    def kernel(*shape: int, inputs: int) -> np.ndarray:
        return generator.standard_normal(shape) / np.sqrt(inputs)

    def norm(place: str) -> dict[str, np.ndarray]:
        return {f"{place}/scale": generator.uniform(0.5, 1.5, 384), f"{place}/bias": kernel(384, inputs=25)}

    tensors = {
        "cls": kernel(1, 1, 384, inputs=25),
        "embedding/kernel": kernel(32, 32, 3, 384, inputs=3072),
        "embedding/bias": kernel(384, inputs=25),
        "head/kernel": kernel(384, 1000, inputs=384),
        "head/bias": kernel(1000, inputs=25),
        f"{encoder}/posembed_input/pos_embedding": kernel(1, 50, 384, inputs=25),
        **norm(f"{encoder}/encoder_norm"),
    }
    for block in (f"{encoder}/encoderblock_{index}" for index in range(12)):
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            tensors[f"{attention}/{part}/kernel"] = kernel(384, 6, 64, inputs=384)
            tensors[f"{attention}/{part}/bias"] = kernel(6, 64, inputs=25)
        tensors[f"{attention}/out/kernel"] = kernel(6, 64, 384, inputs=384)
        tensors[f"{attention}/out/bias"] = kernel(384, inputs=25)
        for layer, (inputs, outputs) in {"Dense_0": (384, 1536), "Dense_1": (1536, 384)}.items():
            tensors[f"{block}/MlpBlock_3/{layer}/kernel"] = kernel(inputs, outputs, inputs=inputs)
            tensors[f"{block}/MlpBlock_3/{layer}/bias"] = kernel(outputs, inputs=25)
        tensors |= norm(f"{block}/LayerNorm_0") | norm(f"{block}/LayerNorm_2")
    return tensors


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_google_s_own_files_are_read_as_timm_reads_them(tmp_path, dtype):
    """Google's npz, in float32 and in bfloat16 (which NumPy stores as nameless bytes): timm's logits of the same numbers."""
    tensors = {name: tensor.astype(dtype) for name, tensor in google_tensors().items()}
    np.savez(tmp_path / "S_32.npz", **tensors)
    with np.load(tmp_path / "S_32.npz") as stored:
        assert stored["cls"].dtype == (np.float32 if dtype is np.float32 else np.dtype("V2"))
    np.savez(tmp_path / "plain.npz", **{name: tensor.astype(np.float32) for name, tensor in tensors.items()})
    theirs = timm.create_model("vit_small_patch32_224").eval()
    theirs.load_pretrained(str(tmp_path / "plain.npz"))
    ours, pixels = load_model("vit_s32", tmp_path / "S_32.npz"), random_pixels(2)
    assert ours.publisher == "google" and ours.notes == ()
    expected = answer(theirs, normalised(pixels, HALF))
    oracles.close(ours.apply(pixels), expected, 1e-4)
    np.testing.assert_array_equal(ours.apply(pixels).argmax(-1), expected.argmax(-1))
