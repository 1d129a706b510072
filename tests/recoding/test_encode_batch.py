"""Recoding of batches: what comes out, that no image depends on its batch, and how often a program is compiled."""

from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import FirstLayer, low_sensitivity, recode, spectrum
from ne_jax.recoding import encode_batch
from ne_jax.recoding.design import Recipe
from ne_jax.recoding.designs import DESIGNS
from ne_jax.recoding.paper import Tile, low_directions
from ne_jax.recoding.subspace_noise import BOXED, GAUSSIAN

COUNT = 37  # two whole steps and a part of one
KINDS = {
    "gaussian float32": ("gaussian", np.float32),
    "gaussian float16": ("gaussian", np.float16),
    "boxed": ("boxed", np.uint8),
    "paper": ("paper", np.float32),
}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (COUNT, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def overlapping():
    """A subspace of images, not of patches: 5 x 5 windows at stride 2."""
    kernel = np.random.default_rng(1).standard_normal((5, 5, 3, 8))
    layer = FirstLayer(kernel, (2, 2), ((2, 2), (2, 2)), (0.5,) * 3, (0.25,) * 3)
    return low_sensitivity(spectrum(layer, (16, 16, 3)), "count", 200)


@pytest.fixture(scope="module")
def directions(graded, space, overlapping):
    """Windows -> design -> where the noise lies."""
    tile = Tile(graded.layer, low_directions(graded.layer, 1e-2))
    patches = {"gaussian": space, "boxed": space, "paper": tile}
    return {"patches": patches, "overlapping": {"gaussian": overlapping, "boxed": overlapping}}


def encode(keys, pixels, directions, kind, psnr_db=6.0, **settings):
    design, dtype = KINDS[kind]
    recipe = Recipe(DESIGNS[design], directions[design], psnr_db, dtype, **settings)
    found = encode_batch.encode_batch(keys, pixels, recipe)
    return encode_batch.Encoded(*map(np.asarray, found))


@pytest.mark.parametrize(
    ("kind", "windows"),
    [*((kind, "patches") for kind in KINDS), ("gaussian float32", "overlapping"), ("boxed", "overlapping")],
)
def test_an_image_does_not_depend_on_its_batch(kind, windows, directions, keys, pixels):
    """Contract 4: the same bits, strength and edge share alone, in batches of other sizes, at another place."""
    places, keys = directions[windows], keys[:COUNT]
    whole = encode(keys, pixels, places, kind)
    assert whole.stored.shape == pixels.shape and whole.stored.dtype == KINDS[kind][1]
    order = np.random.default_rng(0).permutation(COUNT)
    parts = [order[:1], order[1:8], order[8:24], order[24:], order]
    for rows in parts:
        for one, all_of_them in zip(encode(keys[rows], pixels[rows], places, kind), whole, strict=True):
            np.testing.assert_array_equal(one, all_of_them[rows])


@pytest.mark.parametrize(
    ("kind", "replace"), [("gaussian float32", True), ("gaussian float16", False), ("boxed", True)]
)
def test_it_is_recode_as_the_format_stores_it(kind, replace, directions, keys, pixels):
    """Each image by `recode` with its own key, rounded once; 8 bits hold it exactly."""
    design, dtype = KINDS[kind]
    stored = encode(keys[:4], pixels[:4], directions["patches"], kind, replace=replace).stored
    space = directions["patches"][design]
    single = [recode(keys[i], pixels[i], space, 6.0, design=design, replace=replace) for i in range(4)]
    expected = np.array(single) * (255 if dtype == np.uint8 else 1)
    # One rounding: half a level, and a little for another order of adding.
    limit = {np.uint8: 0.01, np.float32: 1e-5, np.float16: 2**-10}[dtype]
    assert np.mean(np.abs(stored.astype(np.float64) - expected) > limit) < 0.002
    assert np.abs(expected - np.stack(pixels[:4]) / (1 if dtype == np.uint8 else 255)).max() > limit * 10


@pytest.mark.parametrize("kind", KINDS)
def test_strength_and_edges_are_those_of_what_is_stored(kind, directions, keys, pixels):
    """Contract 3: PSNR by its formula in float64 from the stored numbers; the share of numbers at or beyond 0 and 1."""
    found = encode(keys[:5], pixels[:5], directions["patches"], kind, psnr_db=3.0)
    unit = 255 if found.stored.dtype == np.uint8 else 1
    stored = found.stored.astype(np.float64) / unit
    expected = -10 * np.log10(np.mean((stored - pixels[:5] / 255) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(found.psnr_db, expected, atol=1e-3)
    edges = np.mean((stored <= 0) | (stored >= 1), axis=(1, 2, 3))
    np.testing.assert_allclose(found.edge_share, edges, atol=2e-3)
    assert edges.min() > 0.01


def test_a_change_below_half_a_level_leaves_the_image(directions, keys, pixels):
    """8 bits cannot hold 75 dB: the image is its source's, and its PSNR infinite, not a number that was made up."""
    found = encode(keys[:2], pixels[:2], directions["patches"], "boxed", psnr_db=75.0)
    np.testing.assert_array_equal(found.stored, pixels[:2])
    assert np.isposinf(found.psnr_db).all()


def test_another_key_is_another_noise(directions, keys, pixels):
    """The key, and it alone, tells two recodings of one image apart."""
    same = np.stack([pixels[0]] * 3)
    stored = encode(keys[np.array([0, 1, 0])], same, directions["patches"], "gaussian float32").stored
    np.testing.assert_array_equal(stored[0], stored[2])
    assert np.abs(stored[0] - stored[1]).mean() > 0.1


def test_one_program_for_all_batches(directions, keys, pixels):
    """A step is compiled once, whatever the batch's size and strength; a setting that changes the program compiles one more."""
    before = encode_batch._step._cache_size()
    settings = {"rounds": 23}  # of no other test
    for count, psnr_db in ((1, 0.0), (7, 3.0), (16, jnp.float32(5)), (17, 7), (COUNT, 0.0)):
        encode(keys[:count], pixels[:count], directions["patches"], "boxed", psnr_db, **settings)
    assert encode_batch._step._cache_size() == before + 1
    encode(keys[:1], pixels[:1], directions["patches"], "boxed", replace=True, **settings)
    assert encode_batch._step._cache_size() == before + 2


@pytest.mark.parametrize(("count", "calls"), [(1, 1), (16, 1), (17, 2), (COUNT, 3)])
def test_calls_are_of_one_size(count, calls, directions, keys, pixels):
    """The pieces that threads take are all as large, so that no thread compiles, and none is made of padding alone."""
    recipe = Recipe(GAUSSIAN, directions["patches"]["gaussian"], 0.0)
    made = encode_batch.encode_calls(keys[:count], pixels[:count], recipe)
    sizes = [len(call().stored) for call in made]
    assert sizes == [16] * calls


def test_calls_from_threads_are_those_of_one_thread(directions, keys, pixels):
    """Whichever thread takes which call, and whenever."""
    recipe = Recipe(BOXED, directions["patches"]["boxed"], 6.0, np.uint8)
    made = encode_batch.encode_calls(keys[:COUNT], pixels, recipe)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda call: np.asarray(call().stored), made * 4))
    whole = encode(keys[:COUNT], pixels, directions["patches"], "boxed").stored
    for turn in range(4):
        np.testing.assert_array_equal(np.concatenate(found[3 * turn : 3 * turn + 3])[:COUNT], whole)
