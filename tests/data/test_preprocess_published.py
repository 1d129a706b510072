"""Parity with what was published. The rules are read from the file beside the weights, as a user's own are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ne_jax.data.preprocess import Preprocess, from_hugging_face, from_timm, to_pixels
from ne_jax.errors import UserError
from tests.oracles import timm, torchvision, transformers
from tests.photos import photographs
from tests.pictures import spec


def grey_levels(image: Image.Image, rules: Preprocess, normalised) -> np.ndarray:
    """How far our input of a model is from `normalised` (C, H, W), in grey levels of 8-bit pixels; the normalisation counts."""
    mean, std = np.array(rules.mean), np.array(rules.std)
    ours = (to_pixels(image, rules) / 255 - mean) / std
    theirs = np.moveaxis(np.asarray(normalised, np.float64), 0, -1)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs) * std * 255


def assert_exact(images, rules: Preprocess, processor) -> None:
    """Every pixel the same; a thousandth of a grey level is the float32 of the normalisation."""
    assert max(grey_levels(image, rules, processor(image)).max() for image in images) < 1e-3


def hugging_face(config: dict, backend: str):
    """The processor of transformers for a preprocessor_config.json, as a function image -> (C, H, W)."""
    name = config.get("image_processor_type", "ViTImageProcessor").replace("FeatureExtractor", "ImageProcessor")
    processor = getattr(transformers, name + backend).from_dict(config)
    return lambda image: processor(image, return_tensors="np")["pixel_values"][0]


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


SQUARE_224 = {"height": 224, "width": 224}


ALL = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 0.00392156862745098}


HUGGING_FACE = {  # as on the hub
    "google/vit-base-patch16-224": {"do_normalize": True, "do_resize": True, "size": 224, **HALF},
    "google/vit-large-patch16-384": {**ALL, "image_processor_type": "ViTImageProcessor", "resample": 2, **HALF}
    | {"size": {"height": 384, "width": 384}},
    "facebook/deit-base-distilled-patch16-224": {
        "image_processor_type": "DeiTFeatureExtractor",
        "resample": 3,
        **IMAGENET,
    }
    | {"do_resize": True, "do_normalize": True, "do_center_crop": True, "size": 256, "crop_size": 224},
    "facebook/dinov2-base": {**ALL, "image_processor_type": "BitImageProcessor", "resample": 3, **IMAGENET}
    | {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": SQUARE_224, "do_convert_rgb": True},
    "facebook/convnext-tiny-224": {"image_processor_type": "ConvNextFeatureExtractor", "resample": 3, **IMAGENET}
    | {"crop_pct": 0.875, "do_normalize": True, "do_resize": True, "size": 224},
    "facebook/convnext-base-384": {**ALL, "image_processor_type": "ConvNextImageProcessor", "resample": 3, **IMAGENET}
    | {"crop_pct": 0.875, "size": {"shortest_edge": 384}},
    "openai/clip-vit-base-patch16": {**ALL, "image_processor_type": "CLIPImageProcessor"},
    "silent ViT": {"image_processor_type": "ViTImageProcessor"},
    "silent DeiT": {"image_processor_type": "DeiTImageProcessor"},
    "silent BiT": {"image_processor_type": "BitImageProcessor"},
    "silent ConvNeXt": {"image_processor_type": "ConvNextImageProcessor"},
    "silent EfficientNet": {"image_processor_type": "EfficientNetImageProcessor"},
    "EfficientNet with an offset": {**ALL, "image_processor_type": "EfficientNetImageProcessor", "rescale_offset": True}
    | {"rescale_factor": 1 / 127.5, "include_top": False},
    "nearest": {"image_processor_type": "EfficientNetImageProcessor", "resample": 0},
    "not normalised": {"image_processor_type": "ViTImageProcessor", "do_normalize": False, "resample": 1},
    "crop of more than the image": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 201}},
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_transformers_on_pil_is_reproduced_exactly(name):
    """`from_hugging_face` gives every pixel of 20 photos, normalised, that the PIL processor named in the file gives: squash,
    shorter side and crop, ConvNeXt's two rules, silent defaults, the black border around what is too small."""
    config = HUGGING_FACE[name]
    assert_exact(photographs(), from_hugging_face(config), hugging_face(config, "Pil"))


@pytest.mark.parametrize(
    "name", [name for name in HUGGING_FACE if name not in ("nearest", "crop of more than the image")]
)
def test_transformers_on_torchvision_is_within_a_grey_level(name):
    """The default processors of transformers 5 resize bytes with torch: other than ours on at most 1 % of values, 4 % where a photo
    is enlarged twofold, nearly all by 1 grey level, 1 in 10,000 by 2 or 3. But Pillow 13 resizes vertically first what a squash
    makes much flatter; torch, and Pillow before 13, do not: there up to a quarter differ, at most by 9 levels. (Left out: torch's
    "nearest" takes another pixel, and the odd pixel of a border is elsewhere than on PIL.)"""
    rules, processor = from_hugging_face(HUGGING_FACE[name]), hugging_face(HUGGING_FACE[name], "")
    for photo in photographs():
        levels = grey_levels(photo, rules, processor(photo))
        if rules.resize == "squash" and photo.height > photo.width:
            assert levels.max() < 9.001 and (levels > 0.5).mean() <= 0.25 and (levels > 1.5).mean() <= 0.003
        else:
            share = 0.04 if 2 * max(photo.size) < rules.size else 0.01
            assert levels.max() < 3.001 and (levels > 0.5).mean() <= share and (levels > 1.5).mean() <= 1e-4


TIMM = [
    "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit_base_patch16_384.augreg_in21k_ft_in1k",
    "deit_base_distilled_patch16_224.fb_in1k",
    "vit_small_patch14_dinov2.lvd142m",
    "convnext_tiny.fb_in1k",
    "convnext_tiny.fb_in22k_ft_in1k_384",
    "resnet50.a1_in1k",
    "resnet50.tv_in1k",
    "resnet50.tv2_in1k",
    "tf_efficientnet_lite0.in1k",
    "tf_efficientnet_lite2.in1k",
    "tf_efficientnet_lite4.in1k",
]


def timm_transform(config: dict):
    settings = timm.data.resolve_data_config({}, pretrained_cfg=config)
    return timm.data.create_transform(**settings, is_training=False)


@pytest.mark.parametrize("name", TIMM)
def test_timm_is_reproduced_exactly(name):
    """`from_timm` gives every pixel of 20 photos, normalised, that timm's evaluation transform gives for a published model."""
    config = timm.models.get_pretrained_cfg(name).to_dict()
    assert from_timm({"architecture": name, "pretrained_cfg": config}) == from_timm(config)
    assert_exact(photographs(), from_timm(config), timm_transform(config))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.87, 1.0, 1.11])
def test_timm_s_crop_modes_are_reproduced_exactly(crop_mode, crop_pct):
    """Each crop mode of timm with a margin, without one and with a border, of an even and an odd size; silent defaults too."""
    for size in (64, 97):
        config = {
            "input_size": [3, size, size],
            "crop_pct": crop_pct,
            "crop_mode": crop_mode,
            "mean": [0.1, 0.5, 0.803],
        }
        assert_exact(photographs(), from_timm(config), timm_transform(config))


TORCHVISION = [
    "ResNet18",
    "ResNet50",
    "ViT_B_16",
    "ConvNeXt_Tiny",
    "ConvNeXt_Small",
    "ConvNeXt_Base",
    "EfficientNet_B0",
]


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_is_reproduced_exactly(name):
    """Its presets are size, resize and filter of "shorter" with the crop rounded: every pixel of 20 photos, for all weights."""
    for weights in getattr(torchvision.models, f"{name}_Weights"):
        published = weights.transforms()
        rules = Preprocess(
            published.crop_size[0],
            tuple(published.mean),
            tuple(published.std),
            "shorter",
            published.resize_size[0],
            published.interpolation.value,
            "round",
        )
        assert_exact(photographs(), rules, published)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK"])
def test_other_modes_are_read_as_transformers_reads_them(mode):
    """Grey, palette, opaque and print images give exactly what transformers gives when told to convert them. (What is transparent
    we show as stored, without its mask, as PIL, timm and torchvision do; transformers 5 lays it on white.)"""
    config = {**HUGGING_FACE["facebook/dinov2-base"], "do_convert_rgb": True}
    photos = [photo.convert(mode) for photo in photographs()[:4]]
    assert_exact(photos, from_hugging_face(config), hugging_face(config, "Pil"))


def test_equal_rules_are_equal():
    """Rules compare and hash by what they say, so that they can key a cache: `resize_to` left out is `size`."""
    assert (
        len({spec(), spec(resize_to=16), from_timm({"input_size": [3, 224, 224]}), from_timm({"crop_pct": 0.875})}) == 2
    )
    assert from_hugging_face(HUGGING_FACE["google/vit-base-patch16-224"]) == Preprocess(224, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_processor_type": "SamImageProcessor"}, "image_processor_type is 'SamImageProcessor'"),
        ({"image_processor_type": None}, "image_processor_type is missing"),
        ({"resample": 7}, "resample is 7"),
        ({"resample": "fancy"}, "resample is 'fancy'"),
        ({"size": {"height": 224, "width": 256}}, "size is {'height': 224, 'width': 256}"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "size is"),
        ({"size": "224"}, "size is '224'"),
        ({"size": {"shortest_edge": 0}}, "size is"),
        ({"crop_size": [224, 225]}, r"crop_size is \[224, 225\]"),
        ({"do_center_crop": False}, "do_center_crop is False"),
        ({"do_resize": False}, "do_resize is False"),
        ({"do_pad": True}, "do_pad is True"),
        ({"image_mean": ["a", "b", "c"]}, "image_mean is"),
        ({"image_std": [0.5]}, "image_std is"),
        ({"image_std": [0.5, 0.5, 0.0]}, "image_std is"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": SQUARE_224}, "size is"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "crop_size is"),
    ],
)
def test_what_cannot_be_said_of_transformers_is_named(change, named):
    """A preprocessor_config.json that `Preprocess` cannot say raises one line with the field, its value and what to give."""
    with pytest.raises(UserError, match=rf"^preprocessing file: {named}.*; give .*$"):
        from_hugging_face({**HUGGING_FACE["facebook/dinov2-base"], **change})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({}, "pretrained_cfg is missing"),
        ({"pretrained_cfg": "resnet"}, "pretrained_cfg is missing"),
        ({"input_size": [3, 224, 256]}, r"input_size is \[3, 224, 256\]"),
        ({"input_size": [4, 224, 224]}, r"input_size is \[4, 224, 224\]"),
        ({"input_size": 224}, "input_size is 224"),
        ({"interpolation": "random"}, "interpolation is 'random'"),
        ({"crop_mode": "corner"}, "crop_mode is 'corner'"),
        ({"crop_pct": -1}, "crop_pct is -1"),
        ({"input_size": [1, 28, 28]}, "mean is"),
        ({"std": [0.5, 0.5, 0]}, "std is"),
    ],
)
def test_what_cannot_be_said_of_timm_is_named(config, named):
    """A config.json of timm that `Preprocess` cannot say raises one line with the field, its value and what to give."""
    with pytest.raises(UserError, match=rf"^preprocessing file: {named}.*; give .*$"):
        from_timm(config)


def test_grey_models_are_read():
    """One channel in the file is one channel in the rules."""
    assert from_timm({"input_size": [1, 28, 28], "mean": [0.1], "std": [0.3]}).image_shape == (28, 28, 1)
    assert from_hugging_face({"size": 28, "image_mean": [0.1], "image_std": [0.3]}).image_shape == (28, 28, 1)
    assert from_hugging_face({"size": 28, "image_mean": 0.1, "image_std": 0.3}).mean == (0.1,) * 3
