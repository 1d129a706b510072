"""Tier 2 on releases of real photographs: what each attack must restore, and what it must leave alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import ne_jax
from ne_jax.attacks import blind
from ne_jax.attacks.attack import Knowledge
from ne_jax.core.linear_estimate import leading
from ne_jax.recoding.paper import low_directions, paper_recode
from tests.releases import (
    DIRECTIONS,
    NUMBERS,
    PSNR_DB,
    clean,
    decibels,
    isotropic,
    known,
    run,
    whole,
    with_isotropic,
    without_noise,
)

ATTACKS = {attack.name: attack for attack in blind.ATTACKS}


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("single_image", 25), ("principal_components", 15), ("gevd_projection", 14), ("gevd_inpainting", 30),
        ("blind_wiener", 30),
    ],
)  # fmt: skip
def test_restores_a_release_of_3_db(make_layer, name, least):
    """Every attack with its quick choice; a projection can do no better than what photographs have outside the subspace, 16 dB."""
    stored, knowledge = known(make_layer)
    assert decibels(run(ATTACKS[name], stored, knowledge)) > least


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"tile_average", "principal_components", "blind_wiener"}))
def test_clean_images_stay_as_they_are(make_layer, name):
    """Where releases have no more energy than photographs no direction is taken for noise."""
    _, knowledge = known(make_layer)
    np.testing.assert_array_equal(run(ATTACKS[name], clean(), without_noise(knowledge)), clean())


def test_wiener_hardly_changes_clean_images(make_layer):
    """What differs between one set of photographs and another is taken for noise, but is little."""
    _, knowledge = known(make_layer)
    assert decibels(run(ATTACKS["blind_wiener"], clean(), without_noise(knowledge))) > 50


@pytest.mark.parametrize("name", ["tile_average", "principal_components"])
def test_isotropic_noise_stays(make_layer, name):
    """Noise in no subspace shows no step in any spectrum: nothing is gained."""
    _, knowledge = known(make_layer)
    after = decibels(run(ATTACKS[name], isotropic(clean(), 3), with_isotropic(knowledge)))
    assert after == pytest.approx(PSNR_DB, abs=0.5)


@pytest.mark.parametrize("name", ["single_image", "gevd_inpainting", "blind_wiener"])
def test_isotropic_noise_is_only_smoothed(make_layer, name):
    """Against photographs white noise stands out in fine detail, and is denoised; a subspace's noise falls 10 dB further."""
    stored, knowledge = known(make_layer)
    after = decibels(run(ATTACKS[name], isotropic(clean(), 3), with_isotropic(knowledge)))
    assert PSNR_DB - 0.5 < after < decibels(run(ATTACKS[name], stored, knowledge)) - 10


def test_more_releases_are_never_much_worse(make_layer):
    stored, knowledge = known(make_layer)
    attack = ATTACKS["gevd_inpainting"]
    reached = [
        decibels(run(attack, stored, whole(knowledge._replace(releases=knowledge.releases[:count]), stored)))
        for count in (1, 3, 7)
    ]
    assert reached[1] > reached[0] - 0.5 and reached[2] > reached[1] - 0.5


@pytest.fixture(scope="module")
def tiles(make_layer) -> np.ndarray:
    """The images under attack, as `paper` mode recodes them: one noise for all patches of an image."""
    layer = known(make_layer)[1].layer
    keys = jax.random.split(jax.random.key(4), 3)
    made = [
        paper_recode(key, image, layer, low_directions(layer, 0.05), 30.0)
        for key, image in zip(keys, clean(), strict=True)
    ]
    return np.stack(made)


def _but_for_a_patch(images: np.ndarray) -> float:
    """PSNR, dB, of what differs from patch to patch: a patch that is the same everywhere does not count."""
    error = (images - clean()).reshape(3, 16, 4, 16, 4, 3)
    return float(-10 * np.log10(np.mean((error - error.mean((1, 3), keepdims=True)) ** 2) + 1e-12))


def _but_for_colour(images: np.ndarray) -> float:
    error = images - clean()
    return float(-10 * np.log10(np.mean((error - error.mean((1, 2), keepdims=True)) ** 2) + 1e-12))


def test_tile_average_undoes_a_tile(make_layer, tiles):
    """All of it but three constants of colour, and better still with seams; the colour is guessed from the grey world."""
    _, knowledge = known(make_layer)
    attack, reached = ATTACKS["tile_average"], {}
    for variant in ("constant", "patch", "seams"):
        images = run(attack, tiles, knowledge, variant=variant)
        assert _but_for_a_patch(images) > 100 and decibels(images) > decibels(tiles) + 3
        reached[variant] = _but_for_colour(images)
    assert reached["seams"] > reached["patch"] + 2 and reached["seams"] > 40


def test_a_sure_background_gives_the_tile_away():
    """Where all pictures are black in one place, "places" reads the tile there, exactly, also from pictures whose mean patch says
    nothing; also where a picture is bright in one of three such places."""
    generator = np.random.default_rng(5)
    images = generator.random((9, 16, 16, 1), np.float32)
    images[:, :4, :4], images[:, :4, 12:], images[:, 12:, 12:] = 0, 0, 0
    tile = np.tile(generator.standard_normal((3, 4, 4, 1)).astype(np.float32), (1, 4, 4, 1))
    stored = images[:3] + tile
    knowledge = Knowledge(patch=(4, 4, 1), public=images[3:])
    exact, rough = (run(ATTACKS["tile_average"], stored, knowledge, variant=kind) for kind in ("places", "patch"))
    error = [np.abs(made - images[:3]).max() for made in (exact, rough)]
    assert error[0] < 0.02 and error[1] > 8 * error[0]
    stored[:, 12:, 12:] += 0.8
    bright = run(ATTACKS["tile_average"], stored, knowledge, variant="places")
    assert np.abs(bright - images[:3])[:, :12, :12].max() < 0.02


def test_tile_average_does_nothing_to_fresh_noise(make_layer):
    stored, knowledge = known(make_layer)
    assert decibels(run(ATTACKS["tile_average"], stored, knowledge)) == pytest.approx(PSNR_DB, abs=0.5)


def test_single_image_refuses_too_few_patches(make_layer):
    stored, knowledge = known(make_layer)
    with pytest.raises(ne_jax.UserError, match="an image has 16 patches of 768 numbers"):
        run(ATTACKS["single_image"], stored, knowledge._replace(patch=(16, 16, 3)))


def test_refuses_what_it_was_not_given(make_layer):
    stored, knowledge = known(make_layer)
    with pytest.raises(ne_jax.UserError, match="the attack needs public photographs"):
        run(ATTACKS["gevd_inpainting"], stored, knowledge._replace(public=None))


def test_pixels_of_no_patch_stay(make_layer):
    """An image that is not whole patches keeps its last columns."""
    stored, knowledge = known(make_layer)
    narrow = knowledge._replace(releases=knowledge.releases[:, :, :62])
    attacked = run(ATTACKS["blind_wiener"], stored[:, :, :62], narrow)
    np.testing.assert_array_equal(attacked[:, :, 60:], stored[:, :, 60:62])
    assert not np.allclose(attacked[:, :, :60], stored[:, :, :60])


def test_the_knee_counts_noise(make_layer):
    """20 raised eigenvalues are 20 directions; none are raised, none are found; a share is a share."""
    values = np.r_[np.linspace(900, 90, DIRECTIONS), np.linspace(9, 0.1, NUMBERS - DIRECTIONS)]
    assert leading(values, "knee", 1.0) == DIRECTIONS
    assert leading(np.linspace(1.5, 0.5, NUMBERS), "knee", 1.0) == 0
    assert leading(values, 0.25, 1.0) == NUMBERS // 4
    assert leading(np.zeros(NUMBERS), "knee", 1e-6) == 0
