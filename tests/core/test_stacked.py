from __future__ import annotations

import jax
import numpy as np
import pytest

from ne_jax import FirstLayer, UserError, certify, low_sensitivity, recode, spectrum
from ne_jax.core.bounds import noise_energy
from ne_jax.core.first_layer import stacked

EPS = float(np.finfo(np.float32).eps)
ENERGY = jax.jit(noise_energy)
SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def pair(make_layer) -> list[FirstLayer]:
    """Two models of 12 and 20 outputs on patches of 48 numbers, with other normalisations."""
    return [
        make_layer(np.geomspace(1, 0.1, 12), (4, 4, 3), outputs=12, seed=1).layer,
        make_layer(np.geomspace(2, 0.2, 20), (4, 4, 3), outputs=20, seed=2, std=[0.5, 0.6, 0.7], padding="SAME").layer,
    ]


@pytest.fixture(scope="module")
def overlapping() -> list[FirstLayer]:
    """Two models whose 3x3 windows overlap, of 4 and 5 outputs for cells of 12 numbers."""
    generator = np.random.default_rng(0)
    return [
        FirstLayer(generator.standard_normal((3, 3, 3, outputs)), (2, 2), ((1, 1), (1, 1)), 3 * [0.5], 3 * [0.25])
        for outputs in (4, 5)
    ]


def test_outputs_are_those_of_every_layer(pair, overlapping, images):
    """One after another, in pixel units, for patches and for windows that overlap; `response` is the first layer's."""
    delta = np.asarray(images[:2]) - 0.5
    for layers in (pair, overlapping):
        stack = stacked(layers, SHAPE)
        expected = np.concatenate([layer.apply(delta) for layer in layers], axis=-1)
        np.testing.assert_allclose(stack.apply(delta), expected, atol=48 * EPS * np.abs(expected).max())
        assert stack.window == layers[0].window and stack.strides == layers[0].strides
        np.testing.assert_array_equal(stack.std, 1)
        outputs = layers[0].kernel.shape[-1]
        found, response = stack.response(images[0])[..., :outputs], layers[0].response(images[0])
        np.testing.assert_allclose(found, response, atol=48 * EPS * np.abs(response).max())


def test_one_layer_is_its_own_stack(pair):
    """Its singular values are kept."""
    alone = spectrum(stacked(pair[:1], SHAPE), SHAPE)
    expected = spectrum(pair[0], SHAPE)
    np.testing.assert_allclose(alone.singular_values, expected.singular_values, atol=2 * 48 * EPS)


def test_the_null_space_is_the_intersection(pair):
    """48 - 12 - 20 directions, exactly null for both layers, and none of either's own 36 and 28 is missing that both have."""
    space = low_sensitivity(spectrum(stacked(pair, SHAPE), SHAPE), "relative", 0)
    assert space.num_directions == 48 - 12 - 20
    basis = np.asarray(space.basis, np.float64)
    both = np.linalg.svd(np.concatenate([np.asarray(layer.matrix, np.float64) for layer in pair]))[2][32:]
    # The same subspace: every cosine of a principal angle is 1. Wedin: the SVD's error over the smallest singular value.
    np.testing.assert_allclose(np.linalg.svd(both @ basis, compute_uv=False), 1, atol=1e-4)
    for layer in pair:
        sigma_1 = np.linalg.norm(layer.matrix, ord=2)
        assert np.linalg.norm(np.asarray(layer.matrix, np.float64) @ basis, ord=2) <= 4 * 48 * EPS * sigma_1


@pytest.mark.parametrize("design", ["gaussian", "boxed"])
def test_noise_is_unseen_by_both_and_seen_by_a_third(pair, make_layer, keys, images, design):
    """Certificates hold for each authorized model alone and for the stack; a third model reacts as to any noise."""
    stack = stacked(pair, SHAPE)
    space, images = low_sensitivity(spectrum(stack, SHAPE), "relative", 0), images[:16]
    recoded = jax.jit(jax.vmap(lambda key, image: recode(key, image, space, 24.0, design=design)))(keys[:16], images)
    third = make_layer(np.geomspace(1, 0.1, 12), (4, 4, 3), outputs=12, seed=3).layer
    seen = np.asarray(ENERGY(third, recoded - images)).mean()
    for layer in (*pair, stack):
        certificate = certify(layer, space, images, recoded)
        assert bool(certificate.holds.all())
        # Float32 rounding alone, or that of 8-bit files, .29 grey levels rms against 16 of noise.
        limit = 1e-5 if design == "gaussian" else 0.03
        assert (np.asarray(certificate.feature_gap) <= limit * largest(layer) * certificate.delta_norm).all()
        ratio = np.asarray(ENERGY(layer, recoded - images)).mean() / np.sum(np.square(layer.matrix))
        assert seen / np.sum(np.square(third.matrix)) > 100 * ratio


def largest(layer: FirstLayer) -> float:
    return float(np.linalg.norm(layer.matrix, ord=2))


def test_a_subspace_for_one_alone_does_not_spare_the_other(pair):
    """What stacking is for: the first model's null space is 36 directions that the second one sees."""
    alone = low_sensitivity(spectrum(pair[0], SHAPE), "relative", 0)
    assert np.linalg.norm(pair[1].matrix @ alone.basis, ord=2) > 0.5 * largest(pair[1])


def test_windows_that_overlap_can_be_stacked(overlapping, keys, images):
    """12 - 4 - 5 null directions in each of 4 x 4 cells, and certificates of both layers hold; all that they see wraps around."""
    small = (8, 8, 3)
    space = low_sensitivity(spectrum(stacked(overlapping, small), small), "relative", 1e-5)
    assert space.num_directions == 3 * 16
    recoded = jax.jit(jax.vmap(lambda key, image: recode(key, image, space, 24.0)))(keys[:4], images[:4, :8, :8])
    for layer in overlapping:
        certificate = certify(layer, space, images[:4, :8, :8], recoded)
        assert bool(certificate.holds.all())
        rest = np.asarray(certificate.bound - certificate.border_term)
        assert (rest < 0.01 * np.asarray(certificate.border_term)).all()


def test_scale_counts_unless_unit_norm(pair):
    """A model a hundred times louder sets sigma_1 and hides the other below the threshold; with unit_norm both count alike."""
    loud = FirstLayer(100 * pair[1].kernel, (4, 4), "VALID", pair[1].mean, pair[1].std)
    counts = [
        low_sensitivity(spectrum(stacked([pair[0], loud], SHAPE, unit_norm=unit_norm), SHAPE), "relative", 0.01)
        for unit_norm in (False, True)
    ]
    # The quiet model's largest singular value is 1, 1/200 of the loud one's: none of its directions is spared.
    assert [space.num_directions for space in counts] == [28, 16]
    values = spectrum(stacked([loud], SHAPE, unit_norm=True), SHAPE).singular_values
    np.testing.assert_allclose(values[:20], np.geomspace(1, 0.1, 20), atol=2 * 48 * EPS)


def test_stacking_works_on_traced_layers(pair):
    """Inside jit, as fine-tuned copies of a layer would need it."""
    matrix = jax.jit(lambda layers: stacked(layers, SHAPE).matrix)(pair)
    np.testing.assert_allclose(matrix, stacked(pair, SHAPE).matrix, rtol=4 * EPS)


def test_no_layers_are_refused():
    with pytest.raises(UserError, match="there are no layers; give the first layers of the models"):
        stacked([], SHAPE)


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((8, 8, 3), (8, 8), "VALID"),
        ((4, 4, 3), (2, 2), "VALID"),
        ((4, 4, 3), (4, 4), ((1, 1), (1, 1))),
        ((4, 4, 1), (4, 4), "VALID"),
    ],
)
def test_other_windows_are_refused_in_one_line(pair, window, strides, padding):
    """Another patch size, stride, padding or number of channels: the line names the layer and the rule."""
    other = FirstLayer(np.ones((*window, 5)), strides, padding, window[2] * [0.5], window[2] * [0.5])
    message = r"layer 3 of 3, FirstLayer\(.* must cut the image into the same windows"
    with pytest.raises(UserError, match=message) as caught:
        stacked([*pair, other], SHAPE)
    assert "\n" not in str(caught.value)


def test_padding_is_compared_in_pixels(pair):
    """SAME adds nothing where patches tile the image, and moves them where they do not: then it is refused."""
    assert stacked(pair, SHAPE).tiles(SHAPE)
    with pytest.raises(UserError, match="must cut the image into the same windows"):
        stacked(pair, (18, 16, 3))
