"""Readers trained on a release, on the shipped models and Fashion-MNIST."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from ne_jax import load_model
from ne_jax.attacks.attack import Knowledge
from ne_jax.attacks.reader_training import batch_statistics, fine_tune, from_scratch, labelled, linear_adapter
from ne_jax.core.rules import low_sensitivity
from ne_jax.core.spectrum import spectrum
from ne_jax.data.sources import batches, open_source
from ne_jax.errors import UserError
from ne_jax.measure.answers import answer
from ne_jax.recoding.design import Recipe
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.noise_keys import noise_keys
from ne_jax.recoding.subspace_noise import GAUSSIAN

SHAPE, COUNT, TRAINED = (112, 112, 1), 320, 200


@pytest.fixture(scope="module")
def release():
    """NEs of vit_a's null space at 0 dB, which nobody else reads, with their classes. Of four draws of noise the one whose figure for
    `from_scratch`, .38, is nearest to their mean (.32 to .46)."""
    source = open_source("fashion_mnist", limit=COUNT)
    pixels = next(batches(source, load_model("vit_a").preprocess, COUNT, range(COUNT), lambda *_: None)).pixels
    space = low_sensitivity(spectrum(load_model("vit_a").first_layer, SHAPE), "relative", 1e-2)
    stored = np.asarray(encode_batch(noise_keys(bytes(32), b"1", pixels), pixels, Recipe(GAUSSIAN, space, 0.0)).stored)
    return stored, np.asarray(source.labels())


@pytest.fixture(scope="module")
def knowledge(release):
    return Knowledge(
        patch=load_model("vit_a").first_layer.window, releases=release[0][:TRAINED], labels=release[1][:TRAINED]
    )


def accuracy(model, release):
    return float(np.mean(answer(model, release[0][TRAINED:]).said == release[1][TRAINED:]))


def leaves(model, kind):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.filter_state(model.state, kind))]


def test_fine_tuning_learns_to_read_the_release(release, knowledge):
    """With all labels, on NEs that it was not trained on, a reader near chance becomes one that reads; the reader itself stays."""
    reader = load_model("resnet_a")
    before = accuracy(reader, release)
    tuned = fine_tune(reader, knowledge, steps=60, rate=1e-3, batch=16, refresh=True)
    assert before < 0.3 and accuracy(tuned, release) > before + 0.25
    assert accuracy(reader, release) == before
    assert not np.array_equal(tuned.first_layer.kernel, reader.first_layer.kernel)


def test_the_head_alone_is_tuned(release, knowledge):
    """Every weight but the head's stays to the bit."""
    reader = load_model("vit_b")
    tuned = fine_tune(reader, knowledge, steps=2, weights="head")
    pairs = zip(nnx.to_flat_state(reader.state), nnx.to_flat_state(tuned.state), strict=True)
    for (path, old), (_, new) in pairs:
        assert np.array_equal(old[...], new[...]) == (path[0] != "head")


def test_a_share_is_a_share(knowledge):
    """1 % of 200 labels are two, the same two each time, and of fewer than that one is taken."""
    reader = load_model("resnet_a")
    images, labels = labelled(reader, knowledge, 0.01)
    assert len(images) == len(labels) == 2 and np.array_equal(images, labelled(reader, knowledge, 0.01)[0])
    place = np.flatnonzero((knowledge.releases == images[0]).all(axis=(1, 2, 3)))
    assert knowledge.labels[place] == labels[:1]
    assert len(labelled(reader, knowledge, 1e-6)[0]) == 1


def test_a_linear_adapter_recovers_more_than_nothing(release, knowledge):
    """Before a frozen reader, after a few steps, on NEs that it was not trained on; without steps it changes no answer."""
    reader = load_model("vit_b")
    untouched, trained = (linear_adapter(reader, knowledge, steps, rate=3e-4, batch=16) for steps in (0, 100))
    assert np.array_equal(answer(untouched, release[0]).said, answer(reader, release[0]).said)
    assert accuracy(trained, release) > accuracy(reader, release) + 0.08


def test_statistics_alone_change(release, knowledge):
    """Every weight stays to the bit, every statistic moves; with weight 0 nothing does."""
    reader = load_model("resnet_a")
    found, still = (batch_statistics(reader, knowledge, weight) for weight in (1.0, 0.0))
    for model, same in ((found, False), (still, True)):
        assert all(map(np.array_equal, leaves(model, nnx.Param), leaves(reader, nnx.Param)))
        old, new = leaves(reader, nnx.BatchStat), leaves(model, nnx.BatchStat)
        assert len(old) > 0 and all(np.array_equal(*pair) == same for pair in zip(old, new, strict=True))


def test_statistics_are_those_of_the_images(knowledge):
    """The first BatchNorm's mean is that of the stem's outputs over the releases."""
    reader = load_model("resnet_a")
    some = knowledge._replace(releases=knowledge.releases[:32])
    module = nnx.merge(reader.graphdef, batch_statistics(reader, some, batch=16).state)
    outputs = reader.first_layer.apply(some.releases - np.asarray(reader.first_layer.mean))
    assert np.allclose(module.stem_norm.mean[...], outputs.mean(axis=(0, 1, 2)), atol=1e-4)


def test_from_scratch_learns(release, knowledge):
    """From 200 NEs and labels alone, well above chance on others; in the reader's place, whose name it keeps."""
    model = from_scratch(load_model("vit_b"), knowledge, steps=120)
    assert model.name == "vit_b" and accuracy(model, release) > 0.35


@pytest.mark.parametrize("attack", [fine_tune, linear_adapter, from_scratch])
def test_labels_are_needed_and_must_fit(knowledge, attack):
    """No labels, a label that is no class of the reader, a reader without a head: one line each."""
    reader = load_model("resnet_a")
    with pytest.raises(UserError, match="needs labels"):
        attack(reader, knowledge._replace(labels=None))
    with pytest.raises(UserError, match="none of the 10 classes"):
        attack(reader, knowledge._replace(labels=knowledge.labels + 10))
    with pytest.raises(UserError, match="no head"):
        attack(dataclasses.replace(reader, num_classes=0), knowledge)


def test_not_applicable(knowledge):
    """A reader without BatchNorm, and one that is no Flax network."""
    with pytest.raises(UserError, match="no BatchNorm"):
        batch_statistics(load_model("vit_b"), knowledge)
    foreign = dataclasses.replace(load_model("resnet_a"), graphdef=None, state=None)
    for attack in (fine_tune, linear_adapter, batch_statistics):
        with pytest.raises(UserError, match="no Flax network"):
            attack(foreign, knowledge)
