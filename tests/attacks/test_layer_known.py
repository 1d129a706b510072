"""Tier 4 on releases of real photographs, of patches and of overlapping windows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import ne_jax
from ne_jax.attacks import layer_known
from ne_jax.attacks.attack import Knowledge
from tests.releases import (
    DIRECTIONS,
    NUMBERS,
    PSNR_DB,
    SHAPE,
    clean,
    crops,
    decibels,
    isotropic,
    known,
    recoded,
    run,
)

ATTACKS = {attack.name: attack for attack in layer_known.ATTACKS}
LINEAR = ["projection", "inpainting", "layer_wiener", "projection_sibling", "inpainting_sibling"]


@pytest.fixture(scope="module")
def overlapping() -> tuple[np.ndarray, Knowledge]:
    """A 3 x 3 layer of stride 2 with six outputs, so that half of all directions are null; and releases."""
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 6)) / 5
    layer = ne_jax.FirstLayer(kernel, (2, 2), ((1, 1), (1, 1)), (0.5,) * 3, (0.25,) * 3)
    space = ne_jax.low_sensitivity(ne_jax.spectrum(layer, SHAPE), "count", int(np.prod(SHAPE)) // 2)
    knowledge = Knowledge(0, (8, 8, 3), crops(0, 20, 2), None, None, None, None, layer, space, None, space)
    return recoded(clean(), space, 3), knowledge


@pytest.mark.parametrize("name", LINEAR)
def test_noise_in_the_subspace_leaves_no_trace(make_layer, name):
    """A release and the clean image become the same: nothing of the noise is left, the attack's own damage is all there is."""
    stored, knowledge = known(make_layer)
    restored, damaged = run(ATTACKS[name], stored, knowledge), run(ATTACKS[name], clean(), knowledge)
    np.testing.assert_allclose(restored, damaged, atol=2e-3)
    assert decibels(restored) > (15 if name.startswith("projection") else 30)


@pytest.mark.parametrize("name", ["inpainting", "layer_wiener"])
def test_clean_images_of_pairs_count_as_public_ones(make_layer, name):
    """Who has the layer and pairs has no fewer photographs to learn from than who has the pairs alone."""
    stored, knowledge = known(make_layer)
    first, second = knowledge.public[::2], knowledge.public[1::2]
    halves = knowledge._replace(public=first, originals=second)
    joined = knowledge._replace(public=np.concatenate([first, second]), originals=None)
    np.testing.assert_array_equal(run(ATTACKS[name], stored, halves), run(ATTACKS[name], stored, joined))
    assert (
        np.abs(run(ATTACKS[name], stored, halves._replace(originals=None)) - run(ATTACKS[name], stored, halves)).max()
        > 1e-3
    )


@pytest.mark.parametrize("name", LINEAR)
def test_overlapping_windows(overlapping, name):
    stored, knowledge = overlapping
    restored, damaged = run(ATTACKS[name], stored, knowledge), run(ATTACKS[name], clean(), knowledge)
    np.testing.assert_allclose(restored, damaged, atol=2e-3)
    assert decibels(restored) > decibels(stored) + 8
    assert name.startswith("projection") or decibels(restored) > 18


def test_inpainting_keeps_what_the_model_sees(make_layer, overlapping):
    """It only changes the part in the subspace, of patches and of frequencies."""
    for stored, knowledge in (known(make_layer), overlapping):
        change = jnp.asarray(run(ATTACKS["inpainting"], stored, knowledge)[0] - stored[0])
        outside = np.asarray(change - knowledge.space.project(change))
        assert np.abs(outside).max() < 1e-4 * float(jnp.abs(change).max())


def test_pseudo_inverse_at_the_rank_is_projection(make_layer):
    """With as many directions left out as are null it is `projection`; with fewer, noise stays."""
    stored, knowledge = known(make_layer)
    exact = run(ATTACKS["pseudo_inverse"], stored, knowledge, share=DIRECTIONS / NUMBERS)
    np.testing.assert_allclose(exact, run(ATTACKS["projection"], stored, knowledge), atol=1e-3)
    assert decibels(run(ATTACKS["pseudo_inverse"], stored, knowledge, share=0.2)) < 10


@pytest.mark.parametrize("name", ["projection", "inpainting"])
def test_isotropic_noise_stays(make_layer, name):
    """Only the share of it that is in the subspace can go: at most 10 log10(d / r) dB."""
    _, knowledge = known(make_layer)
    limit = PSNR_DB + 10 * np.log10(NUMBERS / (NUMBERS - DIRECTIONS)) + 0.3
    assert decibels(run(ATTACKS[name], isotropic(clean(), 3), knowledge)) < limit


def test_wiener_is_gentle_where_there_is_little_noise(make_layer, overlapping):
    """The strength is measured: at 30 dB it does not do the damage of inpainting, on clean images hardly any."""
    for _, knowledge in (known(make_layer), overlapping):
        weak = recoded(clean(), knowledge.space, 3, 35.0)
        wiener = run(ATTACKS["inpainting"], weak, knowledge, wiener=True)
        assert decibels(wiener) > max(decibels(weak), decibels(run(ATTACKS["inpainting"], weak, knowledge, ridge=1.0)))


def test_a_siblings_subspace_of_another_size(make_layer):
    """`share` takes more or fewer directions; all but its own number leave noise or harm more."""
    stored, knowledge = known(make_layer)
    attack = ATTACKS["projection_sibling"]
    own = run(attack, stored, knowledge, owner="sibling", share=DIRECTIONS / NUMBERS)
    np.testing.assert_allclose(own, run(attack, stored, knowledge), atol=1e-5)
    for share in (0.2, 0.65):
        assert decibels(run(attack, stored, knowledge, owner="sibling", share=share)) < decibels(own)


def test_a_stranger_s_subspace_does_not_help(make_layer):
    stored, knowledge = known(make_layer)
    stranger = make_layer(np.geomspace(1, 0.1, NUMBERS - DIRECTIONS), knowledge.patch, outputs=28, seed=5).layer
    space = ne_jax.low_sensitivity(ne_jax.spectrum(stranger, SHAPE), "count", DIRECTIONS)
    assert decibels(run(ATTACKS["projection_sibling"], stored, knowledge._replace(sibling=space))) < PSNR_DB + 4


def test_the_authorized_checkpoint_is_identified(make_layer, overlapping):
    """Of several layers the one that releases were made for sees no more energy than in photographs."""
    layers = {
        "patches": known(make_layer)[1].layer,
        "stranger": make_layer(np.geomspace(1, 0.1, 28), (4, 4, 3), outputs=28, seed=5).layer,
        "overlapping": overlapping[1].layer,
    }
    for name, (stored, knowledge) in (("patches", known(make_layer)), ("overlapping", overlapping)):
        shares = layer_known.noise_shares(stored, layers, knowledge.public)
        assert min(shares, key=shares.get) == name
        assert shares[name] < 4 and all(share > 100 for other, share in shares.items() if other != name)


def test_refuses_images_of_another_shape(make_layer):
    stored, knowledge = known(make_layer)
    with pytest.raises(ne_jax.UserError, match="do not fit a subspace of images"):
        run(ATTACKS["projection"], stored[:, :32], knowledge)
