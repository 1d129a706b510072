from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ne_jax.data.preprocess import Preprocess, adapt, from_hugging_face, from_timm, to_pixels
from ne_jax.errors import UserError
from tests.oracles import timm, torchvision, transformers
from tests.photos import photographs

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "box": Image.Resampling.BOX}


def spec(size=16, channels=3, **choices) -> Preprocess:
    return Preprocess(size, channels * (0.5,), channels * (0.25,), **choices)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", ["squash", "shorter"])
@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (16, 16), (7, 5), (200, 3), (3, 200), (17, 16)])
def test_every_image_gets_the_model_s_size(shape, resize, channels):
    """Wide, tall, small and extreme images become uint8 of the model's shape."""
    pixels = to_pixels(
        picture(*shape), spec(channels=channels, resize=resize, resize_to=18 if resize == "shorter" else None)
    )
    assert pixels.shape == (16, 16, channels) == spec(channels=channels).image_shape
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("interpolation", FILTERS)
def test_squash_is_pil_s_resize(interpolation):
    """`squash` is PIL's resize to the square, byte for byte, with the filter named."""
    image = picture(60, 40)
    expected = np.asarray(image.resize((16, 16), FILTERS[interpolation]))
    assert np.array_equal(to_pixels(image, spec(interpolation=interpolation)), expected)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("shape", "resized", "corner"),
    [
        ((60, 40), (30, 20), (7, 2)),
        ((40, 60), (20, 30), (2, 7)),
        ((50, 33), (30, 20), (7, 2)),
        ((20, 20), (20, 20), (2, 2)),
    ],
)
def test_shorter_is_pil_s_resize_and_the_centre_crop(shape, resized, corner, interpolation):
    """`shorter` keeps the aspect: shorter side to 20, then the middle 16 x 16 (an odd pixel right or below), as PIL does both."""
    image = picture(*shape)
    left, top = corner
    expected = image.resize(resized, FILTERS[interpolation]).crop((left, top, left + 16, top + 16))
    found = to_pixels(image, spec(resize="shorter", resize_to=20, interpolation=interpolation))
    assert np.array_equal(found, np.asarray(expected))


def test_shorter_without_a_margin_crops_the_longer_side_only():
    """Without `resize_to` the shorter side becomes the size itself."""
    image = picture(48, 32)
    expected = image.resize((24, 16), Image.Resampling.BILINEAR).crop((4, 0, 20, 16))
    assert np.array_equal(to_pixels(image, spec(resize="shorter")), np.asarray(expected))


def whole(image: Image.Image, rules: Preprocess) -> np.ndarray:
    """`shorter` to the letter: all of the image is resized, and then cropped."""
    sides = tuple(rules.resize_to * side // min(image.size) for side in image.size)
    cut = (lambda excess: excess // 2) if rules.crop == "floor" else (lambda excess: round(excess / 2))
    left, top = (cut(side - rules.size) for side in sides)
    resized = image.resize(sides, Image.Resampling[rules.interpolation.upper()])
    return np.asarray(resized.crop((left, top, left + rules.size, top + rules.size)))


@pytest.mark.parametrize("crop", ["floor", "round"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"])
def test_ordinary_pictures_are_resized_whole(interpolation, crop):
    """Up to sixteen times as long as wide, a picture is resized as PIL does it, byte for byte, and then cropped."""
    for shape, resize_to in itertools.product(((50, 33), (33, 50), (16, 200), (200, 16), (5, 80), (640, 41)), (16, 18)):
        rules = spec(resize="shorter", resize_to=resize_to, interpolation=interpolation, crop=crop)
        assert max(shape) <= 16 * min(shape)
        assert np.array_equal(to_pixels(picture(*shape), rules), whole(picture(*shape), rules))


@pytest.mark.parametrize("crop", ["floor", "round"])
@pytest.mark.parametrize("shape", [(1, 400), (400, 1), (3, 200), (200, 3), (2, 501), (40, 2000), (2000, 40), (83, 2)])
def test_of_a_very_long_picture_only_the_middle_is_resized(shape, crop):
    """The middle is where it would be in the whole; how close, tests/data/test_resize.py says."""
    for interpolation, share in (("bilinear", 0), ("bicubic", 0.01)):
        rules = spec(resize="shorter", resize_to=19, interpolation=interpolation, crop=crop)
        levels = np.abs(to_pixels(picture(*shape), rules).astype(int) - whole(picture(*shape), rules))
        assert (levels > 1).mean() <= share and (levels > 0).mean() <= 0.25


PEAK = """
import re, sys, time
from ne_jax.data.images import open_image
from ne_jax.data.preprocess import Preprocess, to_pixels


def peak():  # of this process alone: what getrusage says starts with the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])


before, start = peak(), time.perf_counter()
pixels = to_pixels(open_image(sys.argv[1], "x"), Preprocess(224, (0.5,) * 3, (0.5,) * 3, "shorter", 256, "bicubic"))
assert pixels.shape == (224, 224, 3) and pixels.std() > 1
print(peak() - before, time.perf_counter() - start)
"""


@pytest.mark.parametrize("shape", [(1, 65_500), (65_500, 1), (1, 20_000), (65_500, 3)])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_very_long_picture_takes_little(tmp_path, shape, ending):
    """At most 300 MB and a second to read and fit it, in a fresh process: resized whole, it would be 17 million pixels long."""
    picture(*shape).save(tmp_path / f"long.{ending}")
    command = [sys.executable, "-c", PEAK, str(tmp_path / f"long.{ending}")]
    kilobytes, seconds = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert kilobytes <= 300e3 and seconds <= 1


def test_an_image_of_the_right_size_is_kept():
    """Nothing is resampled that has its size already: pixels stay byte for byte."""
    image = picture(16, 16)
    for resize in ("squash", "shorter"):
        assert np.array_equal(to_pixels(image, spec(resize=resize)), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_model_s_channels(mode, channels):
    """Grey, palette, transparent and print images are converted before they are resized, as PIL converts them."""
    image = picture(16, 16, mode)
    expected = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(16, 16, channels)
    assert np.array_equal(to_pixels(image, spec(channels=channels)), expected)


def test_grey_and_colour_have_known_values():
    """Grey becomes three equal channels; colour becomes grey by the luma of ITU-R 601-2, .299 R + .587 G + .114 B."""
    grey = Image.new("L", (16, 16), 77)
    assert (to_pixels(grey, spec()) == 77).all()
    colour = Image.new("RGB", (16, 16), (200, 100, 50))
    assert (to_pixels(colour, spec(channels=1)) == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert (to_pixels(palette, spec()) == (10, 20, 30)).all()


def stored(count=2, height=40, width=40, channels=3) -> np.ndarray:
    """Float images as a release holds them, every pixel a multiple of 1/255."""
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (count, height, width, channels)).astype(np.float32) / np.float32(255)


def test_images_that_fit_another_model_stay_as_they_are():
    """Where the shape is the reader's already, not a bit is changed."""
    images = stored(height=16, width=16)
    assert adapt(images, spec()) is images


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    "choices",
    [
        {"resize": "squash"},
        {"resize": "squash", "resize_to": 21, "crop": "round"},
        {"resize": "shorter", "resize_to": 20},
        {"resize": "shorter", "resize_to": 19, "crop": "round"},
        {"resize": "shorter", "resize_to": 11},
        {"resize": "longer"},
        {"resize": "crop_first", "resize_to": 18},
    ],
)
def test_readers_resize_and_crop_as_they_do_files(choices, interpolation):
    """Each channel is resized and cropped like a file's, but for the two roundings to bytes that only a file gets."""
    # In the middle of the range, where bicubic's overshoot, which PIL cuts off in bytes between its passes, has room.
    images, reader = np.float32(0.25) + stored(height=36) / 2, spec(interpolation=interpolation, **choices)
    images = np.round(images * 255) / np.float32(255)
    files = [to_pixels(Image.fromarray(np.round(image * 255).astype(np.uint8)), reader) for image in images]
    found = adapt(images, reader)
    assert found.shape == (2, 16, 16, 3) and found.dtype == np.float32
    # Half a grey level in each of PIL's two passes, the first weighted by the filter: sum of absolute weights 1, bicubic below
    # 1.5. And .05 for the fixed-point weights.
    assert np.abs(found * 255 - np.stack(files)).max() <= 0.55 + 0.5 * (1.5 if interpolation == "bicubic" else 1)


def test_what_leaves_the_range_stays_out_of_it():
    """A float release may leave [0, 1]: a constant of -2 or 3 is still that after the resize."""
    for value in (-2.0, 3.0):
        found = adapt(np.full((1, 40, 30, 3), value, np.float32), spec())
        np.testing.assert_allclose(found, value, rtol=16 * np.finfo(np.float32).eps)


def test_channels_are_adapted():
    """Grey becomes three equal channels; colour becomes grey by .299 R + .587 G + .114 B, without rounding to bytes."""
    grey, colour = stored(channels=1), stored()
    tripled = adapt(grey, spec())
    assert np.array_equal(tripled[..., 0], adapt(grey, spec(channels=1))[..., 0])
    assert np.array_equal(tripled[..., 0], tripled[..., 1]) and np.array_equal(tripled[..., 1], tripled[..., 2])
    separate = adapt(colour, spec())
    np.testing.assert_allclose(
        adapt(colour, spec(channels=1))[..., 0], separate @ [0.299, 0.587, 0.114], rtol=0, atol=1e-6
    )


# --- Parity with what was published. The rules are read from the file beside the weights, as a user's own are. ---


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


def test_crop_first_is_google_s_rule():
    """EfficientNet-Lite: central square of int(size / (size + 32) * shorter side) pixels, the odd pixel left or above, then PIL's
    resize; also where the fraction is a whole number but for the last bit, and where nothing would be left."""
    # (size, shorter side) -> (side of the square, left of 501 pixels, top): worked out by hand from the published expression.
    cases = {
        (224, 256): (224, 139, 16),
        (224, 301): (263, 119, 19),
        (240, 340): (300, 101, 20),
        (240, 341): (300, 101, 21),
    }
    for (size, height), (side, left, top) in cases.items():
        image = picture(501, height)
        expected = image.crop((left, top, left + side, top + side)).resize((size, size), FILTERS["bicubic"])
        rules = Preprocess(size, (0.5,) * 3, (0.5,) * 3, "crop_first", size + 32, "bicubic")
        assert np.array_equal(to_pixels(image, rules), np.asarray(expected))
    assert to_pixels(picture(1, 1), Preprocess(224, (0.5,) * 3, (0.5,) * 3, "crop_first", 256)).shape == (224, 224, 3)


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
