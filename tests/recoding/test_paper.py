"""`paper` mode: that it is the official code as described, bug for bug, and that it is as insecure as it says."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ne_jax import FirstLayer, UserError
from ne_jax.recoding import paper

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPE = (24, 20, 3)
LAYERS = {
    "patches": ((4, 4, 3, 64), (4, 4), "VALID"),
    "stem": ((7, 7, 3, 32), (2, 2), ((3, 3), (3, 3))),
    "same": ((3, 3, 3, 40), (2, 2), "SAME"),
}
# tau that leaves about half of the directions where d <= m, and is ignored where d > m ("stem": 147 > 32).
TAU = 0.5
BASELINE = pathlib.Path(__file__).parent.parent.parent / "scripts" / "torch_baseline.py"


def build(name: str) -> FirstLayer:
    shape, strides, padding = LAYERS[name]
    return FirstLayer(np.random.default_rng(3).standard_normal(shape), strides, padding, MEAN, STD)


@pytest.fixture(scope="module", params=LAYERS)
def case(request) -> tuple[FirstLayer, jax.Array]:
    """A layer and its low-sensitivity directions."""
    layer = build(request.param)
    return layer, paper.low_directions(layer, TAU)


@pytest.fixture(scope="module")
def patches() -> tuple[FirstLayer, jax.Array]:
    """Patches of 4 x 4 x 3 = 48 numbers, 20 outputs: 28 null directions."""
    layer = FirstLayer(np.random.default_rng(3).standard_normal((4, 4, 3, 20)), (4, 4), "VALID", MEAN, STD)
    return layer, paper.low_directions(layer, 0.0)


@pytest.fixture(scope="module")
def stem() -> tuple[FirstLayer, jax.Array]:
    """ResNet's stem in small, 147 - 32 = 115 null directions."""
    return build("stem"), paper.low_directions(build("stem"), 0.0)


@pytest.fixture(scope="module")
def pictures() -> jax.Array:
    """Five images, smooth and not, so that neighbouring windows are alike as in photographs."""
    noise = np.random.default_rng(5).uniform(0, 1, (5, *SHAPE))
    ramp = np.linspace(0, 1, SHAPE[0])[:, None, None] * np.linspace(1, 0.3, 3)
    return jnp.asarray(0.7 * ramp + 0.3 * noise, jnp.float32)


@pytest.fixture(scope="module")
def baseline():
    """scripts/torch_baseline.py as a module."""
    spec = importlib.util.spec_from_file_location("torch_baseline", BASELINE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_numpy(draws, image, layer, basis, psnr_db) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The description, step by step in float64 NumPy: the unfolded tensor, the fold, and how many windows see each pixel."""
    mean, std = np.asarray(MEAN), np.asarray(STD)
    (kh, kw, channels), (down, right) = layer.window, layer.strides
    height, width, _ = image.shape
    if layer.padding == "SAME":  # the total that the last window needs, the smaller half first
        total = [max((math.ceil(n / s) - 1) * s + k - n, 0) for n, s, k in ((height, down, kh), (width, right, kw))]
        (top, bottom), (left, over) = ((n // 2, n - n // 2) for n in total)
    else:
        (top, bottom), (left, over) = layer.padding if layer.padding != "VALID" else ((0, 0), (0, 0))
    padded = np.zeros((top + height + bottom, left + width + over, channels))
    padded[top : top + height, left : left + width] = (np.asarray(image, np.float64) - mean) / std
    rows, columns = (padded.shape[0] - kh) // down + 1, (padded.shape[1] - kw) // right + 1
    places = list(itertools.product(range(rows), range(columns)))
    windows = np.array([padded[r * down :, c * right :][:kh, :kw].ravel() for r, c in places])

    first, second = (np.asarray(basis, np.float64) @ one for one in np.asarray(draws, np.float64))
    scale = np.sqrt(255**2 / 10 ** (psnr_db / 10) / np.mean((windows + first) ** 2))
    noisy = (windows + scale * second).reshape(-1, kh, kw, channels)

    unfolded = np.zeros((rows * kh, columns * kw, channels))
    folded, counts = np.zeros_like(padded), np.zeros(padded.shape[:2])
    for (r, c), window in zip(places, noisy, strict=True):
        unfolded[r * kh : (r + 1) * kh, c * kw : (c + 1) * kw] = window
        folded[r * down : r * down + kh, c * right : c * right + kw] += window
        counts[r * down : r * down + kh, c * right : c * right + kw] += 1
    inside = slice(top, top + height), slice(left, left + width)
    return unfolded * std + mean, folded[inside] * std + mean, counts[inside]


def assert_close(found, expected) -> None:
    """Equal up to float32 sums of a few hundred numbers, relative to the largest."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def blocks(unfolded, window) -> np.ndarray:
    """An unfolded tensor's windows: (rows, columns, kh, kw, C)."""
    rows, columns = (side // kernel for side, kernel in zip(unfolded.shape, window[:2], strict=False))
    return np.asarray(unfolded, np.float64).reshape(rows, window[0], columns, window[1], -1).swapaxes(1, 2)


@pytest.mark.parametrize("psnr_db", [0.0, 30.0, 60.0])
def test_it_is_the_description_in_numpy(keys, pictures, case, psnr_db):
    """Unfolded tensor and recoded image are those of loops over windows in NumPy that are given the same two draws."""
    layer, basis = case
    draws = paper.draws(keys[0], basis.shape[1])
    unfolded, folded, _ = in_numpy(draws, pictures[0], layer, basis, psnr_db)
    assert_close(paper.paper_unfolded(keys[0], pictures[0], layer, basis, psnr_db), unfolded)
    assert_close(paper.paper_recode(keys[0], pictures[0], layer, basis, psnr_db), folded)


def test_it_maps_over_keys_and_images(keys, pictures, case):
    """Under jit and vmap, with a traced psnr_db, each image gets what it gets alone, and no two the same noise."""
    layer, basis = case
    many = jax.jit(jax.vmap(lambda key, image, psnr: paper.paper_recode(key, image, layer, basis, psnr), (0, 0, None)))
    found = many(keys[:5], pictures, 30.0)
    for index in range(5):
        assert_close(found[index], paper.paper_recode(keys[index], pictures[index], layer, basis, 30.0))
    twice = many(keys[:5], jnp.repeat(pictures[:1], 5, axis=0), 30.0)
    assert min(float(jnp.std(twice[0] - other)) for other in twice[1:]) > 0.1


def test_bytes_are_pixels(keys, pictures, patches):
    """uint8 gives what the same image in [0, 1] gives."""
    stored = np.round(np.asarray(pictures[0]) * 255).astype(np.uint8)
    as_float = paper.paper_recode(keys[0], stored / np.float32(255), *patches, 30.0)
    assert_close(paper.paper_recode(keys[0], stored, *patches, 30.0), as_float)


@pytest.mark.parametrize(("outputs", "tau"), [(20, 0.0), (20, 0.9), (48, 0.3), (64, 0.3)])
def test_the_rank_follows_tau_only_where_outputs_suffice(make_layer, outputs, tau):
    """d = 48: with fewer outputs the rank is their number whatever tau, otherwise the count of sigma above tau sigma_1."""
    sigma = np.geomspace(1, 0.05, min(outputs, 48))
    chosen = make_layer(sigma, (4, 4, 3), outputs, std=np.ones(3))  # std 1: the kernel's own spectrum is the one chosen
    basis = np.asarray(paper.low_directions(chosen.layer, tau), np.float64)
    rank = outputs if outputs < 48 else int(np.sum(sigma > tau))
    assert basis.shape == (48, 48 - rank)
    assert 0 < rank < 48
    np.testing.assert_allclose(basis @ basis.T, chosen.vectors[:, rank:] @ chosen.vectors[:, rank:].T, atol=1e-5)


def test_resnet50_has_rank_64():
    """The 7 x 7 x 3 = 147 > 64 stem: 83 directions for any tau."""
    layer = FirstLayer(np.random.default_rng(0).standard_normal((7, 7, 3, 64)), (2, 2), ((3, 3), (3, 3)), MEAN, STD)
    assert paper.low_directions(layer, 0.01).shape == paper.low_directions(layer, 0.8).shape == (147, 83)


def test_directions_are_those_of_normalised_inputs(make_layer):
    """The kernel is decomposed as it is, not in pixel units: with unequal std its null space is another than T's."""
    chosen = make_layer(np.ones(20), (4, 4, 3), 20, std=(0.1, 0.3, 0.9))
    basis = np.asarray(paper.low_directions(chosen.layer, 0.0))
    kernel = np.asarray(chosen.layer.kernel).reshape(48, 20)
    assert np.abs(kernel.T @ basis).max() < 1e-6
    assert np.abs(chosen.layer.matrix @ basis).max() > 0.1


def test_every_window_has_the_same_noise(keys, pictures, case):
    """The tile: what is added to the first window is added to each of them, and it lies in the subspace."""
    layer, basis = case
    clean, noisy = (paper.paper_unfolded(keys[0], pictures[0], layer, basis, psnr) for psnr in (math.inf, 20.0))
    noise = blocks(noisy, layer.window) - blocks(clean, layer.window)
    assert np.abs(noise).max() > 1
    assert np.abs(noise - noise[0, 0]).max() < 1e-5 * np.abs(noise).max()
    tile = (noise[0, 0] / np.asarray(STD)).ravel()
    inside = np.asarray(basis, np.float64) @ (np.asarray(basis, np.float64).T @ tile)
    assert np.linalg.norm(tile - inside) < 1e-5 * np.linalg.norm(tile)


def test_the_scale_is_of_another_draw_than_the_noise(pictures, patches):
    """Noise is along draw 2; ten times draw 1 makes it weaker, ten times draw 2 ten times stronger."""
    layer, basis = patches
    draws = np.asarray(paper.draws(jax.random.key(7), basis.shape[1]))

    def noise(first, second):
        noisy = paper._unfolded(jnp.stack([first * draws[0], second * draws[1]]), pictures[0], layer, basis, 30.0)
        return ((noisy - pictures[0]) / layer.std)[:4, :4].ravel()

    plain, other_scale, other_noise = noise(1, 1), noise(10, 1), noise(1, 10)
    along = np.asarray(basis) @ draws[1]
    assert np.dot(plain, along) > 0.9999 * np.linalg.norm(plain) * np.linalg.norm(along)
    assert_close(other_noise, 10 * plain)
    windows = (np.asarray(pictures[0]) - MEAN) / STD
    first = np.tile((np.asarray(basis) @ draws[0]).reshape(4, 4, 3), (6, 5, 1))
    ratio = np.sqrt(np.mean((windows + first) ** 2) / np.mean((windows + 10 * first) ** 2))
    assert ratio < 0.3
    assert_close(other_scale, ratio * plain)


@pytest.mark.parametrize(
    ("window", "directions", "grey_levels"),
    [((16, 16), 77, 127), ((16, 16), 384, 268), ((7, 7), 83, 301), ((4, 4), 24, 289)],
)
def test_psnr_30_is_the_noise_that_was_seen(window, directions, grey_levels):
    """ "30 dB" gives the 127 to 301 grey levels rms that one draw of the official formula gave, within three standard deviations of
    the draws, under ImageNet's std and images of unit power."""
    dimension = 3 * window[0] * window[1]
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (dimension, directions)))[0]
    layer = FirstLayer(np.zeros((*window, 3, 1)), window, "VALID", (0.5, 0.5, 0.5), STD)
    shape = (4 * window[0], 4 * window[1], 3)
    normalised = np.random.default_rng(0).choice([-1.0, 1.0], shape)  # power 1 exactly
    image = jnp.asarray(0.5 + normalised * STD, jnp.float32)
    keys = jax.random.split(jax.random.key(1), 200)
    recoded = jax.vmap(lambda key: paper.paper_recode(key, image, layer, basis, 30.0))(keys)
    rms = 255 * np.sqrt(np.mean((np.asarray(recoded) - image) ** 2, axis=(1, 2, 3)))
    share = directions / dimension
    expected = 255 * np.sqrt(255**2 / 1000 * share / (1 + share) * np.mean(np.square(STD)))
    assert np.mean(rms) == pytest.approx(expected, rel=0.02)
    assert abs(grey_levels - expected) < 3 * np.std(rms) < 3 * expected / np.sqrt(directions)


@pytest.mark.parametrize("name", LAYERS)
def test_without_noise_the_stem_reads_what_it_always_did(keys, pictures, name):
    """An unfolded tensor without noise through `unfolded_layer` is the layer's response, to float32."""
    layer = build(name)
    basis = paper.low_directions(layer, TAU)
    unfolded = paper.paper_unfolded(keys[0], pictures[0], layer, basis, math.inf)
    expected = layer.response(pictures[0])
    found = paper.unfolded_layer(layer).response(unfolded)
    assert found.shape == expected.shape
    assert_close(found, expected)


def test_the_authorized_model_hardly_sees_the_noise(keys, pictures, patches, stem):
    """Null directions: noise of several times the pixel range moves the first layer's outputs by rounding only."""
    for layer, basis in (patches, stem):
        noisy = paper.paper_unfolded(keys[0], pictures[0], layer, basis, 20.0)
        clean = paper.paper_unfolded(keys[0], pictures[0], layer, basis, math.inf)
        assert float(jnp.std(noisy - clean)) > 2
        expected = np.asarray(layer.response(pictures[0]))
        moved = np.asarray(paper.unfolded_layer(layer).response(noisy)) - expected
        assert np.linalg.norm(moved) < 1e-4 * np.linalg.norm(expected)


def test_the_fold_of_patches_is_the_image(keys, pictures, patches):
    """Each pixel is in one patch: without noise nothing changes, and noise is added to the image."""
    layer, basis = patches
    assert_close(paper.paper_recode(keys[0], pictures[0], layer, basis, math.inf), pictures[0])
    unfolded = paper.paper_unfolded(keys[0], pictures[0], layer, basis, 30.0)
    assert_close(paper.paper_recode(keys[0], pictures[0], layer, basis, 30.0), unfolded)


def test_the_fold_multiplies_the_image_by_the_number_of_windows(keys, pictures, stem):
    """7x7/2, no noise at all: normalised values come out 9 to 16 times as large inside (12.25 on average), 4 at the corners."""
    layer, basis = stem
    folded = paper.paper_recode(keys[0], pictures[0], layer, basis, math.inf)
    _, _, counts = in_numpy(np.zeros((2, basis.shape[1])), pictures[0], layer, basis, 30.0)
    normalised = (np.asarray(pictures[0]) - MEAN) / STD
    assert_close((np.asarray(folded) - MEAN) / STD, counts[..., None] * normalised)
    inside = counts[4:-4, 4:-4]
    assert (inside.min(), inside.mean(), inside.max()) == (9, 12.25, 16)
    assert (counts.min(), counts[0, 0]) == (4, 4)


def test_pixels_without_a_window_become_the_mean(keys, patches):
    """Rows and columns beyond the whole patches are the layer's mean after the fold."""
    layer, basis = patches
    recoded = np.asarray(paper.paper_recode(keys[0], jnp.ones((10, 9, 3)), layer, basis, 30.0))
    assert_close(recoded[8:], np.broadcast_to(np.float32(MEAN), (2, 9, 3)))
    assert_close(recoded[:, 8:], np.broadcast_to(np.float32(MEAN), (10, 1, 3)))
    assert np.abs(recoded[:8, :8] - 1).max() > 0.5


def test_attack_subtracting_the_mean_patch_undoes_the_tile(keys, pictures, patches):
    """Why MARK says insecure: without any knowledge the image comes back up to one constant patch, at any strength."""
    layer, basis = patches
    image = blocks(pictures[0], layer.window)
    for psnr_db in (0.0, 20.0):
        release = blocks(paper.paper_recode(keys[0], pictures[0], layer, basis, psnr_db), layer.window)
        assert np.std(release - image) > 1
        error = release - release.mean((0, 1)) - image
        assert np.abs(error - error[0, 0]).max() < 1e-5 * np.abs(release).max()
        # And that patch is the image's own mean, as smooth as images are on average.
        np.testing.assert_allclose(error[0, 0], -image.mean((0, 1)), atol=1e-5 * np.abs(release).max())


def test_attack_an_unfolded_release_shows_the_image(keys, pictures, stem):
    """One copy of each pixel, the central 2 x 2 of every window: the image up to 12 numbers, at any strength."""
    layer, basis = stem
    for psnr_db in (0.0, 20.0):
        unfolded = paper.paper_unfolded(keys[0], pictures[0], layer, basis, psnr_db)
        stolen = blocks(unfolded, layer.window)[:, :, 3:5, 3:5]
        error = stolen - blocks(pictures[0], (2, 2))
        assert error[0, 0].size == 12
        assert np.abs(error - error[0, 0]).max() < 1e-5 * np.abs(np.asarray(unfolded)).max()


def test_insecure_is_written_where_it_is_read():
    """The mark is one line, and the module and every function that makes something insecure say so first."""
    assert paper.MARK.startswith("INSECURE") and "\n" not in paper.MARK
    for thing in (paper, paper.paper_recode, paper.paper_unfolded, paper.fold_without_counts):
        assert inspect.getdoc(thing).startswith("INSECURE"), thing


def test_faults_are_told(keys, pictures, patches, make_layer):
    """A tau out of range or below the spectrum, channels that do not fit and values that are no pixels are named."""
    full = make_layer(np.geomspace(1, 0.05, 48), (4, 4, 3), std=np.ones(3)).layer
    with pytest.raises(UserError, match=r"tau 1.0 is not in \[0, 1\)"):
        paper.low_directions(full, 1.0)
    with pytest.raises(UserError, match=r"tau 0.01 leaves no .* the smallest sigma / sigma_1 is 0.05"):
        paper.low_directions(full, 0.01)
    with pytest.raises(UserError, match="image has 1 channels; the first layer takes 3"):
        paper.paper_recode(keys[0], pictures[0][..., :1], *patches, 30.0)
    with pytest.raises(UserError, match=r"outside \[0, 1\]"):
        paper.paper_recode(keys[0], pictures[0] * 3 - 1, *patches, 30.0)


def for_torch(pictures, keys, layer, basis):
    """Images (B, C, H, W), the basis in the order of torch's unfold (C, kh, kw), and the two draws (B, k, 1)."""
    directions = basis.shape[1]
    reordered = np.asarray(basis).reshape(*layer.window, directions).transpose(2, 0, 1, 3).reshape(-1, directions)
    drawn = np.stack([paper.draws(key, directions) for key in keys])
    images = torch.from_numpy(np.asarray(pictures).transpose(0, 3, 1, 2).copy())
    return images, torch.from_numpy(reordered), tuple(torch.from_numpy(drawn[:, i, :, None].copy()) for i in (0, 1))


def from_torch(normalised) -> np.ndarray:
    """Normalised (B, C, H, W) to pixels (B, H, W, C)."""
    return normalised.numpy().transpose(0, 2, 3, 1) * np.asarray(STD) + np.asarray(MEAN)


def test_torch_baseline_adds_the_same_tile(keys, pictures, patches, baseline):
    """scripts/torch_baseline.py does the work that ours does: the same recoded images on the same draws."""
    layer, basis = patches
    images, reordered, drawn = for_torch(pictures, keys[:5], layer, basis)
    found = baseline.recode_tile(images, reordered, MEAN, STD, 30.0, patch=4, draws=drawn)
    expected = jax.vmap(lambda key, image: paper.paper_recode(key, image, layer, basis, 30.0))(keys[:5], pictures)
    assert_close(from_torch(found), expected)
    fresh = baseline.recode_tile(images, reordered, MEAN, STD, 30.0, patch=4)
    assert float((fresh - found).std()) > 0.1


def test_torch_baseline_unfolds_the_same_stem(keys, pictures, stem, baseline):
    """The same unfolded tensors and the same folds, on the same draws."""
    layer, basis = stem
    images, reordered, drawn = for_torch(pictures, keys[:5], layer, basis)
    unfolded, folded = baseline.recode_unfold_stem(images, reordered, MEAN, STD, 30.0, draws=drawn)
    for found, ours in ((unfolded, paper.paper_unfolded), (folded, paper.paper_recode)):
        expected = jax.vmap(lambda key, image, ours=ours: ours(key, image, layer, basis, 30.0))(keys[:5], pictures)
        assert_close(from_torch(found), expected)
    assert baseline.recode_unfold_stem(images, reordered, MEAN, STD, 30.0, folded=False)[1] is None
