"""Learned denoisers: what they may see, what they start from, and that learning helps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax.attacks.attack import Knowledge
from ne_jax.attacks.blind_spot import blind_spot, hidden_sets, predict
from ne_jax.attacks.trained_networks import small_network
from ne_jax.attacks.unet_pairs import own_pairs, unet, unet_own_pairs
from ne_jax.errors import UserError
from ne_jax.recoding.subspace_noise import recode
from tests.photos import photographs

PATCH, SHAPE, ATTACKED = (4, 4, 3), (64, 64, 3), 16


@pytest.fixture(scope="module")
def clean():
    """Four pieces of each of twenty photographs; the first four photographs are attacked, what the attacker knows is of the others."""
    photos = [photo.resize((160, 160)) for photo in photographs()]
    corners = [(left, top) for left in (8, 88) for top in (8, 88)]
    pieces = [photo.crop((left, top, left + 64, top + 64)) for photo in photos for left, top in corners]
    return np.stack([np.asarray(piece, np.float32) for piece in pieces]) / 255


@pytest.fixture(scope="module")
def wide(space):
    """The same subspace of patches, on these images."""
    return dataclasses.replace(space, image_shape=SHAPE)


@pytest.fixture(scope="module")
def noisy(clean, wide):
    """At 3 dB."""
    keys = jax.random.split(jax.random.key(5), len(clean))
    return np.asarray(jax.vmap(lambda key, image: recode(key, image, wide, 3.0))(keys, jnp.asarray(clean)))


def error(one, other):
    return float(np.sqrt(np.mean((one - other) ** 2)))


@pytest.fixture(scope="module")
def blind():
    """A network whose last layer is not zero, so that its output depends on what it sees."""
    graphdef, params = small_network(4, 3, (4, 8, 8), 0)
    return graphdef, jax.tree.map(lambda leaf: leaf + 0.1, params)


@pytest.mark.parametrize("hide", ["patches", "pixels"])
def test_a_blind_spot_does_not_see_what_it_predicts(blind, hide):
    """The gradient of the hidden pixels' predictions is zero at every hidden pixel, and not at the visible ones."""
    hidden = jnp.asarray(hidden_sets(np.random.default_rng(1), PATCH, 4, (16, 16), hide) == 2).astype(jnp.float32)
    images = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    seen = jax.jit(jax.grad(lambda x: jnp.sum(predict(*blind, x, hidden, (4, 4)) * hidden[:, :, None])))
    gradient = seen(images)[0]
    assert jnp.all(gradient[hidden == 1] == 0)
    assert jnp.mean(jnp.any(gradient != 0, axis=-1)[hidden == 0]) > 0.9


def test_hidden_pixels_are_the_same_in_every_patch():
    """A tile that repeats in every patch is hidden everywhere at once; each pixel of a patch is in just one of equal sets."""
    numbers = hidden_sets(np.random.default_rng(0), PATCH, 4, (12, 18), "pixels")
    assert numbers.shape == (12, 18)
    assert np.array_equal(numbers[:4, :4], numbers[8:, 12:16]) and np.array_equal(numbers[:, :2], numbers[:, 16:])
    assert np.array_equal(np.bincount(numbers[:4, :4].ravel()), [4] * 4)


def test_neighbours_of_a_hidden_patch_are_seen():
    """Hidden patches are whole, and none touches another."""
    numbers = hidden_sets(np.random.default_rng(0), PATCH, 4, (16, 20), "patches")
    assert all((numbers[:, offset::4] == numbers[:, ::4]).all() for offset in range(4))
    whole = numbers[::4, ::4]
    assert np.array_equal(np.repeat(np.repeat(whole, 4, 0), 4, 1), numbers)
    assert (whole[1:] != whole[:-1]).all() and (whole[:, 1:] != whole[:, :-1]).all()
    assert (whole[1:, 1:] != whole[:-1, :-1]).all() and (whole[1:, :-1] != whole[:-1, 1:]).all()


@pytest.mark.slow  # what it sees, and that its seed decides, is always tested
def test_blind_spot_learns_from_noise_alone(clean, noisy):
    """Trained on releases, never on a clean pixel, it is nearer to the clean images than the mean of what surrounds a hidden patch, with
    which it starts, and far nearer than the release."""
    knowledge, some = Knowledge(patch=PATCH, released=noisy), slice(None, None, 5)
    before, after = (
        error(blind_spot(noisy[some], knowledge, steps=steps, rate=3e-3), clean[some]) for steps in (0, 60)
    )
    assert after < 0.95 * before and after < 0.3 * error(noisy, clean)


def test_unet_improves_on_the_linear_decoder(clean):
    """Of noise that lies in no subspace, on images that it was not trained on: without steps it is the ridge decoder, which is better
    than the release, and with steps it is better than that."""
    release = clean + 0.2 * np.random.default_rng(3).standard_normal(clean.shape).astype(np.float32)
    knowledge = Knowledge(patch=PATCH, releases=release[ATTACKED:], originals=clean[ATTACKED:])
    parameters = {"widths": (64,), "rate": 2e-3}  # without levels it learns soonest
    before, after = (unet(release[:ATTACKED], knowledge, steps=steps, **parameters) for steps in (0, 100))
    assert error(before, clean[:ATTACKED]) < 0.7 * error(release[:ATTACKED], clean[:ATTACKED])
    assert error(after, clean[:ATTACKED]) < 0.95 * error(before, clean[:ATTACKED])
    assert after.dtype == np.float32 and after.shape == (ATTACKED, *SHAPE)


def test_own_pairs_are_as_good_as_pairs(clean, noisy, wide):
    """With the subspace and public images only, 3 dB become more than 35, and in a few steps as many as with as many true pairs."""
    known = Knowledge(patch=PATCH, releases=noisy[ATTACKED:], originals=clean[ATTACKED:])
    own = Knowledge(patch=PATCH, public=clean[ATTACKED:], space=wide)
    stored, truth = noisy[:ATTACKED], clean[:ATTACKED]
    few = {"steps": 5, "widths": (16,)}
    with_pairs, without = error(unet(stored, known, **few), truth), error(unet_own_pairs(stored, own, **few), truth)
    assert -20 * np.log10(without) > 35 and without < 1.1 * with_pairs


def test_own_pairs_are_as_strong_as_the_release(clean, noisy, wide):
    """The attacker finds the strength from the stored images: within 1 dB of the 3 dB that were asked, and in V_N; clean images
    among them, as many as the runner puts there, change nothing."""
    stored = np.concatenate([noisy[:ATTACKED], clean[: ATTACKED // 3]])
    made, originals = own_pairs(stored, Knowledge(patch=PATCH, public=clean[ATTACKED:], space=wide), copies=2)
    delta, count = made - originals, len(clean) - ATTACKED
    assert len(made) == 2 * count and np.allclose(originals[count:], clean[ATTACKED:][:, :, ::-1], atol=1 / 255)
    assert -10 * np.log10(np.mean(delta**2)) == pytest.approx(3, abs=1)
    assert error(delta, np.asarray(jax.vmap(wide.project)(delta))) < 1e-5


def test_own_pairs_stay_in_the_box_of_an_8_bit_release(clean, wide):
    """A release that stays in [0, 1] is imitated in 8 bits."""
    made, _ = own_pairs(np.clip(clean[:8] + 0.02, 0, 1), Knowledge(patch=PATCH, public=clean[:8], space=wide), copies=1)
    assert made.min() >= 0 and made.max() <= 1 and np.allclose(made * 255, np.round(made * 255), atol=1e-4)


def test_the_seed_decides(noisy):
    """Same seed, same bytes; another seed, other images."""
    one, again, other = (
        blind_spot(noisy[:8], Knowledge(seed=seed, patch=PATCH, released=noisy[:16]), steps=2, widths=(8, 8))
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again) and not np.array_equal(one, other)


@pytest.mark.parametrize("attack", [blind_spot, unet, unet_own_pairs])
def test_missing_knowledge_is_said(noisy, attack):
    with pytest.raises(UserError, match="need"):
        attack(noisy[:1], Knowledge(patch=PATCH))


def test_sides_that_do_not_divide():
    """Images of whole patches and some rows, as DINOv2's at 112: the network pads and cuts, what lies in no patch stays."""
    images = np.random.default_rng(0).uniform(size=(4, 18, 21, 3)).astype(np.float32)
    knowledge = Knowledge(patch=(4, 4, 3), releases=images, released=images, originals=images)
    assert np.array_equal(unet(images, knowledge, steps=0)[:, 16:], images[:, 16:])
    assert unet(images, knowledge, steps=1).shape == images.shape
