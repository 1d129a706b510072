"""What the shipped models promise, on real images: the rows of the README, on fewer images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax.core import bounds
from ne_jax.core.rules import low_sensitivity
from ne_jax.core.spectrum import spectrum
from ne_jax.data.sources import batches, open_source
from ne_jax.models.loading import load_model
from ne_jax.recoding.design import Recipe
from ne_jax.recoding.designs import DESIGNS
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.noise_keys import noise_keys
from ne_jax.recoding.subspace_noise import GAUSSIAN

SECRET = b"a secret of thirty-two bytes ..."
COUNT = 500


@pytest.fixture(scope="module")
def images():
    source = open_source("fashion_mnist", limit=COUNT)
    model = load_model("vit_a")
    batch = next(batches(source, model.preprocess, COUNT, range(COUNT), lambda *_: None))
    return batch.pixels, source.labels()


@pytest.fixture(scope="module")
def values():
    return spectrum(load_model("vit_a").first_layer, (112, 112, 1))


def accuracy(name, pixels, labels):
    return float(np.mean(np.asarray(load_model(name).apply(pixels).argmax(-1)) == labels))


@pytest.mark.parametrize(
    ("name", "least"),
    [("vit_a", 0.87), ("vit_b", 0.87), ("resnet_a", 0.90), ("resnet_b", 0.90), ("convnext_a", 0.88)],
)
def test_samples_classify(images, name, least):
    """The shipped weights really classify: not below the promise by more than three standard errors of 500 images."""
    assert accuracy(name, *images) >= least - 3 * np.sqrt(least * (1 - least) / COUNT)


@pytest.mark.parametrize("design", ["gaussian", "boxed"])
def test_only_the_authorized_model_reads_the_nes(images, values, design):
    """The point of it all: vit_a keeps 99 % of its predictions, others fall to near chance (here: below 25 %)."""
    pixels, labels = images
    space = low_sensitivity(values, "relative", 1e-2)
    stored = encode_batch(noise_keys(SECRET, b"", pixels), pixels, Recipe(DESIGNS[design], space, 0.0)).stored
    model = load_model("vit_a")
    kept = bounds.compare_logits(model.apply(pixels), model.apply(stored)).kept
    assert float(kept.mean()) >= 0.99
    for reader in ("vit_b", "resnet_a", "resnet_b"):
        assert accuracy(reader, stored, labels) <= 0.25


def test_white_noise_of_that_strength_breaks_the_authorized_model(images):
    """It is the subspace that protects its accuracy: under isotropic noise at 0 dB it falls below 30 %."""
    from ne_jax.recoding.subspace_noise import isotropic

    pixels, labels = images
    noisy = jax.vmap(lambda key, image: isotropic(key, image, 0.0))(
        noise_keys(SECRET, b"", pixels), pixels.astype(np.float32) / 255
    )
    assert accuracy("vit_a", noisy, labels) < 0.30


def test_measured_gap_is_the_expected_one_beyond_the_null_space(images, values):
    """gaussian in a subspace that reaches beyond the exact null space: median rho within 10 % of
    sqrt(mean sigma_i^2 over V_N) * norm(delta)."""
    pixels, _ = images
    layer = load_model("vit_a").first_layer
    space = low_sensitivity(values, "count", 700)
    assert float(space.singular_values[0]) > 0.1 * float(space.sigma_1)
    stored = encode_batch(noise_keys(SECRET, b"", pixels), pixels, Recipe(GAUSSIAN, space, 10.0)).stored
    certificate = bounds.certify(layer, space, pixels, stored)
    assert bool(certificate.holds.all())
    assert abs(float(jnp.median(certificate.feature_gap / certificate.expected_gap)) - 1) <= 0.10


def test_bound_is_tight_along_the_worst_direction(images, values):
    """For delta along the largest sigma of V_N, measured / bound >= .999."""
    pixels, _ = images
    layer = load_model("vit_a").first_layer
    space = low_sensitivity(values, "count", 700)
    from ne_jax.core.unfold import fold

    worst = fold(jnp.tile(space.basis[:, 0], (space.num_patches, 1)), space.window, space.image_shape)
    clean = jnp.full((1, 112, 112, 1), 0.5)
    certificate = bounds.certify(layer, space, clean, clean + 3 * worst)
    assert bool(certificate.holds[0]) and float(certificate.feature_gap[0] / certificate.bound[0]) >= 0.999


@pytest.mark.parametrize("reader", ["vit_b", "vit_a_tuned"])
def test_reader_deviation_is_predicted(images, values, reader):
    """Mean energy at a reader's first layer within 5 % of s^2 trace(V_N^T G V_N); the tails hold as often as promised."""
    pixels, _ = images
    space = low_sensitivity(values, "relative", 1e-2)
    stored = encode_batch(noise_keys(SECRET, b"", pixels), pixels, Recipe(GAUSSIAN, space, 0.0)).stored
    delta = stored - pixels.astype(np.float32) / 255
    layer, t = load_model(reader).first_layer, 3.0
    energy = bounds.noise_energy(layer, delta)
    std = jnp.linalg.norm(delta.reshape(COUNT, -1), axis=1) / np.sqrt(space.num_patches * space.num_directions)
    unit = bounds.reader_deviation(layer, space, 1.0, t)
    ratio = energy / std**2
    assert abs(float(ratio.mean() / unit.mean) - 1) <= 0.05
    allowed = np.exp(-t) + 3 * np.sqrt(np.exp(-t) / COUNT)
    assert float((ratio < unit.lower).mean()) <= allowed and float((ratio > unit.upper).mean()) <= allowed
