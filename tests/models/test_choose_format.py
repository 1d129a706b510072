"""Whose names a checkpoint has, what it fits, and key tables of every variant and publisher against the modules."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
from flax import nnx

from ne_jax.models.porting import checkpoints
from ne_jax.models.porting.choose_format import as_published, choose, differences, fitting
from ne_jax.models.porting.tensor_files import TensorFile
from ne_jax.models.registry import FAMILIES, find
from tests.oracles import timm, torch, torchvision

VARIANTS = [name for family in FAMILIES for name in family.variants]


def larger(name: str) -> bool:
    """Whether a variant has a smaller one in its family, which differs from it by numbers alone: tracing it takes a second or two."""
    large = (
        "resnet101",
        "resnet152",
        "vit_b",
        "vit_l",
        "deit_s",
        "deit_b",
        "dinov2_b",
        "dinov2_l",
        "convnext_s",
        "convnext_b",
        "convnext_l",
    )
    return name.startswith((*large, "efficientnet_lite2", "efficientnet_lite3", "efficientnet_lite4"))


def marked(names: list[str]) -> list:
    """Larger variants only when asked for."""
    return [pytest.param(name, marks=[pytest.mark.slow] * larger(name)) for name in names]


@functools.cache
def leaf_shapes(name: str, num_classes: int | None = None) -> dict[str, tuple[int, ...]]:
    """The module's leaves; publishers' deviations, such as an epsilon, change none."""
    family, config = find(name)
    config = config if num_classes is None else dataclasses.replace(config, num_classes=num_classes)
    state = family.abstract(config)[1]
    leaves = dict(nnx.to_flat_state(state))
    return {ours: leaves[path].shape for ours, path in checkpoints.flat_leaves(state).items()}


def publishers(name: str) -> list[str]:
    """Those who publish a variant: distilled DeiTs are timm's and transformers' alone."""
    return ["timm", "hugging_face"] if "distilled" in name else list(find(name)[0].formats)


def published(name: str, publisher: str, num_classes: int | None = None, prefix: str = "") -> TensorFile:
    """A file of names and shapes alone, as `publisher` stores a variant."""
    family, config = find(name)
    config = config if num_classes is None else dataclasses.replace(config, num_classes=num_classes)
    fit, leaves = as_published(family, config, publisher), leaf_shapes(name, num_classes)
    shapes = {prefix + tensor: s.file_shape(leaves[ours]) for ours, s in fit.keys.items() for tensor in s.names}
    return TensorFile((), shapes, lambda _: np.zeros(0))


@pytest.mark.parametrize("name", marked(VARIANTS))
def test_key_tables_cover_the_module_exactly(name):
    """For every publisher of a variant: every leaf has one row, every row a leaf, no tensor is read twice; and a file with
    these names is taken for that publisher's, with all its classes."""
    family, config = find(name)
    for publisher in publishers(name):
        keys = as_published(family, config, publisher).keys
        assert set(keys) == set(leaf_shapes(name)), publisher
        tensors = [tensor for source in keys.values() for tensor in source.names]
        assert len(set(tensors)) == len(tensors), publisher
        file = published(name, publisher)
        if publisher == "meta":  # a mask token tells Meta's files from timm's
            file.shapes["mask_token"] = (1, 1)
        found = choose(family, config, file)
        assert (found.publisher, found.config.num_classes) == (publisher, config.num_classes)


def timm_s(name: str) -> str:
    """timm's name of one of our ViTs."""
    kind, size, *more = name.split("_")
    width = {"t": "tiny", "s": "small", "b": "base", "l": "large"}[size[0]]
    if kind == "dinov2":
        return f"vit_{width}_patch14_{'reg4_' * ('reg4' in more)}dinov2"
    side = "384" if "384" in more else "224"
    return f"{kind}_{width}_{'distilled_' * ('distilled' in more)}patch{size[1:]}_{side}"


@pytest.mark.parametrize(
    "name", marked([name for name in VARIANTS if name.startswith(("vit_", "deit_", "dinov2_", "resnet"))])
)
def test_published_sizes(name):
    """Trainable parameters, counted: exactly as many as the published implementation has."""
    if name.endswith("_fashion"):
        assert name in ("vit_fashion", "resnet_fashion")  # ours, published nowhere
        return
    dino = name.startswith("dinov2_")
    with torch.device("meta"):
        if name.startswith("resnet"):
            theirs = getattr(torchvision.models, name)()
        else:
            theirs = timm.create_model(timm_s(name), **({"img_size": 224} if dino else {"num_classes": 1000}))
    leaves = leaf_shapes(name, 0 if dino else None)
    found = sum(math.prod(shape) for ours, shape in leaves.items() if not ours.endswith((".mean", ".var")))
    if name.endswith("_reg4"):  # timm adds the class token's position to the class token
        found -= find(name)[1].width
    assert found == sum(parameter.numel() for parameter in theirs.parameters())


@pytest.mark.parametrize(
    ("name", "publisher", "prefix"),
    [
        ("vit_s32", "hugging_face", "vit."),
        ("deit_t16", "hugging_face", "deit."),
        ("resnet18", "hugging_face", "resnet."),
    ],
)
def test_prefixes_of_a_larger_network_are_no_part_of_names(name, publisher, prefix):
    """transformers' bare models and those with a head are the same file to us."""
    family, config = find(name)
    for file in (published(name, publisher), published(name, publisher, prefix=prefix)):
        fit = choose(family, config, file)
        assert fit.publisher == publisher
        told = checkpoints.faults_of(
            {fit.format.bare(tensor): shape for tensor, shape in file.shapes.items()},
            leaf_shapes(name),
            fit.keys,
            fit.format,
        )
        assert not any(told.values())


@pytest.mark.parametrize(("classes", "note"), [(0, "no head: features only"), (10, "a head of 10 classes, not 1000")])
@pytest.mark.parametrize("publisher", ["timm", "hugging_face", "torchvision", "google"])
def test_the_head_is_the_file_s(publisher, classes, note):
    """The number of classes is read from the file, whoever wrote it, and is told when it is another."""
    family, config = find("deit_t16")
    file = published("deit_t16", publisher, classes)
    fit = choose(family, config, file)
    assert (fit.publisher, fit.config.num_classes) == (publisher, classes)
    assert differences("deit_t16", fit, file, []) == [note]


def test_what_is_left_out_is_told():
    """A pooler, which is no part of the function, is counted and named; PyTorch's step counters are not worth a word."""
    family, config = find("deit_t16")
    file = published("deit_t16", "hugging_face")
    pooler = {"pooler.dense.weight": (192, 192), "pooler.dense.bias": (192,), "x.num_batches_tracked": ()}
    file = file._replace(shapes={**file.shapes, **pooler})
    told = differences("deit_t16", choose(family, config, file), file, ["pos_embed"])
    assert told == [
        "pos_embed resized to images of 224 pixels",
        "2 tensors left out, as no part of this network: pooler.dense.bias, pooler.dense.weight",
    ]


@pytest.mark.parametrize(
    ("name", "publisher", "expected"),
    [
        ("vit_s32_384", "google", ["vit_s32_384"]),
        ("deit_t16_distilled", "hugging_face", ["deit_t16_distilled"]),
        ("resnet34", "torchvision", ["resnet34"]),
        ("dinov2_s14_reg4", "timm", ["dinov2_s14_reg4"]),
    ],
)
def test_what_a_file_fits_is_found(name, publisher, expected):
    """By shapes alone: the variants that a file fits, of its own image size; with another number of classes too."""
    assert fitting(published(name, publisher, 7)) == expected


def test_a_file_without_a_distillation_token_fits_no_distilled_variant():
    """Google has no names for what it never published: such a file is not offered for a distilled DeiT, at no size."""
    file = published("deit_t16", "google")
    file.shapes["Transformer/posembed_input/pos_embedding"] = (1, 145, 192)
    assert fitting(file) == ["deit_t16"]


def test_nothing_fits_a_foreign_file():
    """No guess where there is none."""
    assert fitting(TensorFile((), {"weight": (3, 3)}, lambda _: np.zeros((3, 3)))) == []
