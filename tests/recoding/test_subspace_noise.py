from __future__ import annotations

import collections
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ne_jax import FirstLayer, Subspace, UserError, certify, isotropic, low_sensitivity, recode, spectrum
from ne_jax.core.pixels import to_float
from ne_jax.core.unfold import unfold
from ne_jax.data import fashion_mnist
from ne_jax.recoding.subspace_noise import _recode

EPS = float(np.finfo(np.float32).eps)
DESIGNS = ["gaussian", "boxed"]
PIXELS = 16 * 16 * 3


def recode_all(keys, images, space, psnr_db, **choices):
    return jax.vmap(lambda key, image: recode(key, image, space, psnr_db, **choices))(keys, images)


def psnr(delta) -> np.ndarray:
    """PSNR of each image's change, in float64."""
    return -10 * np.log10(np.mean(np.square(np.asarray(delta, np.float64)), axis=(1, 2, 3)))


def parts(space, delta) -> tuple[np.ndarray, np.ndarray]:
    """Changes in the subspace and outside it, in float64, patch by patch: (images, patches, d) each."""
    patches = np.asarray(jax.vmap(lambda one: unfold(one, space.window))(jnp.asarray(delta)), np.float64)
    basis = np.asarray(space.basis, np.float64)
    inside = patches @ basis @ basis.T
    return inside, patches - inside


def norm(values) -> np.ndarray:
    """Norm of each image's change."""
    values = np.asarray(values, np.float64)
    return np.linalg.norm(values.reshape(len(values), -1), axis=1)


@pytest.fixture(scope="module")
def quiet(make_layer) -> Subspace:
    """A subspace without the patches' mean grey, which its layer sees first: images near grey have little part in it."""
    chosen = make_layer(np.geomspace(1, 1e-3, 24), (4, 4, 3), outputs=24, first=np.ones(48))
    return low_sensitivity(spectrum(chosen.layer, (16, 16, 3)), "count", 24)


@pytest.fixture(scope="module")
def grey(images):
    """Images within .05 of mid-grey: there is room for noise on both sides."""
    return 0.45 + 0.1 * images


@pytest.fixture(scope="module")
def photographs() -> tuple[jax.Array, Subspace]:
    """20 embedded Fashion-MNIST images at 112 pixels, and the null space of a random layer (16, 16, 1, 128)."""
    pixels, _ = fashion_mnist.load("test")
    resized = [np.asarray(Image.fromarray(one).resize((112, 112), Image.Resampling.BILINEAR)) for one in pixels[:20]]
    kernel = np.random.default_rng(0).standard_normal((16, 16, 1, 128))
    space = low_sensitivity(
        spectrum(FirstLayer(kernel, (16, 16), "VALID", (0.286,), (0.353,)), (112, 112, 1)), "relative", 0
    )
    return to_float(np.stack(resized)[..., None]), space


@pytest.mark.parametrize("psnr_db", [-6.0, 0.0, 14.0, 30.0, 50.0])
def test_gaussian_has_the_asked_strength(keys, images, space, psnr_db):
    """The change has the norm that the PSNR asks for, to float accuracy, on every image."""
    recoded = np.asarray(recode_all(keys[:16], images[:16], space, psnr_db))
    # x + delta rounds each pixel by at most eps / 2 of its size; the norm itself sums 768 squares in float32.
    rms = 10 ** (-psnr_db / 20)
    relative = EPS * (np.abs(recoded).max() / rms + PIXELS)
    np.testing.assert_allclose(psnr(recoded - images[:16]), psnr_db, rtol=0, atol=20 / np.log(10) * relative)


@pytest.mark.parametrize("psnr_db", [0.0, 20.0])
def test_gaussian_changes_lie_in_the_subspace(keys, images, space, psnr_db):
    """Outside V_N there is nothing but rounding."""
    recoded = np.asarray(recode_all(keys[:16], images[:16], space, psnr_db))
    inside, outside = parts(space, recoded - images[:16])
    limit = EPS * (np.sqrt(PIXELS) * np.abs(recoded).max() + 48 * norm(inside))
    assert (norm(outside) <= limit).all()
    assert (norm(inside) > 1e3 * limit).all()


@pytest.mark.parametrize("replace", [False, True])
def test_boxed_is_an_ordinary_8_bit_image(keys, images, space, replace):
    """Pixels in [0, 1], every one of them a multiple of 1/255 that an 8-bit file gives back bit for bit."""
    recoded = np.asarray(recode_all(keys[:16], images[:16], space, 10.0, design="boxed", replace=replace))
    assert recoded.min() >= 0 and recoded.max() <= 1
    stored = np.round(recoded * 255).astype(np.uint8)
    assert np.array_equal(to_float(stored), recoded)
    assert len(np.unique(stored)) > 200


@pytest.mark.parametrize("psnr_db", [20.0, 26.0, 32.0])
def test_boxed_has_the_asked_strength_where_it_fits(keys, grey, space, psnr_db):
    """Where the box has room, the realised PSNR is the asked one but for rounding to 8 bits: .01 dB, and five standard deviations."""
    recoded = recode_all(keys[:16], grey[:16], space, psnr_db, design="boxed")
    change = 10 ** (-psnr_db / 20)
    deviation = (
        20 / np.log(10) * (1 / 255 / np.sqrt(12)) / (change * np.sqrt(grey[0].size))
    )  # first order in the rounding
    assert np.abs(psnr(recoded - grey[:16]) - psnr_db).max() <= 0.01 + 5 * deviation


def test_boxed_gives_the_strongest_that_fits(keys, images, space):
    """Where the asked PSNR does not fit into the box the change is weaker than asked, and the same for any such PSNR."""
    images = to_float(np.round(np.asarray(images) * 255).astype(np.uint8))
    strongest = recode_all(keys[:16], images[:16], space, 0.0, design="boxed")
    realised = psnr(strongest - images[:16])
    assert (realised > 1).all() and (realised < 20).all()
    assert np.array_equal(recode_all(keys[:16], images[:16], space, -10.0, design="boxed"), strongest)
    # 1 dB more than the strongest is within reach again.
    for index in range(4):
        asked = float(realised[index]) + 1
        again = recode(keys[index], images[index], space, asked, design="boxed")
        assert psnr((again - images[index])[None])[0] == pytest.approx(asked, abs=0.05)


@pytest.mark.parametrize("psnr_db", [0.0, 14.0, 20.0])
def test_boxed_leaves_only_rounding_outside_the_subspace(photographs, keys, psnr_db):
    """On real images what is outside V_N is rounding to 8 bits: .289 grey levels a coordinate, at most .32."""
    images, space = photographs
    assert space.num_directions == 128
    recoded = recode_all(keys[: len(images)], images, space, psnr_db, design="boxed")
    _, outside = parts(space, recoded - images)
    coordinates = space.num_patches * (256 - space.num_directions)
    assert (255 * norm(outside) / np.sqrt(coordinates) <= 0.32).all()
    # And 14 dB or more fit into these images' boxes, most of them black.
    if psnr_db >= 14:
        assert np.abs(psnr(recoded - images) - psnr_db).max() <= 0.05


def test_replace_removes_the_image_s_own_part(keys, space, images):
    """After `replace` the part in V_N is noise alone, in the same direction for images that differ only inside V_N."""
    first = 0.3 + 0.4 * images[:16]
    second = first + 0.2 * jax.vmap(space.project)(images[16:32] - images[:16])
    assert float(second.min()) >= 0 and float(second.max()) <= 1
    assert float(jnp.abs(second - first).max()) > 0.1
    # Stronger than any removal: the image's part in V_N is less than the image.
    recoded = [parts(space, recode_all(keys[:16], x, space, -3.0, replace=True)) for x in (first, second)]
    inside, outside = zip(*recoded, strict=True)
    limit = 4 * 48 * EPS * (norm(first) + norm(second))
    assert (norm(outside[0] - outside[1]) <= limit).all()
    noise, _ = parts(space, jax.vmap(space.sample)(keys[:16]))
    for part in inside:
        flat, direction = part.reshape(16, -1), noise.reshape(16, -1)
        scale = np.sum(flat * direction, 1, keepdims=True) / np.sum(direction**2, 1, keepdims=True)
        assert (scale > 0.5).all()
        assert (norm(flat - scale * direction) <= limit + 4 * 48 * EPS * norm(flat)).all()


def test_replace_has_the_asked_strength_where_removal_is_weaker(keys, space, images):
    """Removal and noise together have the norm that the PSNR asks for."""
    recoded = np.asarray(recode_all(keys[:16], images[:16], space, 0.0, replace=True))
    relative = EPS * (np.abs(recoded).max() + 4 * PIXELS)
    np.testing.assert_allclose(psnr(recoded - images[:16]), 0, rtol=0, atol=20 / np.log(10) * relative)


def test_replace_adds_no_noise_where_removal_is_stronger(keys, space, images):
    """Where the removal alone is stronger than asked, a gaussian change is the removal and nothing else."""
    removal = -jax.vmap(space.project)(images[:16])
    assert (psnr(removal) < 15).all()
    recoded = recode_all(keys[:16], images[:16], space, 30.0, replace=True)
    assert np.abs(recoded - (images[:16] + removal)).max() <= 4 * EPS


def test_boxed_replace_removes_the_image_s_own_part(keys, quiet, grey):
    """Where the box has room, what `boxed` leaves in V_N says nothing of the image's own part there."""
    own, _ = parts(quiet, grey)
    shares, spreads = {}, {}
    for replace in (False, True):
        left, _ = parts(quiet, recode_all(keys, grey, quiet, 26.0, design="boxed", replace=replace))
        shares[replace] = np.mean(np.sum(left * own, axis=(1, 2)) / np.sum(own**2, axis=(1, 2)))
        # Noise alone has a share of standard deviation |noise| / (|own| sqrt(16 * 24)) for each of the 64 images.
        spreads[replace] = np.mean(norm(left) / norm(own)) / np.sqrt(16 * 24 * 64)
    assert abs(shares[True]) <= 5 * spreads[True] < 0.1
    assert shares[False] > 0.5


@pytest.mark.parametrize("design", DESIGNS)
def test_one_key_is_one_noise(keys, images, space, design):
    """The same key gives the same bits; another key other noise, in every patch."""
    first, again, other = (
        np.asarray(recode(key, images[0], space, 14.0, design=design)) for key in (keys[0], keys[0], keys[1])
    )
    assert np.array_equal(first, again)
    changes = [unfold(jnp.asarray(one) - images[0], space.window) for one in (first, other)]
    cosines = np.sum(changes[0] * changes[1], axis=1) / np.prod([np.linalg.norm(c, axis=1) for c in changes], axis=0)
    assert np.abs(cosines).max() < 0.95
    patches = np.asarray(changes[0])
    among = patches @ patches.T / np.outer(*2 * [np.linalg.norm(patches, axis=1)])
    assert np.abs(among - np.diag(np.diag(among))).max() < 0.95  # nor do two patches of one image share it


def batched(apply, batch_size, *arrays) -> np.ndarray:
    """`apply` on chunks of `batch_size`; the last may be smaller."""
    total = len(arrays[0])
    chunks = [apply(*(array[i : i + batch_size] for array in arrays)) for i in range(0, total, batch_size)]
    return np.concatenate([np.asarray(chunk) for chunk in chunks])


@pytest.mark.parametrize("design", DESIGNS)
def test_bits_do_not_depend_on_batch_size_or_order_under_map(keys, images, space, design):
    """jit(lax.map) gives the same bits for an image in batches of 1, 7 and 64 and in any order."""
    apply = jax.jit(lambda k, x: jax.lax.map(lambda pair: recode(*pair, space, 14.0, design=design), (k, x)))
    expected = np.asarray(apply(keys, images))
    for batch_size in (1, 7):
        assert np.array_equal(batched(apply, batch_size, keys, images), expected)
    order = np.random.default_rng(0).permutation(64)
    assert np.array_equal(apply(keys[order], images[order]), expected[order])


@pytest.fixture(scope="module", params=DESIGNS)
def under_vmap(request, keys, images, space):
    """A design, its recoding of batches as jit(vmap), and what that makes of all 64 images."""
    apply = jax.jit(lambda k, x: recode_all(k, x, space, 14.0, design=request.param))
    return request.param, apply, np.asarray(apply(keys, images))


def test_bits_do_not_depend_on_order_or_batch_mates_under_vmap(keys, images, space, under_vmap):
    """At one batch shape an image's bits depend neither on its place nor on the images beside it, jitted or not."""
    design, apply, expected = under_vmap
    order = np.random.default_rng(0).permutation(64)
    mates = jnp.concatenate([images[:1], images[:0:-1]])
    assert np.array_equal(apply(keys[order], images[order]), expected[order])
    assert np.array_equal(apply(keys, mates)[0], expected[0])
    plain = np.asarray(recode_all(keys, images, space, 14.0, design=design))
    assert np.array_equal(recode_all(keys[order], images[order], space, 14.0, design=design), plain[order])
    assert np.array_equal(recode_all(keys, mates, space, 14.0, design=design)[0], plain[0])


def test_vmap_s_batch_size_changes_no_more_than_rounding(keys, images, under_vmap):
    """Batches of 1, 7 and 64 under vmap, whose sums XLA orders by shape: equal to float rounding, or one grey level of few."""
    design, apply, expected = under_vmap
    for batch_size in (1, 7):
        difference = np.abs(batched(apply, batch_size, keys, images) - expected)
        assert difference.max() <= (48 * EPS if design == "gaussian" else 1.01 / 255)
        if design == "boxed":
            assert np.mean(difference > 0) <= 1e-3


@pytest.mark.parametrize("design", DESIGNS)
def test_bytes_and_their_floats_give_the_same_bits(keys, images, space, design):
    """An image as uint8 and the same image as float in [0, 1], of numpy or of JAX, is one image."""
    stored = np.round(np.asarray(images[0]) * 255).astype(np.uint8)
    expected = np.asarray(recode(keys[0], stored, space, 14.0, design=design))
    assert expected.dtype == np.float32
    for same in (jnp.asarray(stored), to_float(stored), np.asarray(to_float(stored)), np.float64(to_float(stored))):
        assert np.array_equal(recode(keys[0], same, space, 14.0, design=design), expected)


def test_no_retracing(keys, images, space):
    """One compilation serves every batch of one shape, every key and every strength; another shape costs one more."""
    counts = collections.Counter()

    @jax.jit
    def apply(k, x, psnr_db):
        counts[len(x)] += 1
        return recode_all(k, x, space, psnr_db)

    for start, psnr_db in ((0, 14.0), (8, 14.0), (16, 3.5), (24, -2.0)):
        apply(keys[start : start + 8], images[start : start + 8], psnr_db)
    apply(keys[:4], images[:4], 14.0)
    assert counts == {8: 1, 4: 1}
    recode(keys[0], images[0], space, 14.0)
    before = _recode._cache_size()
    for index, psnr_db in enumerate((3.5, -2.0, 40.0)):
        recode(keys[index], images[index], space, psnr_db)
        recode_all(keys[4 * index :][:4], images[4 * index :][:4], space, psnr_db)
    assert _recode._cache_size() <= before + 1  # vmap traces once for itself


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x + 0.5, r"image has values from .* outside \[0, 1\]"),
        (lambda x: x - 0.5, "image has values from -.*not normalised values"),
        (lambda x: x * 255, r"image has values from .* outside \[0, 1\]: divide by 255"),
        (lambda x: x * np.nan, "image has values from nan to nan"),
        (lambda x: (x * 255).astype(np.int32), "image has dtype int32; give uint8"),
        (lambda x: x[:8], r"image has shape \(8, 16, 3\); the subspace is of images \(16, 16, 3\)"),
        (lambda x: x[..., :1], r"image has shape \(16, 16, 1\)"),
    ],
)
def test_what_is_no_image_of_the_space_is_refused(keys, images, space, change, message):
    """Pixels outside [0, 1], NaN, other dtypes and other shapes are refused by name, nothing is recoded."""
    with pytest.raises(UserError, match=message):
        recode(keys[0], change(np.asarray(images[0])), space, 14.0)


def test_static_faults_are_told_inside_jit(keys, images, space):
    """A wrong shape or dtype is told under vmap and jit too."""
    with pytest.raises(UserError, match="image has shape"):
        jax.jit(lambda k, x: recode_all(k, x, space, 14.0))(keys[:2], images[:2, :8])
    with pytest.raises(UserError, match="image has dtype"):
        recode_all(keys[:2], jnp.ones((2, 16, 16, 3), jnp.int32), space, 14.0)


@pytest.fixture(scope="module")
def overlapping():
    """A layer with windows of 5 x 5 that move by 2, padded, and the half of an image's directions that it sees least; it sees
    grey most."""
    kernel = 1 + np.random.default_rng(0).standard_normal((5, 5, 3, 16))
    layer = FirstLayer(kernel, (2, 2), ((2, 2), (2, 2)), 3 * [0.5], 3 * [0.25])
    return layer, low_sensitivity(spectrum(layer, (16, 16, 3)), "count", 384)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("design", DESIGNS)
def test_windows_that_overlap_are_recoded_alike(keys, grey, overlapping, design, replace):
    """In a subspace of frequencies: the asked strength, nothing but rounding outside V_N, and the image's own part replaced."""
    layer, space = overlapping
    images = 0.5 + 0.2 * (grey[:8] - 0.5)  # the noise does not reach the faces of the box
    asked = 14.0 if replace and design == "gaussian" else 26.0  # stronger than the removal, 18 dB
    recode_some = jax.jit(lambda k, x: recode_all(k, x, space, asked, design=design, replace=replace))
    recoded = recode_some(keys[:8], images)
    delta = recoded - images
    outside = norm(jax.jit(jax.vmap(space.complement))(delta))
    if design == "gaussian":
        np.testing.assert_allclose(psnr(delta), asked, rtol=0, atol=1e-3)
        assert (outside <= 1e-5 * norm(delta)).all()
    else:
        assert np.array_equal(to_float(np.round(np.asarray(recoded) * 255).astype(np.uint8)), recoded)
        # Rounding to 8 bits: .289 grey levels for each of the directions outside, some of the overflow with them.
        assert (255 * outside / np.sqrt(PIXELS - space.num_directions) <= 0.4).all()
    assert bool(certify(layer, space, images, recoded).holds.all())
    if replace:
        own, left = jax.vmap(space.project)(images), jax.vmap(space.project)(recoded)
        share = np.sum(np.asarray(own * left), (1, 2, 3)) / np.sum(np.asarray(own) ** 2, (1, 2, 3))
        assert abs(share.mean()) <= 5 * np.mean(norm(left) / norm(own)) / np.sqrt(8 * space.num_directions)


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("psnr_db", [12.0, 24.0])
def test_the_control_has_the_asked_strength(keys, images, box, psnr_db):
    """Isotropic noise has the PSNR asked for; in the box by more noise before the clipping, at random images to .05 dB."""
    controls = jax.vmap(lambda key, x: isotropic(key, x, psnr_db, box))(keys[:8], images[:8])
    relative = EPS * (np.abs(controls).max() * 10 ** (psnr_db / 20) + PIXELS)
    limit = 0.05 if box else 20 / np.log(10) * relative
    assert np.abs(psnr(controls - images[:8]) - psnr_db).max() <= limit
    if box:
        assert np.array_equal(to_float(np.round(np.asarray(controls) * 255).astype(np.uint8)), controls)


def test_the_control_is_isotropic_and_fresh(keys, images, space):
    """Its energy is spread over V_N and the rest by their dimensions, and another key is other noise."""
    delta = np.stack([isotropic(key, images[0], 20.0) - images[0] for key in keys[:16]])
    inside, _ = parts(space, delta)
    share = np.sum(inside**2) / np.sum(delta**2)
    # 16 * 768 independent coordinates, half of them inside: standard error of the share is sqrt(.25 * 2 / n).
    assert abs(share - 24 / 48) <= 5 * np.sqrt(0.5 / (16 * PIXELS))
    flat = delta.reshape(16, -1)
    cosines = flat @ flat.T / np.outer(norm(flat), norm(flat))
    assert np.abs(cosines - np.eye(16)).max() <= 6 / np.sqrt(PIXELS)


def test_the_control_takes_all_that_the_box_allows(keys, grey):
    """Where the PSNR does not fit into the box every pixel of the control is black or white."""
    control = np.asarray(isotropic(keys[0], grey[0], -10.0, True))
    assert set(np.unique(control)) == {0.0, 1.0}


def test_an_unknown_design_is_refused(keys, images, space):
    """A design that does not exist is refused with those that do."""
    unchecked = inspect.unwrap(recode)  # without the session's type checks, which refuse it before
    with pytest.raises(ValueError, match='design "lucky" is unknown; choose gaussian or boxed'):
        unchecked(keys[0], images[0], space, 14.0, design="lucky")
