"""Tier 2 from the whole release: noise gives its subspace away by itself, and what is not such noise is left alone."""

import contextlib
import functools

import jax
import numpy as np
import pytest
from PIL import Image

import ne_jax
from ne_jax.attacks import third_moments, whole_release
from ne_jax.attacks.attack import Knowledge
from ne_jax.attacks.moments import growing
from ne_jax.core.linear_estimate import cut
from ne_jax.recoding.hardened import hardened
from tests.photos import photographs
from tests.releases import PSNR_DB, SHAPE, WINDOW, clean, crops, decibels, isotropic, known, run

ATTACKS = {attack.name: attack for attack in whole_release.ATTACKS}


@functools.cache
def released_pictures() -> np.ndarray:
    """The three under attack, and 45 crops of other photographs than the public ones."""
    generator, made = np.random.default_rng(3), []
    for number in range(45):
        photo = photographs()[1 + 2 * (number % 7)]
        side = min(photo.size) // 2
        left, top = (int(generator.integers(length - side)) for length in photo.size)
        square = photo.crop((left, top, left + side, top + side)).resize(SHAPE[:2], Image.Resampling.LANCZOS)
        made.append(np.asarray(square, np.float32) / np.float32(255))
    return np.concatenate([clean(), np.stack(made)])


@functools.cache
def released(make_layer, kind: str) -> tuple[np.ndarray, Knowledge]:
    """48 pictures as they are released with noise of a kind in 20 of 48 directions, and what an attacker knows: them, and photographs."""
    space, generator = known(make_layer)[1].space, np.random.default_rng(4)
    basis = np.asarray(space.basis)
    images = released_pictures()
    white = generator.standard_normal((*cut(images, WINDOW).shape[:2], basis.shape[1])).astype(np.float32)
    scale = np.geomspace(1, 0.05, basis.shape[1]) if kind == "unequal" else np.ones(basis.shape[1])
    noise = (white * scale.astype(np.float32)) @ basis.T
    noise *= 10 ** (-PSNR_DB / 20) / np.sqrt(np.mean(noise**2))
    noise *= 3 if kind == "strong" else 1
    rows, columns = SHAPE[0] // WINDOW[0], SHAPE[1] // WINDOW[1]
    whole = noise.reshape(-1, rows, columns, *WINDOW).transpose(0, 1, 3, 2, 4, 5).reshape(images.shape)
    if kind in ("replaced", "strong"):
        images = images - np.asarray(jax.vmap(space.project)(images - images.mean()))
    stored = images + (whole if kind != "isotropic" else isotropic(np.zeros_like(images), 6))
    moments = growing(iter([stored]), WINDOW, [len(stored)])[0]
    return stored[: len(clean())], Knowledge(0, WINDOW, crops(0, 20, 2), moments=moments)


@pytest.mark.parametrize(("kind", "of"), [("white", "steps"), ("replaced", "steps"), ("strong", "patches")])
def test_equal_eigenvalues_restore_a_release(make_layer, kind, of):
    """White noise, 3 dB: no pair, no first layer, each picture once. Of patches, whose brightness has the variance of that noise, stronger
    noise in the place of the image's own part is seen."""
    stored, knowledge = released(make_layer, kind)
    assert decibels(run(ATTACKS["equal_eigenvalues"], stored, knowledge, of=of)) > 30


def test_unequal_noise_hides_from_eigenvalues_and_not_from_neighbours(make_layer):
    """The reason why there are two attacks."""
    stored, knowledge = released(make_layer, "unequal")
    plain = decibels(stored)
    by_neighbours = max(
        decibels(run(ATTACKS["shared_by_neighbours"], stored, knowledge, share=share)) for share in (0.1, 0.2, 0.4)
    )
    assert by_neighbours > plain + 15
    try:
        by_eigenvalues = decibels(run(ATTACKS["equal_eigenvalues"], stored, knowledge, of="patches"))
    except ne_jax.UserError:
        return
    assert by_eigenvalues < by_neighbours - 5


def test_what_differs_by_place_restores_pictures_that_do(make_layer):
    """Pictures that fade towards their edges, as things on a plain ground do, under unequal noise: where the covariance differs from place
    to place, there is no noise."""
    stored, knowledge = released(make_layer, "unequal")
    noise, fading = stored - clean(), faded(np.ones_like(clean()))
    images = fading[:1] * released_pictures()
    space = known(make_layer)[1].space
    all_noise = np.concatenate([noise, other_noise(space, len(images) - len(noise))])
    moments = growing(iter([images + all_noise]), WINDOW, [len(images)])[0]
    knowledge = knowledge._replace(moments=moments, public=fading[:1] * knowledge.public)
    wanted, given = images[: len(noise)], (images + all_noise)[: len(noise)]
    after = max(
        -10 * np.log10(np.mean((run(ATTACKS["differs_by_place"], given, knowledge, share=share) - wanted) ** 2))
        for share in (0.1, 0.2, 0.4)
    )
    assert after > -10 * np.log10(np.mean(noise**2)) + 8


def faded(images: np.ndarray) -> np.ndarray:
    """Images that are dark at their edges."""
    rows, columns = (np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2 for length in SHAPE[:2])
    return images * (rows[:, None] * columns)[..., None].astype(np.float32)


def other_noise(space, count: int) -> np.ndarray:
    """Unequal noise of the releases' strength, for more pictures."""
    basis, generator = np.asarray(space.basis), np.random.default_rng(9)
    rows, columns = SHAPE[0] // WINDOW[0], SHAPE[1] // WINDOW[1]
    scale = np.geomspace(1, 0.05, basis.shape[1]).astype(np.float32)
    noise = (generator.standard_normal((count, rows * columns, basis.shape[1])).astype(np.float32) * scale) @ basis.T
    noise *= 10 ** (-PSNR_DB / 20) / np.sqrt(np.mean(noise**2))
    return noise.reshape(-1, rows, columns, *WINDOW).transpose(0, 1, 3, 2, 4, 5).reshape(count, *SHAPE)


def test_hardened_noise_stays(make_layer):
    """48 pictures, 12,288 patches of 48 numbers: where white noise in the same directions is taken away to 30 dB and more, no attack on
    moments, whatever its parameters, rebuilds a picture much better than the mean of public ones does."""
    white, knowledge = released(make_layer, "white")
    space = hardened(jax.random.key(5), known(make_layer)[1].space)
    release = jax.vmap(lambda key, image: ne_jax.recode(key, image, space, PSNR_DB, replace=True))
    stored = np.asarray(release(jax.random.split(jax.random.key(6), len(released_pictures())), released_pictures()))
    told = knowledge._replace(released=stored, moments=growing(iter([stored]), WINDOW, [len(stored)])[0])
    assert best_of_all(white, knowledge) > 30
    mean = decibels(np.broadcast_to(knowledge.public.mean(0), clean().shape))
    assert best_of_all(stored[: len(white)], told) < mean + 3


def best_of_all(stored: np.ndarray, knowledge: Knowledge) -> float:
    """PSNR, dB, after the best of all attacks and parameters."""
    found = []
    for attack in (*ATTACKS.values(), *third_moments.ATTACKS):
        if knowledge.released is None and "released" in attack.knows:
            continue
        for parameters in attack.grid:
            with contextlib.suppress(ne_jax.UserError):
                found.append(decibels(run(attack, stored, knowledge, **parameters)))
    return max(found)


def test_isotropic_noise_has_no_subspace(make_layer):
    """All eigenvalues but photographs' own are equal: what is taken for the subspace holds the image too, and no release of it comes back
    as one of a subspace does."""
    stored, knowledge = released(make_layer, "isotropic")
    subspace, other = released(make_layer, "white")
    for name, parameters in (("equal_eigenvalues", {"of": "steps"}), ("shared_by_neighbours", {"share": 0.4})):
        after, best = (
            decibels(run(ATTACKS[name], *each, **parameters)) for each in ((stored, knowledge), (subspace, other))
        )
        assert after < best - 5


def test_too_few_equal_ones_are_told():
    """Photographs alone show no white noise: a line, and nothing is changed."""
    images = released_pictures()
    knowledge = Knowledge(0, WINDOW, crops(0, 20, 2), moments=growing(iter([images]), WINDOW, [len(images)])[0])
    with pytest.raises(ne_jax.UserError, match="eigenvalues are equal; no white noise shows"):
        run(ATTACKS["equal_eigenvalues"], images[:3], knowledge)
