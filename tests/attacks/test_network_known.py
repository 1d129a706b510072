"""Stitching and feature inversion, on the shipped models and Fashion-MNIST."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import load_model
from ne_jax.attacks import network_known
from ne_jax.attacks.attack import Knowledge
from ne_jax.attacks.network_known import inversion, inversion_loss, stitching
from ne_jax.core.first_layer import FirstLayer
from ne_jax.core.pixels import from_bytes
from ne_jax.core.rules import low_sensitivity
from ne_jax.core.spectrum import spectrum
from ne_jax.data.sources import batches, open_source
from ne_jax.errors import UserError
from ne_jax.measure.answers import answer
from ne_jax.recoding.design import Recipe
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.noise_keys import noise_keys
from ne_jax.recoding.subspace_noise import GAUSSIAN

SHAPE, COUNT = (112, 112, 1), 96


@pytest.fixture(scope="module")
def pixels():
    source = open_source("fashion_mnist", limit=COUNT)
    return next(batches(source, load_model("vit_a").preprocess, COUNT, range(COUNT), lambda *_: None)).pixels


@pytest.fixture(scope="module")
def stored(pixels):
    """NEs of vit_a's null space at 0 dB, which nobody else reads."""
    space = low_sensitivity(spectrum(load_model("vit_a").first_layer, SHAPE), "relative", 1e-2)
    return np.asarray(encode_batch(noise_keys(bytes(32), b"", pixels), pixels, Recipe(GAUSSIAN, space, 0.0)).stored)


@pytest.fixture(scope="module")
def clean(pixels):
    return from_bytes(pixels)


def agreement(reader, images, model, clean):
    return float(np.mean(answer(reader, images).said == answer(model, clean).said))


@pytest.mark.parametrize("name", ["vit_b", "resnet_a"])
def test_stitched_readers_keep_their_predictions(clean, stored, name):
    """On clean images nearly all, and on NEs that they could not read as well: the authorized layer sees no noise."""
    reader = load_model(name)
    knowledge = Knowledge(public=clean[:48], layer=load_model("vit_a").first_layer)
    stitched = stitching(reader, knowledge)
    assert agreement(reader, stored[48:], reader, clean[48:]) < 0.4
    assert agreement(stitched, clean[48:], reader, clean[48:]) >= 0.9
    assert agreement(stitched, stored[48:], reader, clean[48:]) >= 0.9


def test_stitching_through_an_overlapping_layer(clean):
    """resnet_a's stem, 7x7 with stride 2, has an output for every 2x2 pixels: these are predicted, and clean images come through."""
    reader = load_model("vit_b")
    stitched = stitching(reader, Knowledge(public=clean[:8], layer=load_model("resnet_a").first_layer))
    assert agreement(stitched, clean[48:72], reader, clean[48:72]) >= 0.9


def test_stitching_predicts_the_readers_own_first_layer(clean):
    """Regression is linear in its targets: the stitched pixels, through another layer of the same patches, are the ridge regression of
    that layer's outputs on the same numbers."""
    layer, other = load_model("vit_a").first_layer, load_model("vit_b").first_layer
    leading, matrix = network_known.stitch(layer, clean[:24], 1e-4, 8)
    context = np.concatenate(
        [np.asarray(network_known._context(layer, leading, jnp.asarray(image))) for image in clean[:24]]
    )
    outputs = np.concatenate(
        [np.asarray(other.apply(jnp.asarray(image))).reshape(-1, other.kernel.shape[-1]) for image in clean[:24]]
    )
    gram = context.T.astype(np.float64) @ context
    load = np.full(len(gram), 1e-4 * np.trace(gram[1:, 1:]) / (len(gram) - 1))
    load[0] = 0
    direct = np.linalg.solve(gram + np.diag(load), context.T.astype(np.float64) @ outputs)
    assert np.allclose(
        context @ (matrix @ np.asarray(other.matrix).T), context @ direct, atol=2e-3 * np.abs(outputs).max()
    )


def test_stitching_says_where_it_has_no_meaning(clean):
    """A stem that pads nothing has fewer outputs than cells of pixels."""
    stem = load_model("resnet_a").first_layer
    unpadded = FirstLayer(stem.kernel, stem.strides, "VALID", stem.mean, stem.std)
    for layer in (None, unpadded):
        with pytest.raises(UserError, match="needs"):
            stitching(load_model("vit_b"), Knowledge(public=clean[:2], layer=layer))


@pytest.mark.parametrize(("depth", "start"), [("first", "grey"), ("hidden", "grey"), ("features", "stored")])
def test_inversion_lowers_its_loss(stored, depth, start):
    """To less than three quarters in a few steps, from grey by the error, from the stored image, which has none, by the prior."""
    model, some = load_model("vit_a"), stored[:2]
    found = inversion(some, Knowledge(model=model), depth, start, steps=40)
    static, fixed = (depth, model.graphdef), (model.state, model.first_layer, jnp.float32(0.3))
    target = network_known._features(static, fixed, jnp.asarray(some))
    loss = jax.jit(functools.partial(inversion_loss, static))
    first = some if start == "stored" else np.full_like(some, 0.5)
    assert float(loss(jnp.asarray(found), fixed, target)) < 0.75 * float(loss(jnp.asarray(first), fixed, target))


def test_inversion_makes_the_release_readable(clean, stored):
    """vit_b reads what inversion of vit_a's first layer gives nearly as it reads the clean images, and the release seldom."""
    reader = load_model("vit_b")
    found = inversion(stored[:24], Knowledge(model=load_model("vit_a")), steps=200, rate=0.1)
    assert agreement(reader, stored[:24], reader, clean[:24]) < 0.5
    assert agreement(reader, found, reader, clean[:24]) > 0.85


def test_cosine_waves_are_a_transform_and_its_inverse(stored):
    """Of images that are not square, too."""
    images = jnp.asarray(stored[:2, :96])
    waves = network_known._waves(images.shape[1:])
    assert np.allclose(network_known._drawn(network_known._transformed(images, waves), waves), images, atol=1e-4)


def test_inversion_needs_gradients(stored):
    foreign = dataclasses.replace(load_model("vit_a"), graphdef=None, state=None)
    for model in (None, foreign):
        with pytest.raises(UserError, match="needs the authorized model|no gradients"):
            inversion(stored[:1], Knowledge(model=model), "hidden")
    with pytest.raises(UserError, match="own size"):
        inversion(stored[:1, :56, :56], Knowledge(model=load_model("vit_a")))
