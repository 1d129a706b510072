"""Tier 2 from the whole release by third moments: noise that follows nothing is found by what it has not in common with the image."""

import contextlib

import jax
import numpy as np
import pytest

import ne_jax
from ne_jax.attacks import whole_release
from ne_jax.attacks.attack import Knowledge
from ne_jax.attacks.curves import COUNTED, _growing
from ne_jax.attacks.moments import growing
from ne_jax.attacks.third_moments import ATTACKS
from ne_jax.core.subspace import PatchSubspace
from ne_jax.measure.records import RELEASED
from ne_jax.recoding.hardened import hardened
from ne_jax.stages import planned
from tests.releases import WINDOW, known, run

SHAPE, IMAGES, SOURCES = (16, 16, 3), 2000, 28


def skewed(generator: np.random.Generator, count: int) -> np.ndarray:
    """Pictures whose patches are mixtures of skewed sources: as bright things on a dark ground are."""
    mixing = np.random.default_rng(1).standard_normal((SOURCES, int(np.prod(WINDOW)))) / np.sqrt(SOURCES)
    patches = 0.4 + 0.2 * (generator.exponential(1, (count, 4, 4, SOURCES)) - 1) @ mixing
    return patches.reshape(count, 4, 4, *WINDOW).swapaxes(2, 3).reshape(count, *SHAPE).astype(np.float32)


def released(make_layer, follows: bool) -> tuple[np.ndarray, np.ndarray, Knowledge]:
    """The first pictures, the same as they are released, with hardened noise of 3 dB in the place of 20 of 48 directions, and what an
    attacker knows of 2,000. follows: whether the noise follows the picture."""
    small, generator = known(make_layer)[1].space, np.random.default_rng(2)
    space = PatchSubspace(small.basis, small.complement, small.singular_values, small.sigma_1, WINDOW, SHAPE)
    images, noisy = skewed(generator, IMAGES), hardened(jax.random.key(5), space)
    keys = jax.random.split(jax.random.key(6), IMAGES)
    noise = jax.jit(jax.vmap(noisy.noise if follows else lambda key, image: noisy.sample(key)))(keys, images)
    strength = 10 ** (-3 / 20) / np.sqrt(np.mean(noise**2))
    stored = np.asarray(images - jax.vmap(space.project)(images) + noise * np.float32(strength))
    moments = growing(iter([stored]), WINDOW, [IMAGES])[0]
    return images[:8], stored[:8], Knowledge(0, WINDOW, skewed(generator, 400), moments=moments, released=stored)


def decibels(images: np.ndarray, clean: np.ndarray) -> float:
    """PSNR, dB."""
    return float(-10 * np.log10(np.mean((images - clean) ** 2)))


def test_third_moments_find_what_second_moments_do_not(make_layer):
    """Noise that has neither equal eigenvalues nor anything that neighbours lack, and follows nothing: no attack on second moments rebuilds
    more than the mean of public pictures, third moments rebuild the pictures (36 dB)."""
    clean, stored, knowledge = released(make_layer, follows=False)
    mean = decibels(np.broadcast_to(knowledge.public.mean(0), clean.shape), clean)
    found = []
    for attack in whole_release.ATTACKS:
        for parameters in attack.grid:
            with contextlib.suppress(ne_jax.UserError):  # no equal eigenvalues
                found.append(decibels(run(attack, stored, knowledge, **parameters), clean))
    assert max(found) < mean + 1
    assert decibels(run(ATTACKS[0], stored, knowledge), clean) > mean + 15


def test_noise_that_follows_the_picture_stays(make_layer):
    """No more than the mean of public pictures shows, where the same noise that follows nothing is taken away."""
    clean, stored, knowledge = released(make_layer, follows=True)
    mean = decibels(np.broadcast_to(knowledge.public.mean(0), clean.shape), clean)
    found = [decibels(run(ATTACKS[0], stored, knowledge, share=share), clean) for share in ("knee", 0.4, 0.5, 28 / 48)]
    assert max(found) < mean + 1


def test_a_release_without_noise_is_left_as_it_is(make_layer):
    """Third moments of pictures themselves: what is kept of a patch is what it shows."""
    clean, _, knowledge = released(make_layer, follows=False)
    pictures = skewed(np.random.default_rng(3), IMAGES)
    moments = growing(iter([pictures]), WINDOW, [IMAGES])[0]
    known_ = knowledge._replace(released=pictures, moments=moments)
    assert decibels(run(ATTACKS[0], clean, known_, share=0.6), clean) > 60


def test_too_few_files_are_told(make_layer):
    """Fewer patches than a patch has numbers show no moments; nor does one file, of which every place has one patch."""
    _, stored, knowledge = released(make_layer, follows=False)
    few = knowledge._replace(released=stored[:3], moments=growing(iter([stored[:3]]), WINDOW, [3])[0])
    with pytest.raises(ne_jax.UserError, match="third moments need more"):
        run(ATTACKS[0], stored, few)
    alone = np.concatenate([np.concatenate(stored[:4], 0), np.concatenate(stored[4:], 0)], 1)[None]
    one = knowledge._replace(released=alone, moments=growing(iter([alone]), WINDOW, [1])[0])
    with pytest.raises(ne_jax.UserError, match="or there is one"):
        run(ATTACKS[0], alone, one)


def test_a_curve_learns_from_so_many_files_and_no_more(make_layer):
    """Each point of the curve has the moments and the files of its own number, else few files would look like all."""
    _, _, knowledge = released(make_layer, follows=False)
    more = growing(iter([knowledge.released]), WINDOW, [64, IMAGES])
    found = list(_growing(knowledge, more, RELEASED))
    assert [(count, len(each.released), each.moments.images) for count, each in found] == [(64, 64, 64), (IMAGES,) * 3]
    assert "third_moments" in COUNTED[RELEASED] and "third_moments" in planned._ATTACKS
