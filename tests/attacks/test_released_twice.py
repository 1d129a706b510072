"""Tier 2 with two recodings of a picture, or of two that are nearly the same: what comes back, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest

import ne_jax
from ne_jax.attacks import released_twice
from tests.releases import (
    DIRECTIONS,
    NUMBERS,
    PSNR_DB,
    SHAPE,
    WINDOW,
    clean,
    decibels,
    known,
    recoded,
    run,
    with_isotropic,
    without_noise,
)
from tests.releases import isotropic as white

ATTACKS = {attack.name: attack for attack in released_twice.ATTACKS}


def other_model(make_layer) -> ne_jax.Subspace:
    """20 directions of another model, drawn for themselves."""
    sigma = np.geomspace(1, 0.1, NUMBERS - DIRECTIONS)
    layer = make_layer(sigma, WINDOW, outputs=NUMBERS - DIRECTIONS, seed=7).layer
    return ne_jax.low_sensitivity(ne_jax.spectrum(layer, SHAPE), "count", DIRECTIONS)


def two_artefacts(make_layer, space: ne_jax.Subspace, psnr_db: float = PSNR_DB):
    """What is attacked, with the same pictures in a second artefact, for `space` and of that strength."""
    stored, knowledge = known(make_layer)
    other = (knowledge.releases, recoded(knowledge.originals, space, 11, psnr_db))
    return stored, knowledge._replace(other=other, beside=recoded(clean(), space, 12, psnr_db))


@pytest.mark.parametrize("name", ["repeated_release", "artefact_difference"])
def test_the_subspace_of_the_differences_restores_a_release(make_layer, name):
    """3 dB, seven pictures recoded twice, none of them under attack."""
    stored, knowledge = known(make_layer)
    assert decibels(run(ATTACKS[name], stored, knowledge)) > 30


@pytest.mark.parametrize("psnr_db", [PSNR_DB, PSNR_DB + 6])
def test_two_strengths_restore_a_release(make_layer, psnr_db):
    """Of one model, in one subspace: the differences show it."""
    stored, knowledge = two_artefacts(make_layer, known(make_layer)[1].space, psnr_db)
    for name in ("artefact_difference", "both_artefacts"):
        assert decibels(run(ATTACKS[name], stored, knowledge)) > 30


def test_two_authorized_models_show_what_each_hides(make_layer):
    """Their noises lie in two subspaces that have no direction in common: both files rebuild more than what replaces all that is noise in
    one of them."""
    stored, knowledge = two_artefacts(make_layer, other_model(make_layer))
    together = decibels(run(ATTACKS["both_artefacts"], stored, knowledge))
    assert together > 35 and together > decibels(run(ATTACKS["artefact_difference"], stored, knowledge)) + 5


def test_one_noise_in_two_strengths_would_be_the_picture(make_layer):
    """What contract 4 prevents: x + a n and x + b n lie on a line through x, at a / (a - b) of the way."""
    stored, knowledge = known(make_layer)
    knowledge = knowledge._replace(beside=clean() + (stored - clean()) / 2)
    assert decibels(run(ATTACKS["between_artefacts"], stored, knowledge, share=2.0)) > 100


def test_fresh_noise_leaves_the_line_nothing_but_a_mean(make_layer):
    """3 dB less noise from two files of one strength, and no point on the line is better."""
    stored, knowledge = two_artefacts(make_layer, known(make_layer)[1].space)
    attack = ATTACKS["between_artefacts"]
    found = {one["share"]: decibels(run(attack, stored, knowledge, **one)) for one in attack.grid}
    assert max(found.values()) == found[0.5] == pytest.approx(PSNR_DB + 3, abs=0.3)


def test_near_copies_restore_a_release(make_layer):
    """Pictures that were made a little darker and saved again, each with noise of its own, beside the first ones."""
    stored, knowledge = known(make_layer)
    again = np.round(knowledge.originals * 0.98 * 255) / np.float32(255)
    copies = (knowledge.releases, recoded(again.astype(np.float32), knowledge.space, 13))
    assert decibels(run(ATTACKS["near_copies"], stored, knowledge._replace(copies=copies))) > 30


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_clean_images_stay_as_they_are(make_layer, name):
    """Without noise there is no difference to take for it; what 8 bits would round away may change."""
    plain = without_noise(known(make_layer)[1])
    plain = plain._replace(beside=clean(), copies=(plain.releases, plain.releases))
    assert decibels(run(ATTACKS[name], clean(), plain)) > 55


@pytest.mark.parametrize("name", ["repeated_release", "artefact_difference", "near_copies"])
def test_isotropic_noise_stays(make_layer, name):
    """Noise in no subspace shows no step in any spectrum: nothing is gained."""
    knowledge = with_isotropic(known(make_layer)[1])
    knowledge = knowledge._replace(copies=(knowledge.releases, knowledge.again))
    after = decibels(run(ATTACKS[name], white(clean(), 3), knowledge))
    assert after == pytest.approx(PSNR_DB, abs=0.5)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_what_is_not_there_is_told(make_layer, name):
    _, knowledge = known(make_layer)
    with pytest.raises(ne_jax.UserError, match="the attack needs .*, and there is none"):
        run(ATTACKS[name], clean(), knowledge._replace(again=None, other=None, copies=None))
