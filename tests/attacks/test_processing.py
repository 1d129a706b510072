"""Attacks of tier 1: each is the operation that it is named after, and harmless to a photograph at its weakest."""

from __future__ import annotations

import inspect
import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ne_jax import UserError
from ne_jax.attacks import denoising, processing
from ne_jax.attacks.attack import Knowledge
from ne_jax.core.pixels import from_bytes
from tests.photos import photographs

ATTACKS = {attack.name: attack for attack in (*processing.ATTACKS, *denoising.ATTACKS)}
KNOWLEDGE = Knowledge(seed=3, patch=(8, 8, 3))
DENOISERS = [attack.name for attack in denoising.ATTACKS]

# The weakest choice of each grid that is not meant to move or cover pixels, and the PSNR that smooth photographs keep, in dB.
WEAKEST = {
    "jpeg": ({"quality": 95, "subsampling": "4:4:4"}, 42),
    "webp": ({"quality": 90}, 36),
    "png_bits": ({"bits": 7}, 48),
    "resize": ({"scale": 2.0, "method": "bicubic"}, 40),
    "illumination": ({"brightness": 1.0, "contrast": 0.9}, 28),
    "gamma": ({"exponent": 0.9}, 28),
    "noise": ({"sigma": 0.01}, 39),
    "paper_jpeg": ({"quality": 90}, 38),
    "paper_png": ({}, 57),
    "paper_resize": ({"scale": 2.0}, 33),
    "paper_illumination": ({"shift": 0.1}, 34),
    "mean_filter": ({}, 30),
    "gaussian_blur": ({"sigma": 0.5}, 36),
    "median": ({"size": 3}, 30),
    "bilateral": ({"sigma": 1.0, "color": 0.1}, 33),
    "total_variation": ({"weight": 0.02}, 35),
    "wavelet": ({"strength": 0.5}, 38),
    "non_local_means": ({"strength": 0.5}, 38),
    "bm3d": ({"strength": 0.5}, 38),
}


def run(name: str, stored: np.ndarray, knowledge: Knowledge = KNOWLEDGE, **parameters) -> np.ndarray:
    if name == "bm3d":
        pytest.importorskip("bm3d")  # its licence is not everyone's
    return ATTACKS[name].run(stored, knowledge, **parameters)


def psnr(images: np.ndarray, clean: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((images - clean) ** 2)))


@pytest.fixture(scope="module")
def levels() -> np.ndarray:
    """Smooth pictures: three photographs made small, uint8."""
    chosen = [photographs()[place] for place in (0, 4, 19)]
    return np.stack([np.asarray(photo.resize((96, 96), Image.Resampling.LANCZOS)) for photo in chosen])


@pytest.fixture(scope="module")
def photos(levels) -> np.ndarray:
    return from_bytes(levels)


@pytest.fixture(scope="module")
def smooth(photos) -> np.ndarray:
    """Photographs without fine detail, in 8 bits."""
    return from_bytes(processing.to_bytes(run("gaussian_blur", photos, sigma=1.5)))


@pytest.mark.parametrize("name", ATTACKS)
def test_every_choice_keeps_shape_and_dtype_and_repeats_itself(name, photos):
    """Whatever the runner may choose works, on colour, grey and a blank image, and twice the same: also from threads."""
    attack = ATTACKS[name]
    blank = np.full((1, 32, 40, 3), 0.5, np.float32)
    colour = np.concatenate([photos[:, :32, :40], blank])
    for stored in (colour, colour[..., :1]):
        if name == "grey" and stored.shape[3] == 1:
            continue
        for parameters in (*attack.grid, *attack.quick):
            kept = stored.copy()
            images = run(name, stored, **parameters)
            assert images.shape == stored.shape and images.dtype == np.float32
            assert np.isfinite(images).all()
            np.testing.assert_array_equal(stored, kept)  # the release is not written to
        np.testing.assert_array_equal(images, run(name, stored, **parameters))


@pytest.mark.parametrize("name", ATTACKS)
def test_entries_know_nothing_and_name_parameters_that_exist(name):
    attack = ATTACKS[name]
    assert (attack.tier, attack.knows, attack.kind) == (1, frozenset(), "images")
    given = inspect.signature(attack.run).parameters
    needed = {key for key, parameter in given.items() if parameter.kind is parameter.KEYWORD_ONLY}
    required = {key for key in needed if given[key].default is inspect.Parameter.empty}
    assert attack.grid and attack.quick
    for parameters in (*attack.grid, *attack.quick):
        assert required <= set(parameters) <= needed
    assert len({str(parameters) for parameters in attack.grid}) == len(attack.grid)


def test_no_two_attacks_share_a_name():
    assert len(ATTACKS) == len(processing.ATTACKS) + len(denoising.ATTACKS)


@pytest.mark.parametrize("name", WEAKEST)
def test_the_weakest_choice_leaves_a_smooth_photograph_nearly_alone(name, smooth):
    """An attack that ruins clean images would be judged by its own damage."""
    parameters, floor = WEAKEST[name]
    kept = psnr(run(name, smooth, **parameters), smooth)
    print(f"{name} {parameters}: {kept:.1f} dB")
    assert kept > floor


@pytest.mark.parametrize("name", DENOISERS)
def test_denoisers_remove_white_noise(name, smooth):
    """Noise of every frequency: each quick choice brings smooth photographs nearer, by 2 dB or more."""
    noisy = smooth + 0.1 * np.random.default_rng(0).standard_normal(smooth.shape, np.float32)
    for parameters in ATTACKS[name].quick:
        gained = psnr(run(name, noisy, **parameters), smooth) - psnr(noisy, smooth)
        print(f"{name} {parameters}: {gained:+.1f} dB")
        assert gained > 2


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("mean_filter", {}), ("gaussian_blur", {"sigma": 1.0}), ("resize", {"scale": 0.5, "method": "area"})],
)
def test_smoothing_removes_noise_of_high_frequency(name, parameters, photos):
    """A checkerboard, the highest frequency there is: less than a sixth of it is left, and photographs come nearer."""
    rows, columns = np.indices(photos.shape[1:3])
    noise = (0.2 * (-1.0) ** (rows + columns))[..., None].astype(np.float32)
    left = run(name, np.full_like(photos, 0.5) + noise, **parameters)[:, 4:-4, 4:-4] - 0.5
    assert np.abs(left).max() < 0.2 / 6
    assert psnr(run(name, photos + noise, **parameters), photos) > psnr(photos + noise, photos) + 3


def test_bilateral_is_its_definition(photos):
    """A pixel: the mean of its window, weighted by nearness of place and, over all channels, of colour; of grey too."""
    sigma, color = 1.0, 0.2
    for stored in (photos, photos[..., :1]):
        window = stored[1, 40:45, 50:55].astype(np.float64)
        rows, columns = np.indices((5, 5)) - 2
        unlike = np.sum((window - window[2, 2]) ** 2, axis=-1)
        weight = np.exp(-(rows**2 + columns**2) / (2 * sigma**2) - unlike / (2 * color**2))
        expected = np.tensordot(weight, window, 2) / weight.sum()
        np.testing.assert_allclose(run("bilateral", stored, sigma=sigma, color=color)[1, 42, 52], expected, atol=1e-5)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [95, 75, 10])
def test_jpeg_is_pillows_own_bit_for_bit(levels, quality, subsampling):
    """Colour and grey, of float images that are whole levels and of ones that round and clip to them."""
    noise = np.random.default_rng(1).uniform(-0.4, 0.4, levels.shape) / 255
    near = np.where(levels == 255, 1.2, np.where(levels == 0, -0.2, levels / 255 + noise)).astype(np.float32)
    for pixels in (from_bytes(levels), near):
        for channels in (3, 1):
            coded = run("jpeg", pixels[..., :channels], quality=quality, subsampling=subsampling)
            for image, array in zip(coded, levels[..., :channels], strict=True):
                file = io.BytesIO()
                picture = Image.fromarray(array.squeeze())
                picture.save(file, "JPEG", quality=quality, subsampling={"4:2:0": 2, "4:4:4": 0}[subsampling])
                expected = np.asarray(Image.open(file)).reshape(array.shape)
                np.testing.assert_array_equal(np.rint(image * 255), expected)
                np.testing.assert_array_equal(image, from_bytes(expected))


def test_webp_is_lossy_and_better_at_higher_quality(photos):
    errors = [psnr(run("webp", photos, quality=quality), photos) for quality in (10, 50, 90)]
    assert errors == sorted(errors) and errors[2] < 60


@pytest.mark.parametrize("bits", [7, 5, 3])
def test_png_bits_takes_the_nearest_of_its_levels(photos, bits):
    stored = photos.copy()
    stored[0, 0, 0, 0], stored[0, 0, 0, 1] = -0.3, 1.3
    coded = run("png_bits", stored, bits=bits)
    assert len(np.unique(coded)) <= 2**bits
    assert np.abs(coded - np.clip(stored, 0, 1)).max() <= 0.5 / (2**bits - 1) + 1e-6
    assert (coded[0, 0, 0, 0], coded[0, 0, 0, 1]) == (0, 1)


def test_resize_by_half_with_area_gives_means_of_four(photos):
    """Pillow's box: and back by it, so that each mean fills its four pixels."""
    blocks = photos.reshape(3, 48, 2, 48, 2, 3).mean((2, 4))
    np.testing.assert_allclose(
        run("resize", photos, scale=0.5, method="area"), blocks.repeat(2, 1).repeat(2, 2), atol=1e-6
    )


@pytest.mark.parametrize(("offset", "pixels"), [(0.0, 1), (0.5, 4), (1.0, 7)])
def test_off_grid_crop_moves_by_less_than_a_patch(photos, offset, pixels):
    moved = run("off_grid_crop", photos, offset=offset, back="repeat")
    np.testing.assert_array_equal(moved[:, :-pixels, :-pixels], photos[:, pixels:, pixels:])
    np.testing.assert_array_equal(moved[:, -1, :-pixels], photos[:, -1, pixels:])


def test_off_grid_crop_stretches_what_is_left_to_the_old_size(photos):
    """The lower right corner stays in place; a ramp stays a ramp, less steep."""
    ramp = np.broadcast_to(np.linspace(0, 1, 96, dtype=np.float32)[:, None, None], (1, 96, 96, 3))
    stretched = run("off_grid_crop", ramp, offset=1.0, back="resize")
    slopes = np.diff(stretched[0, 4:-4, 50, 0]) * 95
    np.testing.assert_allclose(slopes, 89 / 96, atol=0.05)
    np.testing.assert_allclose(stretched[0, -1, 0, 0], 1, atol=0.02)


def test_off_grid_crop_says_where_it_has_no_meaning(photos):
    with pytest.raises(UserError, match="one pixel"):
        run("off_grid_crop", photos, Knowledge(patch=(1, 1, 3)), offset=0.5, back="repeat")


def test_rotation_by_a_quarter_is_exact(photos):
    np.testing.assert_allclose(run("rotate", photos, degrees=90), np.rot90(photos, axes=(1, 2)), atol=1e-5)


def test_small_rotations_keep_the_centre_and_move_the_border(photos):
    moved = np.abs(run("rotate", photos, degrees=5) - photos).mean((0, 3))
    assert moved[45:51, 45:51].mean() < moved[:10].mean() / 2


def test_flip_mirrors_left_and_right(photos):
    np.testing.assert_array_equal(run("flip", photos)[:, :, 0], photos[:, :, -1])
    np.testing.assert_array_equal(run("flip", run("flip", photos)), photos)


@pytest.mark.parametrize(("name", "value"), [("occlude", 0.0), ("paper_crop", 0.5)])
def test_rectangles_cover_their_share_at_a_place_of_their_own(photos, name, value):
    stored = photos * 0.3 + 0.1  # neither black nor middle grey
    covered = run(name, stored, side=0.25)
    hidden = (covered != stored).any(-1)
    np.testing.assert_array_equal(hidden.sum((1, 2)), 24 * 24)
    assert (covered[hidden] == value).all()
    assert len({tuple(np.argwhere(mask)[0]) for mask in hidden}) == 3
    assert (run(name, stored, KNOWLEDGE._replace(seed=4), side=0.25) != covered).any()


def test_illumination_and_gamma_are_their_formulas(photos):
    half = run("illumination", photos, brightness=0.5, contrast=1.0)
    np.testing.assert_allclose(half, photos / 2, atol=1e-6)
    flat = run("illumination", photos, brightness=1.0, contrast=0.5)
    np.testing.assert_allclose(flat.mean((1, 2, 3)), photos.mean((1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(flat.std((1, 2, 3)), photos.std((1, 2, 3)) / 2, rtol=1e-4)
    assert run("illumination", photos, brightness=2.0, contrast=1.0).max() == 1
    np.testing.assert_allclose(run("gamma", photos, exponent=2.0), photos**2, atol=1e-6)


def test_equalise_makes_the_histogram_flat(photos):
    dark = photos * 0.3
    equal = run("equalise", dark)
    quartiles = np.quantile(equal.reshape(3, -1), (0.25, 0.5, 0.75), axis=1)
    np.testing.assert_allclose(quartiles, [[0.25] * 3, [0.5] * 3, [0.75] * 3], atol=0.12)


def test_grey_keeps_luma_and_needs_colour(photos):
    toned = run("grey", photos)
    assert np.ptp(toned, axis=-1).max() == 0
    np.testing.assert_allclose(toned[..., 0], photos @ np.float32([0.299, 0.587, 0.114]), atol=1e-6)
    with pytest.raises(UserError, match="grey already"):
        run("grey", photos[..., :1])


def test_noise_has_its_size_and_stays_in_the_box(photos):
    middle = np.full_like(photos, 0.5)
    noisy = run("noise", middle, sigma=0.05)
    np.testing.assert_allclose((noisy - middle).std(), 0.05, rtol=0.02)
    assert not np.array_equal(noisy[0], noisy[1])
    assert run("noise", photos, sigma=0.5).min() == 0 and run("noise", photos, sigma=0.5).max() == 1


def test_paper_files_use_the_own_range_of_each_image(photos):
    """The official code's side channel: contrast and offset go through 8 bits unharmed, of images that no file holds."""
    wide = (3 * photos - 1).astype(np.float32)
    np.testing.assert_allclose(run("paper_png", wide), wide, atol=0.5 * 3 / 255 + 1e-5)
    assert psnr(run("paper_jpeg", wide, quality=90), wide) > psnr(run("jpeg", wide, quality=90), wide) + 5


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.5])
def test_paper_resize_is_linear_without_averaging(photos, scale):
    """As PyTorch has it, which is OpenCV's INTER_LINEAR."""

    def linear(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)

    images = torch.tensor(photos[:, :90]).permute(0, 3, 1, 2)
    small = linear(images, (int(90 * scale), int(96 * scale)))
    expected = linear(small, (90, 96)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(run("paper_resize", photos[:, :90], scale=scale), expected, atol=1e-5)


def test_paper_illumination_adds_one_number_to_each_image(photos):
    added = run("paper_illumination", photos, shift=0.5) - photos
    assert np.ptp(added, axis=(1, 2, 3)).max() < 1e-6
    assert len(np.unique(added[:, 0, 0, 0])) == 3
    assert np.abs(added).max() < 0.5 * 0.23


@pytest.mark.parametrize(
    ("name", "module"),
    [("bm3d", "bm3d"), ("total_variation", "skimage.restoration"), ("wavelet", "pywt"), ("non_local_means", "pywt")],
)
def test_a_missing_library_is_told_in_one_line(photos, monkeypatch, name, module):
    """A machine without the optional libraries runs all other attacks."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"install (bm3d|scikit-image|PyWavelets) for this attack: pip install \S+$"):
        ATTACKS[name].run(photos[:1], KNOWLEDGE, **ATTACKS[name].quick[0])


@pytest.mark.parametrize("name", ["occlude", "noise", "paper_crop", "paper_illumination"])
def test_what_is_random_does_not_hang_on_later_images(photos, name):
    """So an attack and its control on clean images, which are fewer, differ by nothing else."""
    parameters = ATTACKS[name].quick[0]
    np.testing.assert_array_equal(run(name, photos, **parameters)[:2], run(name, photos[:2], **parameters))


def test_grey_pictures_in_colour_are_denoised_like_grey_ones():
    """BM3D divides by the range of each colour, which is zero there."""
    pytest.importorskip("bm3d")
    grey = np.random.default_rng(0).random((1, 32, 32, 1), np.float32)
    found = run("bm3d", np.repeat(grey, 3, axis=3), strength=1.0, fast=True)
    np.testing.assert_allclose(found, np.repeat(run("bm3d", grey, strength=1.0, fast=True), 3, axis=3), atol=1e-3)


@pytest.mark.parametrize("name", ["jpeg", "webp", "equalise"])
def test_files_of_other_channels_are_refused(name):
    with pytest.raises(UserError, match="grey"):
        run(name, np.zeros((1, 8, 8, 2), np.float32), **ATTACKS[name].quick[0])


def test_noise_level_finds_white_noise_and_none_in_a_blank():
    noise = np.random.default_rng(0).normal(0, 0.1, (128, 128, 3)).astype(np.float32)
    np.testing.assert_allclose(denoising.noise_level(noise), 0.1, rtol=0.05)
    assert denoising.noise_level(np.full((32, 32, 1), 0.3, np.float32)) < 1e-6
