from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import FirstLayer, Spectrum, UserError, certify, low_sensitivity, recode, spectrum
from ne_jax.core.first_layer import pads
from ne_jax.core.polyphase import PolyphaseSpectrum, cell, multiplicity, unpadded, wrap_around
from ne_jax.core.subspace import FourierSubspace
from ne_jax.core.unfold import fold, grid

EPS = float(np.finfo(np.float32).eps)


class Case(NamedTuple):
    image: tuple[int, int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: str | tuple
    outputs: int = 24


CASES = {
    "even grid, 5x5 / 2": Case((12, 12, 2), (5, 5), (2, 2), ((2, 2), (2, 2))),
    "odd grid, 3x3 / 1, same": Case((7, 5, 2), (3, 3), (1, 1), "SAME"),
    "4x5 / 3, valid": Case((9, 12, 2), (4, 5), (3, 3), "VALID"),
    "even kernel / 2, same": Case((8, 10, 1), (4, 4), (2, 2), "SAME"),
    "3x3 / 2, same pads below": Case((8, 6, 3), (3, 3), (2, 2), "SAME"),
    "kernel larger than the image": Case((4, 6, 2), (7, 7), (2, 2), ((3, 3), (3, 3))),
    "two strides": Case((8, 5, 2), (3, 4), (2, 1), ((1, 1), (2, 1))),
    "fewer outputs than numbers of a cell": Case((8, 12, 2), (3, 3), (2, 2), "SAME", 5),
    "one row of cells": Case((2, 8, 1), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "padding beyond the kernel": Case((6, 6, 1), (3, 3), (1, 1), ((4, 4), (3, 5))),
    "resnet stem": Case((12, 16, 3), (7, 7), (2, 2), ((3, 3), (3, 3)), 14),
}


def layer_of(case: Case, seed: int = 0) -> FirstLayer:
    """Random kernel, each channel with a std of its own."""
    kernel = np.random.default_rng(seed).standard_normal((*case.kernel, case.image[2], case.outputs))
    return FirstLayer(kernel, case.strides, case.padding, case.image[2] * [0.5], np.linspace(0.2, 0.4, case.image[2]))


def dense_circular(layer: FirstLayer, image_shape) -> np.ndarray:
    """The layer's map of images that wrap around, in float64, by loops over outputs and taps: (places M, H W C)."""
    (height, width, channels), (kh, kw, _) = image_shape, layer.window
    kernel = np.asarray(layer.kernel, np.float64) / np.asarray(layer.std, np.float64)[:, None]
    (top, _), (left, _) = pads(layer, image_shape)
    rows, columns = height // layer.strides[0], width // layer.strides[1]
    dense = np.zeros((rows, columns, kernel.shape[-1], height, width, channels))
    for i, j, u, v in np.ndindex(rows, columns, kh, kw):
        row, column = (layer.strides[0] * i + u - top) % height, (layer.strides[1] * j + v - left) % width
        dense[i, j, :, row, column] += kernel[u, v].T
    return dense.reshape(-1, height * width * channels)


def matrix_of(space: FourierSubspace) -> np.ndarray:
    """`project` as a matrix of all images."""
    every = jnp.eye(space.total_directions).reshape(-1, *space.image_shape)
    alike = dataclasses.replace(
        space, singular_values=space.sigma_1[None]
    )  # so that spaces of any size share a program
    return np.asarray(_PROJECT_ALL(alike, every), np.float64).reshape(len(every), -1)


_PROJECT_ALL = jax.jit(lambda space, every: jax.vmap(space.project)(every))


@pytest.fixture(scope="module", params=CASES)
def decomposed(request):
    """A case's layer, its spectrum, and numpy's decomposition of the dense map."""
    case = CASES[request.param]
    layer = layer_of(case)
    dense = dense_circular(layer, case.image)
    values, right = np.linalg.svd(dense)[1:]
    values = np.pad(values, (0, dense.shape[1] - len(values)))
    return layer, spectrum(layer, case.image), values, right.T


def cuts(values: np.ndarray, many: int = 3) -> list[int]:
    """How many directions lie below the `many` widest gaps of the spectrum, between single pairs of directions."""
    gaps = (values[:-1] - values[1:])[1:-1]
    return [len(values) - 2 - int(index) for index in np.argsort(gaps)[-many:]]


def test_singular_values_are_those_of_the_dense_circular_map(decomposed):
    """The polyphase identity: all H W C values agree with numpy's in float64, to 1e-5 and the rounding of float32."""
    layer, found, values, _ = decomposed
    assert isinstance(found, PolyphaseSpectrum)
    assert (found.window, found.strides) == (layer.window, layer.strides)
    assert found.singular_values.shape == (int(np.prod(found.image_shape)),)
    assert (np.diff(found.singular_values) <= 0).all()
    limit = 2 * np.prod(layer.window) * EPS * values[0]
    np.testing.assert_allclose(found.singular_values, values, rtol=1e-5, atol=limit)


def test_projection_is_the_dense_one_on_the_low_directions(decomposed):
    """Below the widest gaps of the spectrum `project` is V V^T of numpy's right singular vectors, within Wedin's bound."""
    layer, found, values, vectors = decomposed
    for count in cuts(values):
        space = low_sensitivity(found, "count", count)
        assert space.num_directions == count
        expected = vectors[:, -count:] @ vectors[:, -count:].T
        gap = values[-count - 1] - values[-count]
        limit = 4 * np.prod(layer.window) * EPS * (1 + values[0] / gap)
        assert np.linalg.norm(matrix_of(space) - expected, ord=2) <= limit < 0.5
        np.testing.assert_array_equal(space.singular_values, found.singular_values[-count:])
        assert float(space.sigma_1) == float(found.singular_values[0])


@pytest.mark.parametrize("name", ["two strides", "odd grid, 3x3 / 1, same", "one row of cells"])
def test_count_keeps_conjugate_pairs_together(name):
    """Any count gives as many directions, or one less where it would split a pair; always an orthogonal projection."""
    found = spectrum(layer_of(CASES[name]), CASES[name].image)
    total, lost = int(np.prod(found.image_shape)), 0
    for count in (2, 3, 4, 5, total // 2, total // 2 + 1, total - 2, total - 1):
        space = low_sensitivity(found, "count", count)
        lost += count - space.num_directions
        assert space.num_directions in (count - 1, count)
        assert_projection(space)
    assert lost > 0


def assert_projection(space: FourierSubspace) -> None:
    """Idempotent, symmetric, and of the rank that it says."""
    matrix = matrix_of(space)
    limit = 40 * space.projectors.shape[-1] * EPS
    assert np.linalg.norm(matrix @ matrix - matrix, ord=2) <= limit
    assert np.linalg.norm(matrix - matrix.T, ord=2) <= limit
    assert abs(np.trace(matrix) - space.num_directions) <= limit * len(matrix)


@pytest.mark.parametrize("outputs", [1, 8])
def test_equal_singular_values_are_cut_into_projections(outputs):
    """Where all, or half of, the values of a self-conjugate frequency are equal, vectors may turn: the projection stays real."""
    kernel = np.zeros((3, 3, 2, outputs))
    kernel[1, 1] = np.random.default_rng(0).standard_normal((2, outputs)) if outputs == 1 else np.eye(2, 8)
    found = spectrum(FirstLayer(kernel, (2, 2), ((1, 1), (1, 1)), 2 * [0.5], 2 * [0.5]), (8, 6, 2))
    for count in range(2, 95, 13):
        assert_projection(low_sensitivity(found, "count", count))


def test_a_pair_alone_is_refused_as_one_direction():
    """Where the smallest singular value belongs to a pair, a count of 1 would split it, and the message says so."""
    refused = 0
    for seed in range(6):
        found = spectrum(layer_of(CASES["odd grid, 3x3 / 1, same"], seed), (7, 5, 2))
        values = np.asarray(found.singular_values)
        if values[-1] == values[-2]:
            refused += 1
            with pytest.raises(UserError, match="would split two conjugate directions; take at least 2"):
                low_sensitivity(found, "count", 1)
        else:
            assert low_sensitivity(found, "count", 1).num_directions == 1
    assert refused


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 2), (2, 1), (4, 6), (5, 6), (4, 7), (5, 7)])
def test_real_directions_add_up_to_those_of_the_image(rows, columns):
    """Each frequency of the half spectrum counts as often as it stands in the whole; a mirrored pair once."""
    counts = multiplicity(rows, columns)
    assert counts.shape == (rows, columns // 2 + 1)
    assert counts.sum() == rows * columns
    selves = (1 if rows % 2 else 2) * (1 if columns % 2 else 2) if min(rows, columns) > 1 else None
    assert selves is None or (counts == 1).sum() == selves


SMOOTH = Case((32, 32, 3), (5, 5), (2, 2), ((2, 2), (2, 2)), 32)


def smooth_layer(case: Case = SMOOTH, seed: int = 0) -> FirstLayer:
    """Blurred random filters, as trained stems have them: fine patterns are low-sensitivity directions."""
    inner = (case.kernel[0] - 2, case.kernel[1] - 2, case.image[2], case.outputs)
    kernel = np.random.default_rng(seed).standard_normal(inner)
    for axis in (0, 1):
        kernel = sum(
            weight
            * np.insert(np.insert(kernel, [0] * before, 0, axis), [kernel.shape[axis] + before] * (2 - before), 0, axis)
            for before, weight in enumerate((0.25, 0.5, 0.25))
        )
    return FirstLayer(kernel, case.strides, case.padding, case.image[2] * [0.5], np.linspace(0.2, 0.3, case.image[2]))


def wrapped_apply(layer: FirstLayer, images):
    """The layer on images that wrap around: padded so by numpy, then without padding."""
    rows, columns = pads(layer, images.shape[1:])
    padded = np.pad(np.asarray(images), ((0, 0), rows, columns, (0, 0)), mode="wrap")
    return FirstLayer(layer.kernel, layer.strides, "VALID", layer.mean, layer.std).apply(padded)


@pytest.fixture(scope="module")
def smooth() -> tuple[FirstLayer, FourierSubspace]:
    layer = smooth_layer()
    return layer, low_sensitivity(spectrum(layer, SMOOTH.image), "relative", 0.1)


def squares(values) -> np.ndarray:
    return np.sum(np.asarray(values, np.float64) ** 2, axis=(1, 2, 3))


@pytest.mark.parametrize("stem", ["smooth 5x5 / 2", "resnet 7x7 / 2"])
def test_noise_has_the_predicted_energy_at_the_layer(stem):
    """White noise in V_N: norm(T_circular z)^2 has mean sum sigma_i^2 and variance 2 sum sigma_i^4, on 32 x 32 images."""
    layer = smooth_layer() if stem[0] == "s" else layer_of(CASES["resnet stem"])
    space = low_sensitivity(spectrum(layer, (32, 32, 3)), "energy", 0.1)
    noise = jax.jit(jax.vmap(space.sample))(jax.random.split(jax.random.key(0), 100))
    sigma = np.asarray(space.singular_values, np.float64)
    spread = np.sqrt(2 * np.sum(sigma**4) / 100)
    assert abs(squares(wrapped_apply(layer, noise)).mean() - np.sum(sigma**2)) <= 5 * spread
    assert spread < 0.02 * np.sum(sigma**2)
    assert abs(squares(noise).mean() - space.num_directions) <= 5 * np.sqrt(2 * space.num_directions / 100)


def test_squares_of_singular_values_add_up_to_the_kernel_s():
    """Parseval: the sum over all directions is the number of outputs' places times the kernel's squares."""
    layer = layer_of(CASES["resnet stem"])
    found = np.asarray(spectrum(layer, (32, 32, 3)).singular_values, np.float64)
    assert np.sum(found**2) == pytest.approx(256 * np.sum(np.float64(layer.matrix) ** 2), rel=1e-5)


def test_samples_lie_in_the_subspace_with_its_projection_as_covariance():
    """Noise is its own projection; its covariance is P: unit variance for each real direction of the subspace, none outside."""
    case = Case((6, 8, 1), (4, 4), (2, 2), "SAME")
    space = low_sensitivity(spectrum(layer_of(case), case.image), "count", 20)
    samples = jax.jit(jax.vmap(space.sample))(jax.random.split(jax.random.key(3), 4000))
    again, rest = jax.jit(lambda samples: (jax.vmap(space.project)(samples), jax.vmap(space.complement)(samples)))(
        samples
    )
    assert np.abs(np.asarray(again) - samples).max() <= 100 * EPS
    assert np.abs(rest).max() <= 100 * EPS
    flat = np.asarray(samples).reshape(4000, -1)
    # An entry's standard error is at most sqrt(2 / 4000); 5.5 of them: odds 4e-8 each, of 2,304.
    assert np.abs(flat.T @ flat / 4000 - matrix_of(space)).max() <= 5.5 * np.sqrt(2 / 4000)


def test_rules_choose_by_their_definitions():
    """relative, energy and utility on an image's directions; what they tell of the subspace agrees with it."""
    found = spectrum(smooth_layer(), SMOOTH.image)
    sigma = np.asarray(found.singular_values, np.float64)
    space = low_sensitivity(found, "relative", 0.1)
    assert space.num_directions == np.sum(sigma <= 0.1 * sigma[0])
    assert (space.total_directions, space.num_patches, space.image_shape) == (3072, 1, (32, 32, 3))
    held = np.cumsum(sigma[::-1] ** 2) / np.sum(sigma**2)
    count = low_sensitivity(found, "energy", 0.05).num_directions
    assert held[count - 1] <= 0.05 + EPS and held[count + 1] > 0.05 - EPS
    size = np.sqrt(3072) * 10 ** (-20 / 20)
    chosen = low_sensitivity(found, "utility", 0.1, psnr_db=20, feature_norm=float(size * sigma[0]))
    assert chosen.num_directions == space.num_directions


def test_thresholds_that_choose_nothing_are_refused_with_the_number_to_aim_at():
    """Where no direction is below .01 the message gives its smallest sigma and the ways out."""
    found = spectrum(layer_of(CASES["resnet stem"]), (32, 32, 3))
    smallest = float(found.singular_values[-1] / found.singular_values[0])
    with pytest.raises(UserError, match=f"is {smallest:.3g}; raise the threshold above it, use rule count, or") as told:
        low_sensitivity(found, "relative", 0.01)
    assert "no low-sensitivity direction" in str(told.value) and smallest > 0.01
    with pytest.raises(UserError, match=r"from 1 to 3071 \(an image has 3072 directions\)"):
        low_sensitivity(found, "count", 3072)


@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "image", "message"),
    [
        ((5, 5), (2, 2), "VALID", (12, 13, 2), r"\(12, 13, 2\) is not divisible by the first layer's strides \(2, 2\)"),
        ((2, 3), (3, 3), "VALID", (12, 12, 2), r"windows \(2, 3\) move by \(3, 3\) and leave pixels out"),
        ((5, 5), (2, 2), "VALID", (4, 4, 2), r"\(4, 4, 2\) with padding VALID is smaller than one window \(5, 5\)"),
        ((5, 5), (2, 2), "VALID", (12, 12, 3), "has 3 channels; the first layer takes 2"),
    ],
)
def test_what_has_no_polyphase_form_is_refused(kernel, strides, padding, image, message):
    """Sides that strides do not divide, gaps between windows, too small images and other channels: refused with what was found."""
    layer = FirstLayer(np.ones((*kernel, 2, 4)), strides, padding, 2 * [0.5], 2 * [0.5])
    with pytest.raises(UserError, match=message):
        spectrum(layer, image)


def test_patches_go_the_old_way(graded):
    """Layers whose windows do not overlap keep their spectrum of one patch."""
    assert isinstance(spectrum(graded.layer, (16, 16, 3)), Spectrum)


def test_composes_with_jit_and_vmap(smooth, keys):
    """A spectrum inside jit is the same; a subspace is a pytree that jit and vmap take as an argument."""
    layer, space = smooth
    outside = spectrum(layer, SMOOTH.image)
    inside = jax.jit(lambda layer: spectrum(layer, SMOOTH.image))(layer)
    limit = 4 * 75 * EPS * float(outside.singular_values[0])
    np.testing.assert_allclose(inside.singular_values, outside.singular_values, rtol=0, atol=limit)
    assert (inside.strides, inside.image_shape) == ((2, 2), (32, 32, 3))
    apply = jax.jit(lambda space, keys: jax.vmap(space.sample)(keys))
    one = np.stack([space.sample(key) for key in keys[:3]])
    assert np.abs(apply(space, keys[:3]) - one).max() <= 40 * EPS * np.abs(one).max()
    assert jax.tree.structure(jax.tree.map(lambda leaf: leaf, space)) == jax.tree.structure(space)


def test_work_is_one_program_for_all_frequencies():
    """No loop over frequencies in Python: the traced program has the same number of steps for 4 times as many of them."""
    layer = smooth_layer()
    steps = [
        len(jax.make_jaxpr(lambda layer, shape=shape: spectrum(layer, shape))(layer).jaxpr.eqns)
        for shape in ((16, 16, 3), (32, 32, 3))
    ]
    assert steps[0] == steps[1]


# Each geometry takes a program of its own, which takes seconds to compile; of products, splits and borders alone every geometry is in
# test_layer_products.py, test_utility_bound.py and below.
CERTIFIED = ("4x5 / 3, valid", "kernel larger than the image", "two strides", "padding beyond the kernel")


@pytest.mark.parametrize(
    "decomposed",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in CERTIFIED)) for name in CASES],
    indirect=True,
)
def test_certificate_holds_for_every_layer_and_change(decomposed, keys):
    """With the true padding, measured gap <= bound, for changes in V_N, rounded ones, any others, and at the border alone."""
    layer, found, values, _ = decomposed
    space = low_sensitivity(found, "count", cuts(values, 1)[0])
    generator = np.random.default_rng(0)
    images = generator.uniform(0, 1, (4, *found.image_shape)).astype(np.float32)
    noise = images + 0.2 * np.asarray(jax.jit(jax.vmap(space.sample))(keys[:4]))
    at_border = images.copy()
    at_border[:, 0] += 0.3
    at_border[:, :, -1] -= 0.2
    others = generator.uniform(0, 1, images.shape).astype(np.float32)
    recoded = [noise, np.round(np.clip(noise, 0, 1) * 255).astype(np.float32) / 255, others, at_border]
    images, recoded = np.tile(images, (len(recoded), 1, 1, 1)), np.concatenate(recoded)
    certificate = certify(layer, space, images, recoded)
    gap, bound = np.asarray(certificate.feature_gap), np.asarray(certificate.bound)
    assert (gap > 0).all() and (gap <= bound).all() and bool(certificate.holds.all())
    np.testing.assert_allclose(gap**2, squares(layer.apply(recoded - images)), rtol=1e-4)
    terms = certificate.subspace_term + certificate.residual_term + certificate.precision_term + certificate.border_term
    np.testing.assert_allclose(bound, terms, rtol=4 * EPS)
    assert (np.asarray(certificate.border_term) > 0).all() == (layer.padding != "VALID")


def test_zero_padded_outputs_are_circular_ones_less_what_wraps_around(decomposed, keys):
    """The identity under the border term: T delta = T_circular delta - T w, to rounding, for any change."""
    layer, found, *_ = decomposed
    delta = jax.random.normal(keys[0], (4, *found.image_shape))

    @jax.jit
    def applied(layer, delta):
        outer = jax.vmap(lambda one: wrap_around(layer, one))(delta)
        return layer.apply(delta), unpadded(layer).apply(outer)

    found, at_border = map(np.asarray, applied(layer, delta))
    difference = np.asarray(wrapped_apply(layer, delta)) - at_border - found
    assert np.abs(difference).max() <= 200 * EPS * np.abs(found).max()


@pytest.mark.parametrize(
    ("padding", "threshold"),
    [
        ("VALID", 0.05),
        (((2, 2), (2, 2)), 0.05),
        # Less border for its noise than the second, and none for the first.
        pytest.param("SAME", 0.1, marks=pytest.mark.slow),
        pytest.param(((2, 2), (2, 2)), 0.3, marks=pytest.mark.slow),
    ],
)
def test_the_bound_is_tight_for_noise(keys, padding, threshold):
    """Gaussian noise at 96 x 96: the measured gap is at least a third of the bound; the border adds at most 3/7 to what is expected."""
    case = SMOOTH._replace(image=(96, 96, 3), padding=padding)
    layer = smooth_layer(case)
    space = low_sensitivity(spectrum(layer, case.image), "relative", threshold)
    images = jnp.full((4, *case.image), 0.5)
    recoded = jax.jit(jax.vmap(lambda key, image: recode(key, image, space, 20.0)))(keys[:4], images)
    certificate = certify(layer, space, images, recoded)
    assert bool(certificate.holds.all())
    assert float((certificate.bound / certificate.feature_gap).max()) <= 3
    share = np.asarray(certificate.expected_gap / certificate.feature_gap)
    assert (share <= 1.1).all() and (share >= 0.7).all()
    assert float((certificate.precision_term / certificate.bound).max()) < 1e-2


def test_the_bound_is_tight_in_the_worst_direction():
    """The wave of the largest sigma in V_N reaches at least .9 of the bound where no padding changes it."""
    case = SMOOTH._replace(image=(64, 64, 3), padding="VALID")
    layer = smooth_layer(case)
    found = spectrum(layer, case.image)
    space = low_sensitivity(found, "relative", 0.2)
    place = np.unravel_index(
        np.argmin(np.abs(np.asarray(found.block_values) - float(space.singular_values[0]))), found.block_values.shape
    )
    shape = grid(case.image, case.strides)
    waves = np.zeros(found.block_values.shape, complex)
    waves[place[0], place[1]] = found.vectors[place[0], place[1], :, place[2]]
    cells = np.fft.irfft2(waves, s=shape, axes=(0, 1)).reshape(-1, waves.shape[-1])
    wave = fold(jnp.asarray(cells * 100, jnp.float32), cell(case.strides, case.image), case.image)
    certificate = certify(layer, space, jnp.zeros((1, *case.image)), wave[None])
    assert bool(certificate.holds[0])
    assert float(certificate.feature_gap[0]) >= 0.9 * float(certificate.bound[0])


def test_another_layer_of_the_same_strides_is_certified(smooth, keys):
    """The bound is of the layer that is certified, also for a subspace that another layer chose, and another kernel size."""
    _, space = smooth
    images = jax.random.uniform(jax.random.key(1), (4, 32, 32, 3))
    recoded = jax.jit(jax.vmap(lambda key, image: recode(key, image, space, 14.0)))(keys[:4], images)
    other = layer_of(CASES["resnet stem"])
    assert bool(certify(other, space, images, recoded).holds.all())
    with pytest.raises(UserError, match="patches"):
        certify(layer_of(Case((32, 32, 3), (3, 3), (1, 1), "SAME")), space, images, recoded)
