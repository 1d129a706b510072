"""Tier 3 on releases of real photographs."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import ne_jax
from ne_jax.attacks import blind, known_pairs, layer_known
from ne_jax.recoding.noise_keys import noise_keys
from tests.releases import (
    DIRECTIONS,
    PSNR_DB,
    WINDOW,
    clean,
    decibels,
    isotropic,
    known,
    run,
    with_isotropic,
    without_noise,
)

ATTACKS = {attack.name: attack for attack in (*blind.ATTACKS, *known_pairs.ATTACKS, *layer_known.ATTACKS)}


@pytest.mark.parametrize(
    ("name", "least"), [("difference_subspace", 33), ("ridge_decoder", 20), ("context_decoder", 21)]
)
def test_restores_a_release_of_3_db(make_layer, name, least):
    stored, knowledge = known(make_layer)
    assert decibels(run(ATTACKS[name], stored, knowledge)) > least


@pytest.mark.parametrize("attack", known_pairs.ATTACKS, ids=lambda attack: attack.name)
def test_pairs_without_noise_change_nothing(make_layer, attack):
    _, knowledge = known(make_layer)
    np.testing.assert_array_equal(run(attack, clean(), without_noise(knowledge)), clean())


def test_one_pair_is_enough(make_layer):
    """256 patches show 20 directions: the subspace of one pair is that of all."""
    stored, knowledge = known(make_layer)
    attack = ATTACKS["difference_subspace"]
    one = knowledge._replace(
        releases=knowledge.releases[:1], originals=knowledge.originals[:1], public=np.r_[knowledge.public, knowledge.originals[1:]]
    )  # fmt: skip
    assert decibels(run(attack, stored, one)) == pytest.approx(decibels(run(attack, stored, knowledge)), abs=0.1)


def test_more_pairs_are_never_much_worse(make_layer):
    stored, knowledge = known(make_layer)
    reached = [
        decibels(
            run(
                ATTACKS["ridge_decoder"],
                stored,
                knowledge._replace(releases=knowledge.releases[:count], originals=knowledge.originals[:count]),
            )
        )
        for count in (2, 4, 7)
    ]
    assert reached[1] > reached[0] - 0.5 and reached[2] > reached[1] - 0.5


def test_who_knows_more_restores_more(make_layer):
    """The layer at least as much as pairs, pairs at least as much as releases alone; .2 dB for other priors."""
    stored, knowledge = known(make_layer)
    white, plain, blindly = (
        decibels(run(ATTACKS[name], stored, knowledge)) for name in ("inpainting", "difference_subspace", "gevd_inpainting")
    )  # fmt: skip
    assert white > plain - 0.2 and plain > blindly - 0.2 and blindly > PSNR_DB


def test_isotropic_noise_has_no_subspace(make_layer):
    """Its differences show no step, so that nothing is changed; a decoder smooths it, 4 dB short of a release."""
    stored, knowledge = known(make_layer)
    noisy, other = isotropic(clean(), 3), with_isotropic(knowledge)
    np.testing.assert_array_equal(run(ATTACKS["difference_subspace"], noisy, other), noisy)
    for name in ("ridge_decoder", "context_decoder"):
        after = decibels(run(ATTACKS[name], noisy, other))
        assert after < decibels(run(ATTACKS[name], stored, knowledge)) - 4


def _released(knowledge, secret: bytes) -> np.ndarray:
    pixels = np.round(knowledge.originals * 255).astype(np.uint8)
    noise = noise_keys(secret, b"", pixels)
    return np.asarray(
        jax.vmap(lambda key, image: ne_jax.recode(key, image, knowledge.space, PSNR_DB))(noise, knowledge.originals)
    )


@pytest.mark.parametrize("secret", [bytes(32), (7).to_bytes(32, "big"), b"19"])
def test_weak_secrets_are_found(make_layer, secret):
    """All zeros, a small number, its digits: found from one pair without the subspace, and the release is restored."""
    stored, knowledge = known(make_layer)
    knowledge = knowledge._replace(releases=_released(knowledge, secret))
    found = known_pairs.weak_secret(knowledge.releases[0], knowledge.originals[0], WINDOW, DIRECTIONS, 20, b"")
    assert found == secret
    assert decibels(run(ATTACKS["seed_search"], stored, knowledge, seeds=20)) > 30


def test_a_random_secret_is_not_found(make_layer):
    stored, knowledge = known(make_layer)
    knowledge = knowledge._replace(releases=_released(knowledge, bytes.fromhex("5a91c37e" * 8)))
    np.testing.assert_array_equal(run(ATTACKS["seed_search"], stored, knowledge, seeds=300), stored)
