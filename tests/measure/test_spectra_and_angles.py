from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from ne_jax import FirstLayer, UserError, load_model, low_sensitivity, spectral_gap, spectrum
from ne_jax.data.preprocess import Preprocess
from ne_jax.measure.spectra_and_angles import (
    Components,
    alignment,
    comparable,
    correlation,
    effective_rank,
    flatness,
    front_end_energy,
    image_singular_values,
    misalignment,
    numerical_rank,
    principal_components,
    probe_energies,
    random_alignments,
    ratio_of_means,
    relative_gain,
    windows,
)
from ne_jax.models.depth import outputs_by_depth

EPS = float(np.finfo(np.float32).eps)
SHAPE = (16, 16, 3)
SPEC = Preprocess(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def stem() -> FirstLayer:
    """A first layer whose windows overlap: 5 x 5, stride 2, four outputs for the twelve numbers of a cell, so two thirds are null."""
    kernel = np.random.default_rng(0).standard_normal((5, 5, 3, 4))
    return FirstLayer(kernel, (2, 2), ((2, 2), (2, 2)), (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def fourier(stem):
    return low_sensitivity(spectrum(stem, SHAPE), "relative", 1e-3)


def rotated(layer: FirstLayer, seed: int = 7) -> FirstLayer:
    """The layer after a random rotation of the patch: the same spectrum, other directions."""
    size = int(np.prod(layer.window))
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]
    matrix = np.asarray(layer.matrix, np.float64) @ turn.T
    kernel = matrix.T.reshape(layer.kernel.shape) * np.asarray(layer.std)[:, None]
    return FirstLayer(kernel, layer.strides, layer.padding, layer.mean, layer.std)


def test_effective_rank_counts_equal_directions_and_ignores_scale():
    """m equal singular values have effective rank m, whatever their size and however many zeros follow."""
    values = np.r_[np.full(5, 3.0), np.zeros(7)]
    assert effective_rank(values) == pytest.approx(5) and effective_rank(values * 100) == pytest.approx(5)
    shares = np.array([0.5, 0.25, 0.25])
    assert effective_rank(np.sqrt(shares)) == pytest.approx(2**1.5)  # an entropy of 1.5 bits


def test_flatness_is_one_for_equal_values_and_leaves_zeros_out():
    assert flatness(np.array([2.0, 2.0, 0.0]), 2) == pytest.approx(1)
    assert flatness(np.array([2.0, 1.0, 0.0]), 2) == pytest.approx(2 / 2.5)


def test_numerical_rank_finds_the_exact_zeros_of_a_layer(graded):
    """`graded` has 40 singular values down to 1e-3 and 8 zeros, which float32 sees as rounding."""
    found = np.asarray(spectrum(graded.layer, SHAPE).singular_values)
    assert numerical_rank(found, 48) == 40


def test_image_singular_values_are_those_of_the_image_map(graded, stem):
    """Against a dense SVD of the map of whole images: patches repeat; one image row beyond the patches adds zeros."""
    shape = (9, 8, 3)  # two by two patches and a row of no patch
    layer = FirstLayer(graded.layer.kernel, (4, 4), "VALID", graded.layer.mean, graded.layer.std)
    dense = jax.jacobian(layer.apply)(jnp.zeros(shape)).reshape(-1, np.prod(shape))
    expected = np.linalg.svd(np.asarray(dense, np.float64), compute_uv=False)
    found = dataclasses.replace(spectrum(layer, (8, 8, 3)), image_shape=shape)
    values = image_singular_values(found)
    assert len(values) == np.prod(shape)
    assert np.abs(values[: len(expected)] - expected).max() <= 64 * EPS and np.all(values[len(expected) :] == 0)
    overlapping = image_singular_values(spectrum(stem, SHAPE))
    assert overlapping.shape == (np.prod(SHAPE),) and np.all(np.diff(overlapping) <= 0)


def test_windows_are_what_the_matrix_maps_to_outputs(stem, graded, images):
    """Rows times the layer's matrix are the layer's outputs, wherever nothing is padded; at most so many as asked."""
    images = np.asarray(images[:3])
    for layer, inside in ((stem, np.s_[:, 1:-1, 1:-1]), (graded.layer, np.s_[:])):
        outputs = np.asarray(layer.apply(images))[inside].reshape(-1, layer.kernel.shape[-1])
        rows = windows(images, FirstLayer(layer.kernel, layer.strides, "VALID", layer.mean, layer.std))
        unpadded = np.asarray(layer.matrix, np.float64) @ rows.T
        wanted = outputs if layer is graded.layer else np.asarray(
            FirstLayer(layer.kernel, layer.strides, "VALID", layer.mean, layer.std).apply(images)
        ).reshape(-1, 4)  # fmt: skip
        assert np.abs(unpadded.T - wanted).max() <= 64 * EPS * np.abs(wanted).max()
    assert len(windows(images, stem, most=5)) == 5


def test_principal_components_recover_a_chosen_covariance():
    """Rows of known variances along known axes, around a mean that must not count."""
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.standard_normal((4, 4)))[0]
    signs = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
    signs = np.r_[signs, -signs]
    rows = (signs * [4, 3, 2, 1]) @ axes.T + 10  # the rows' coordinates are uncorrelated
    found = principal_components(rows.astype(np.float32))
    assert found.count == 8 and np.allclose(found.variances, [16, 9, 4, 1], rtol=1e-4)
    assert np.allclose(np.abs(found.vectors.T @ axes), np.eye(4), atol=1e-3)


def test_alignment_is_full_with_the_components_themselves_and_none_with_their_reverse():
    variances = np.array([8.0, 4.0, 2.0, 1.0])
    parts = Components(variances, np.eye(4), 100)
    same = alignment(parts, np.eye(4), 4)
    assert np.allclose(same.overlap, 1) and np.allclose(same.variance, variances.cumsum() / 15)
    other = alignment(parts, np.eye(4)[:, ::-1], 4)
    assert np.allclose(other.overlap, [0, 0, 2 / 3, 1]) and np.allclose(other.variance, [1 / 15, 3 / 15, 7 / 15, 1])


def test_alignment_does_not_depend_on_the_basis_of_a_null_space():
    """Directions beyond the rank are arbitrary: another basis of them gives the same curve, their mean over all bases."""
    generator = np.random.default_rng(1)
    parts = Components(np.array([8.0, 4.0, 2.0, 1.0, 0.5]), np.eye(5), 100)
    basis = np.linalg.qr(generator.standard_normal((5, 5)))[0]
    turned = basis.copy()
    turned[:, 2:] = basis[:, 2:] @ np.linalg.qr(generator.standard_normal((3, 3)))[0]
    one, other = alignment(parts, basis, 2), alignment(parts, turned, 2)
    assert np.allclose(one.variance, other.variance) and np.allclose(one.overlap, other.overlap)
    assert not np.allclose(alignment(parts, basis, 5).variance, alignment(parts, turned, 5).variance)


def test_random_bases_hold_their_share_on_average():
    """Mean variance and overlap of m of d random directions: m / d, within five standard errors; the same for the same seed."""
    parts = Components(np.geomspace(1, 0.01, 40), np.eye(40), 1000)
    found = random_alignments(parts, 30, seed=3)
    expected = np.arange(1, 41) / 40
    for curves in found:
        error = curves.std(axis=0, ddof=1) / np.sqrt(30)
        assert np.all(np.abs(curves.mean(axis=0) - expected) <= 5 * error + 1e-12)
    assert np.array_equal(found.variance, random_alignments(parts, 30, seed=3).variance)


def test_a_subspace_against_itself_has_no_angle_and_no_exposure(space, fourier):
    for each in (space, fourier):
        found = misalignment(each, each)
        assert len(found.cosines) == each.num_directions
        assert found.cosines.min() >= 1 - 1e-4 and found.exposure <= 1e-4


def test_exposure_of_random_layers_is_that_of_chance(make_layer):
    """Subspaces of independent layers: exposure near (d - k) / d; opposite ones, made from V_S: exposure 1."""
    sigma = np.geomspace(1, 1e-3, 48)
    spaces = [
        low_sensitivity(spectrum(make_layer(sigma, (4, 4, 3), 48, seed=seed).layer, SHAPE), "count", 24)
        for seed in range(12)
    ]
    found = [misalignment(spaces[0], other) for other in spaces[1:]]
    exposures = np.array([each.exposure for each in found])
    assert found[0].by_chance == 0.5
    assert abs(exposures.mean() - 0.5) <= 5 * exposures.std(ddof=1) / np.sqrt(11)
    swapped = dataclasses.replace(spaces[0], basis=spaces[0].complement, complement=spaces[0].basis)
    assert misalignment(spaces[0], swapped).exposure >= 1 - 1e-4


def test_exposure_of_frequencies_is_the_energy_of_noise_in_the_other_complement(fourier):
    """Against noise images: the share of the first's noise that the second's projection takes away."""
    kernel = np.random.default_rng(5).standard_normal((3, 3, 3, 6))
    other = FirstLayer(kernel, (2, 2), "SAME", (0.5,) * 3, (0.25,) * 3)
    space = low_sensitivity(spectrum(other, SHAPE), "relative", 1e-3)

    @jax.jit
    def share(key):
        noise = fourier.sample(key)
        return jnp.sum(space.complement(noise) ** 2) / jnp.sum(noise**2)

    outside = np.array([share(key) for key in jax.random.split(jax.random.key(0), 24)])
    error = outside.std(ddof=1) / np.sqrt(len(outside))
    assert abs(misalignment(fourier, space).exposure - outside.mean()) <= 5 * error


def test_subspaces_of_other_parts_have_no_angles(space, fourier, make_layer):
    other = low_sensitivity(spectrum(make_layer(np.geomspace(1, 0.1, 12)).layer, SHAPE), "count", 6)
    assert not comparable(space, other) and not comparable(space, fourier)
    with pytest.raises(UserError, match="no angles"):
        misalignment(space, other)


def test_relative_gain_of_chosen_singular_values(graded, space):
    """For the model's own subspace: mean of its sigma^2 over the mean of all 48. For an isotropic layer: 1."""
    sigma = graded.sigma
    expected = np.mean(sigma[24:] ** 2) / np.mean(sigma**2)
    assert relative_gain(graded.layer, space) == pytest.approx(expected, rel=1e-3)
    flat = FirstLayer(np.eye(48).reshape(4, 4, 3, 48), (4, 4), "VALID", (0,) * 3, (1,) * 3)
    assert relative_gain(flat, space) == pytest.approx(1, rel=1e-5)


def test_measured_gain_agrees_with_the_exact_one(graded, space, fourier):
    """Noise through front end and first layer: patches exactly in the mean; overlapping windows but for the border."""
    layers = {"patches": (rotated(graded.layer), space, 0.0)}
    kernel = np.random.default_rng(5).standard_normal((3, 3, 3, 6))
    layers["cells"] = (FirstLayer(kernel, (2, 2), "SAME", (0.5,) * 3, (0.25,) * 3), fourier, 0.1)
    for layer, owner, border in layers.values():
        sample = jax.jit(owner.sample)
        noise = np.stack([np.asarray(sample(key)) for key in jax.random.split(jax.random.key(1), 48)])
        isotropic = np.random.default_rng(0).standard_normal(noise.shape, np.float32)
        spec = dataclasses.replace(SPEC, size=owner.image_shape[0], resize_to=None)
        energies = [front_end_energy(layer, spec, images) for images in (noise, isotropic)]
        gain, (low, high) = ratio_of_means(*energies)
        exact = relative_gain(layer, owner)
        assert low <= gain <= high and abs(gain - exact) <= 2.5 * (high - low) + border * exact


def test_front_end_energy_is_linear_whatever_border_a_reader_adds(graded):
    """A reader that pads with its mean colour: the colour is in both images and no change; scale does not matter."""
    spec = dataclasses.replace(SPEC, resize="longer", size=16, resize_to=12)
    noise = np.random.default_rng(0).standard_normal((3, 20, 10, 3), np.float32)
    one = front_end_energy(graded.layer, spec, noise)
    assert np.allclose(one, front_end_energy(graded.layer, spec, 1e-3 * noise), rtol=1e-3)


def test_the_spectral_gap_is_blind_to_a_rotation_and_the_gain_is_not(graded, space):
    """A rotated copy: the gap of Hoffman and Wielandt is zero, and the noise is no longer invisible."""
    turned = rotated(graded.layer)
    values = [image_singular_values(spectrum(layer, SHAPE)) for layer in (graded.layer, turned)]
    assert float(spectral_gap(*values)) <= 1e-9 * np.sum(values[0] ** 2)
    assert relative_gain(turned, space) >= 10 * relative_gain(graded.layer, space)


def test_ratio_of_means_covers_the_truth():
    generator = np.random.default_rng(0)
    value, (low, high) = ratio_of_means(generator.uniform(1, 3, 200), generator.uniform(3, 5, 200))
    assert low <= 0.5 <= high and high - low <= 0.1 and low <= value <= high
    assert ratio_of_means(np.full(5, 2.0), np.full(5, 4.0)) == (0.5, (0.5, 0.5))


def test_correlation_agrees_with_scipy():
    generator = np.random.default_rng(0)
    one = generator.standard_normal(20)
    other = one + generator.standard_normal(20)
    expected = scipy.stats.pearsonr(one, other)
    found = correlation(one, other)
    assert found.value == pytest.approx(expected.statistic) and found.n == 20
    assert np.allclose(found.interval, expected.confidence_interval(0.95), atol=1e-4)
    ranks = correlation(one, np.exp(other), "spearman")
    assert ranks.value == pytest.approx(scipy.stats.spearmanr(one, other).statistic)
    assert ranks.interval[0] < found.value < ranks.interval[1]


def test_correlation_of_too_few_pairs_or_a_constant_is_none():
    """Nothing is claimed: no interval of three pairs, no value of a constant."""
    assert correlation(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])).interval is None
    assert correlation(np.ones(6), np.arange(6.0)).value is None


@pytest.mark.parametrize(("name", "units"), [("vit_a", 4), ("resnet_a", 4), ("convnext_a", 3)])
def test_outputs_by_depth_are_the_network_s_own(name, units):
    """First layer, then every block; the first is the first layer's output, bias and all, and the last is the hidden state (before
    the last norm of a ViT)."""
    model = load_model(name)
    image = jax.random.uniform(jax.random.key(0), model.preprocess.image_shape)
    outputs = outputs_by_depth(model)
    shapes = [output.shape for output in jax.eval_shape(outputs, image)]
    assert len(shapes) == units + 1 and shapes[0] == model.first_layer.apply(image).shape
    if name == "convnext_a":
        return  # its convolutions take long to compile
    first, *_, last = jax.jit(outputs)(image)
    stem = first - model.first_layer.response(image)
    assert float(jnp.abs(stem - stem[0, 0]).max()) <= 1e-4  # what is left is the bias, the same everywhere
    hidden = model.hidden(image[None])[0]
    if name == "vit_a":
        norm = nnx.merge(model.graphdef, model.state).norm
        last = norm(last)
    assert float(jnp.abs(last - hidden).max()) <= 1e-4 * float(jnp.abs(hidden).max())


def test_a_network_without_flax_parts_is_told():
    model = dataclasses.replace(load_model("vit_a"), graphdef=None)
    with pytest.raises(UserError, match="no Flax network"):
        outputs_by_depth(model)


def test_probe_energies_are_those_of_the_jacobian(graded):
    """A first layer is its own Jacobian: the energy of a change is that of its output; the next depth, squared, has twice as large
    a slope at one."""
    layer = graded.layer

    def outputs(image):
        return layer.apply(image), jnp.sum(image**2)

    noise = np.random.default_rng(0).standard_normal((4, *SHAPE)).astype(np.float32)
    found = probe_energies(outputs, jnp.ones(SHAPE), jnp.asarray(noise))
    norms = np.sum(noise**2, axis=(1, 2, 3))
    assert np.allclose(found[:, 0], front_end_energy(layer, SPEC, noise), rtol=1e-4)
    assert np.allclose(found[:, 1], (2 * noise.sum(axis=(1, 2, 3))) ** 2 / norms, rtol=1e-3)
