"""Position embeddings of another image size, against what each publisher calls: torch's interpolation, SciPy's zoom."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import safetensors.torch
import scipy.ndimage

from ne_jax import UserError
from ne_jax.models.families import positions, vit, vit_formats
from ne_jax.models.loading import load_model
from tests import oracles
from tests.models.test_parity import HALF, IMAGENET, answer, nchw, normalised, random_pixels
from tests.oracles import timm, torch, transformers

SIZES = [(14, 24), (37, 16), (16, 37), (24, 7), (5, 6), (7, 7), (2, 3)]


def grid_of(old: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(old).standard_normal((old, old, channels)).astype(np.float32)


def resized(weights: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return np.einsum("ia,jb,abw->ijw", weights, weights, grid)


def interpolated(grid: np.ndarray, **how) -> np.ndarray:
    """torch's own, in float64."""
    tensor = torch.from_numpy(grid.astype(np.float64)).permute(2, 0, 1)[None]
    out = torch.nn.functional.interpolate(tensor, mode="bicubic", **how)
    return out[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_bicubic_is_torch_s(old, new):
    """transformers' way: bicubic, grown or shrunk, edges repeated."""
    grid = grid_of(old)
    np.testing.assert_allclose(
        resized(positions.bicubic(old, new), grid), interpolated(grid, size=(new, new)), atol=1e-12
    )


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_bicubic_with_an_offset_is_torch_s(old, new):
    """Meta's way: the scale is (new + .1) / old, so that rounding never loses a patch; edges shift by it."""
    grid, factor = grid_of(old), (new + 0.1) / old
    expected = interpolated(grid, scale_factor=(factor, factor))
    assert expected.shape[:2] == (new, new)
    found = resized(positions.bicubic(old, new, old / (new + 0.1)), grid)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.abs(found - resized(positions.bicubic(old, new), grid)).max() > 1e-3  # the offset is no trifle


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_bicubic_antialias_is_torch_s(old, new):
    """timm's way: bicubic, widened where it shrinks."""
    grid = grid_of(old)
    expected = interpolated(grid, size=(new, new), antialias=True)
    np.testing.assert_allclose(resized(positions.bicubic_antialias(old, new), grid), expected, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_bicubic_corners_is_torch_s(old, new):
    """torchvision's way: bicubic with corners on corners."""
    grid = grid_of(old)
    expected = interpolated(grid, size=(new, new), align_corners=True)
    np.testing.assert_allclose(resized(positions.bicubic_corners(old, new), grid), expected, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_linear_corners_is_scipy_s_zoom(old, new):
    """Google's way: scipy.ndimage.zoom of order 1."""
    grid = grid_of(old).astype(np.float64)
    expected = scipy.ndimage.zoom(grid, (new / old, new / old, 1), order=1)
    np.testing.assert_allclose(resized(positions.linear_corners(old, new), grid), expected, atol=1e-12)


METHODS = (positions.bicubic, positions.bicubic_corners, positions.bicubic_antialias, positions.linear_corners)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_stays_and_rows_sum_to_one(method):
    """Every method leaves a constant embedding as it is."""
    for old, new in SIZES:
        np.testing.assert_allclose(method(old, new).sum(axis=1), 1, atol=1e-12)


def test_tokens_before_the_patches_are_kept():
    """Class and distillation token's embeddings are copied, patches alone are resized; rows stay rows."""
    stored = np.random.default_rng(0).standard_normal((1, 2 + 49, 4)).astype(np.float32)
    found = positions.fit(positions.bicubic, 2)(stored, (1, 2 + 100, 4))
    np.testing.assert_array_equal(found[:, :2], stored[:, :2])
    grid = interpolated(stored[0, 2:].reshape(7, 7, 4), size=(10, 10))
    np.testing.assert_allclose(found[0, 2:], grid.reshape(100, 4), atol=1e-6)


def test_a_missing_class_position_becomes_zero():
    """timm's files with registers have no position for the class token: zeros, with and without resizing."""
    stored = np.random.default_rng(0).standard_normal((1, 49, 4)).astype(np.float32)
    fit = positions.fit(positions.bicubic_antialias, stored_prefix=0)
    found = fit(stored, (1, 50, 4))
    np.testing.assert_array_equal(found[0, 1:], stored[0])
    assert not found[0, 0].any() and not fit(stored, (1, 17, 4))[0, 0].any()


@pytest.mark.parametrize(
    "shape", [(1, 50, 5), (2, 50, 4), (1, 51, 4), (1, 1, 4), (50, 4), (1, 0, 4), (4,), (1, 2, 5, 4)]
)
def test_what_is_no_square_grid_of_that_width_is_refused(shape):
    """Another width, no square, no grid at all: no way is found, and port tells it."""
    assert positions.fit(positions.bicubic)(np.zeros(shape, np.float32), (1, 17, 4)) is None


@pytest.mark.parametrize("size", [160, pytest.param(352, marks=pytest.mark.slow)])
def test_another_size_is_as_transformers_does_it(tmp_path, size):
    """ViT: image_size=160 or 352 gives transformers' logits with interpolate_pos_encoding=True."""
    config = transformers.ViTConfig(
        hidden_size=384, num_attention_heads=6, intermediate_size=1536, patch_size=32, num_labels=1000
    )
    theirs = oracles.randomise(transformers.ViTForImageClassification(config), 5)
    theirs.save_pretrained(tmp_path)
    ours, pixels = load_model("vit_s32", tmp_path, image_size=size), random_pixels(2, size)
    assert ours.notes == (f"pos_embed resized to images of {size} pixels",) and ours.preprocess.size == size
    with torch.inference_mode():
        expected = theirs(nchw(normalised(pixels, HALF)), interpolate_pos_encoding=True).logits.numpy()
    oracles.close(ours.apply(pixels), expected, 1e-4)


@pytest.mark.parametrize("registers", [False, True], ids=["plain", "registers"])
def test_dinov2_s_large_positions_are_resized_as_transformers_does_it(tmp_path, registers):
    """DINOv2's 518-pixel files at 224 pixels: transformers smooths with registers only; so do we."""
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    theirs = oracles.randomise(getattr(transformers, f"{kind}Model")(config), 6)
    theirs.save_pretrained(tmp_path)
    ours, pixels = load_model("dinov2_s14_reg4" if registers else "dinov2_s14", tmp_path), random_pixels(2)
    assert ours.publisher == "hugging_face" and "pos_embed resized to images of 224 pixels" in ours.notes
    oracles.close(ours.features(pixels), answer(theirs, normalised(pixels, IMAGENET)), 1e-4)


@pytest.mark.parametrize(
    ("name", "theirs", "size", "statistics"),
    [
        ("vit_s32", "vit_small_patch32_224", 160, HALF),
        pytest.param("vit_s32", "vit_small_patch32_224", 352, HALF, marks=pytest.mark.slow),
        pytest.param("deit_s16_distilled", "deit_small_distilled_patch16_224", 160, IMAGENET, marks=pytest.mark.slow),
        ("dinov2_s14_reg4", "vit_small_patch14_reg4_dinov2", 168, IMAGENET),
    ],
)
def test_another_size_is_as_timm_does_it(tmp_path, name, theirs, size, statistics):
    """The published file at another image_size gives the logits of timm's network built with img_size, which resizes as it
    loads; distillation token and registers stay out of the grid."""
    published = oracles.randomise(timm.create_model(theirs), 7)
    safetensors.torch.save_file(published.state_dict(), tmp_path / "model.safetensors")
    file = {"file": str(tmp_path / "model.safetensors")}
    resized_by_timm = timm.create_model(theirs, pretrained=True, pretrained_cfg_overlay=file, img_size=size)
    ours, pixels = load_model(name, tmp_path, image_size=size), random_pixels(2, size)
    assert ours.publisher == "timm" and f"pos_embed resized to images of {size} pixels" in ours.notes
    found = ours.apply(pixels) if ours.num_classes else ours.features(pixels)
    oracles.close(found, answer(resized_by_timm.eval(), normalised(pixels, statistics)), 1e-4)


@pytest.mark.parametrize("size", [16, 230])
def test_a_size_that_no_grid_has_is_told(tmp_path, size):
    """A size that is no multiple of the patch, or tiny, is refused in one line."""
    with pytest.raises(
        UserError, match=rf"^image_size {size} does not fit vit_s32: give at least 32 .* multiple of 32$"
    ):
        load_model("vit_s32", tmp_path / "none.safetensors", image_size=size)


def test_every_publisher_s_positions_can_be_resized():
    """No key table of a ViT forgets that positions are made to fit."""
    for config in map(dataclasses.replace, vit.VARIANTS.values()):
        for fmt in vit_formats.FORMATS.values():
            assert fmt.keys(config)["pos_embed"].fit is not None
