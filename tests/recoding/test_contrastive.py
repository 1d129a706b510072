from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ne_jax import FirstLayer, UserError, certify, load_model, low_sensitivity, reader_deviation, recode, spectrum
from ne_jax.core.bounds import noise_energy
from ne_jax.core.subspace import FourierSubspace, PatchSubspace
from ne_jax.core.unfold import fold
from ne_jax.recoding.contrastive import contrastive, reader_gram, zoo_gain

EPS = float(np.finfo(np.float32).eps)
ENERGY = jax.jit(noise_energy)
READERS = {  # windows, strides and padding, for images of 16 x 16 in patches of 4 x 4
    "3x3/2 as PyTorch pads": ((3, 3), (2, 2), ((1, 1), (1, 1))),
    "3x3/2 as TensorFlow pads": ((3, 3), (2, 2), "SAME"),
    "7x7/2": ((7, 7), (2, 2), ((3, 3), (3, 3))),
    "4x4 patches": ((4, 4), (4, 4), "VALID"),
    "5x5 patches": ((5, 5), (5, 5), "VALID"),
    "uneven, with gaps": ((2, 3), (3, 1), ((0, 2), (4, 0))),
    "the whole image": ((16, 16), (16, 16), "VALID"),
}


def reader_of(name: str, seed: int = 0, channels: int = 3) -> FirstLayer:
    """A reader with a smooth random kernel, hence with a spectrum that is not flat."""
    window, strides, padding = READERS[name]
    kernel = np.random.default_rng(seed).standard_normal((*window, channels, 8))
    kernel = kernel + 2 * kernel.mean(axis=(0, 1), keepdims=True)
    return FirstLayer(kernel, strides, padding, channels * [0.5], np.linspace(0.2, 0.4, channels))


@pytest.fixture(scope="module")
def zoo() -> list[FirstLayer]:
    return [reader_of(name, seed) for seed, name in enumerate(READERS)]


def seeing(vectors, weights, window=(2, 2, 3)) -> FirstLayer:
    """A layer that reacts to the columns of `vectors` with `weights`."""
    matrix = np.asarray(weights)[:, None] * np.asarray(vectors, np.float64).T
    return FirstLayer(matrix.T.reshape(*window, -1), window[:2], "VALID", 3 * [0.5], 3 * [1.0])


def in_basis(space, vectors) -> np.ndarray:
    """|cosine| of the directions of `space`, in rows, with `vectors`, in columns."""
    return np.abs(np.asarray(space.basis, np.float64).T @ vectors)


def test_the_directions_that_the_reader_sees_best_are_taken(make_layer):
    """All of V_N exactly null: the leading directions are those of the reader's largest singular values there."""
    chosen = make_layer(np.geomspace(1, 0.1, 5), outputs=5)
    space = low_sensitivity(spectrum(chosen.layer, (4, 4, 3)), "relative", 0)
    weights = [9, 9, 9, 9, 9, 1, 4, 2, 5, 3, 0.5, 0.1]  # of V_N, from the sixth on, the ninth and the seventh most
    found = contrastive(space, [seeing(chosen.vectors, weights)], 2)
    assert found.num_directions == 2 and found.complement.shape == (12, 10)
    # Sum of squared cosines with the two known directions: the whole of them lies in the span.
    known = np.sum(in_basis(found, chosen.vectors[:, [6, 8]]) ** 2, axis=0)
    np.testing.assert_allclose(known, 1, atol=4 * 12 * EPS)
    total, inside = np.sum(np.square(weights)), 4**2 + 5**2
    assert zoo_gain(found, [seeing(chosen.vectors, weights)])[0] == pytest.approx(
        inside / 2 / (total / 12), rel=4 * 12 * EPS
    )


@pytest.mark.parametrize(("energy", "expected"), [(95, 11), (107, 10)])
def test_reaction_is_weighed_against_the_leak(make_layer, energy, expected):
    """sigma = .1 sigma_1 against null: 1e-2 + 1e-4 over 1e-4, so a leaky direction must be seen with 101 times the energy."""
    sigma = np.array([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0])
    chosen = make_layer(sigma)
    space = low_sensitivity(spectrum(chosen.layer, (4, 4, 3)), "count", 2)
    found = contrastive(space, [seeing(chosen.vectors[:, [10, 11]], [np.sqrt(energy), 1])])
    assert found.num_directions == 1
    assert in_basis(found, chosen.vectors).argmax() == expected
    assert float(found.singular_values[0]) == pytest.approx(sigma[expected], abs=4 * 12 * EPS)


def test_no_reader_dominates_and_scale_does_not_count(make_layer):
    """A reader a thousand times as loud has the same vote; against it, two quiet ones that agree win."""
    chosen = make_layer(np.geomspace(1, 0.1, 5), outputs=5)
    space = low_sensitivity(spectrum(chosen.layer, (4, 4, 3)), "relative", 0)
    loud, quiet = seeing(chosen.vectors[:, [6]], [1000.0]), seeing(chosen.vectors[:, [8]], [1.0])
    for zoo, expected in (([loud, quiet, quiet], 8), ([loud, loud, quiet], 6)):
        assert in_basis(contrastive(space, zoo, 1), chosen.vectors).argmax() == expected


@pytest.mark.parametrize("count", [1, 12, 24, None])
def test_the_result_is_a_subspace_inside_the_space(graded, space, zoo, count):
    """One orthonormal basis with its complement, inside V_N, with the authorized layer's own singular values, descending."""
    found = contrastive(space, zoo, count)
    assert isinstance(found, PatchSubspace) and found.num_directions == (count or 12)
    assert (found.window, found.image_shape, found.sigma_1) == (space.window, space.image_shape, space.sigma_1)
    basis, outer = np.asarray(found.basis, np.float64), np.asarray(space.basis, np.float64)
    both = np.concatenate([basis, found.complement], axis=1)
    assert both.shape == (48, 48)
    assert np.linalg.norm(both.T @ both - np.eye(48), ord=2) <= 4 * 48 * EPS
    assert np.linalg.norm(basis - outer @ (outer.T @ basis), ord=2) <= 4 * 48 * EPS
    answers = np.asarray(graded.layer.matrix, np.float64) @ basis
    values = np.asarray(found.singular_values, np.float64)
    # Orthogonal answers, of that length: a right singular vector each. Off by the SVD's own error, 2 d eps sigma_1.
    assert np.linalg.norm(answers.T @ answers - np.diag(values**2), ord=2) <= 4 * 48 * EPS
    assert np.abs(np.linalg.norm(answers, axis=0) - values).max() <= 2 * 48 * EPS
    assert (np.diff(values) <= 0).all() and values[-1] >= 0
    assert values[0] <= float(space.singular_values[0]) * (1 + 48 * EPS)


def test_every_reader_of_a_zoo_that_is_not_flat_reacts_more(space, zoo):
    """Against noise in the whole of V_N each reader of the zoo gains here, by 4 % or more; fewer directions gain more on average."""
    whole = zoo_gain(space, zoo)
    half, quarter = (zoo_gain(contrastive(space, zoo, count), zoo) for count in (12, 6))
    assert whole.shape == (len(READERS),)
    assert (half > 1.04 * whole).all()
    assert quarter.mean() > half.mean() > 1.2 * whole.mean()
    np.testing.assert_allclose(zoo_gain(contrastive(space, zoo, 24), zoo), whole, rtol=4 * 48 * EPS)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 8))
def test_in_a_null_space_no_other_directions_gain_more_on_average(graded, seed, count):
    """Ky Fan: of all subspaces of the null space with that many directions, the mean gain is largest here."""
    null = low_sensitivity(spectrum(graded.layer, (16, 16, 3)), "relative", 0)
    readers = [reader_of(name, seed) for name in ("3x3/2 as PyTorch pads", "5x5 patches")]
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((8, 8)))[0]
    turned = jnp.asarray(np.asarray(null.basis) @ turn[:, :count], jnp.float32)
    other = PatchSubspace(turned, null.complement, null.singular_values[:count], null.sigma_1, (4, 4, 3), (16, 16, 3))
    best = zoo_gain(contrastive(null, readers, count), readers).mean()
    assert best >= zoo_gain(other, readers).mean() * (1 - 8 * 48 * EPS)
    assert best >= zoo_gain(null, readers).mean() * (1 - 8 * 48 * EPS)


@pytest.mark.parametrize("image_shape", [(16, 16, 3), (18, 21, 3)])
@pytest.mark.parametrize("name", READERS)
def test_the_gram_is_that_of_every_patch_put_through_the_layer(graded, name, image_shape):
    """By brute force: each unit vector of each patch through `apply`, and the mean of the patches' Gram matrices."""
    space = low_sensitivity(spectrum(graded.layer, image_shape), "count", 24)
    reader, patches = reader_of(name), space.num_patches
    units = np.eye(patches * 48, dtype=np.float32).reshape(-1, patches, 48)
    answers = jax.jit(lambda rows: reader.apply(jax.vmap(lambda one: fold(one, space.window, image_shape))(rows)))(
        units
    )
    answers = np.asarray(answers, np.float64).reshape(patches, 48, -1)
    expected = np.mean(answers @ answers.swapaxes(1, 2), axis=0)
    # Answers are products of at most one rounding each.
    assert np.abs(reader_gram(reader, space) - expected).max() <= 8 * EPS * np.trace(expected)


def test_a_strided_reader_s_noise_energy_is_what_the_gram_says(space):
    """E norm(T n)^2 = P trace(V_N^T G V_N) for a 3x3 convolution of stride 2, by Monte Carlo on 4,000 noises."""
    reader = reader_of("3x3/2 as PyTorch pads", seed=5)
    measure = jax.jit(lambda keys: noise_energy(reader, jax.vmap(space.sample)(keys)))
    energies = np.asarray(measure(jax.random.split(jax.random.key(3), 4000)), np.float64)
    basis = np.asarray(space.basis, np.float64)
    expected = space.num_patches * np.trace(basis.T @ reader_gram(reader, space) @ basis)
    error = energies.std() / np.sqrt(len(energies))
    assert abs(energies.mean() - expected) <= 5 * error < 0.03 * expected


def test_gain_is_that_of_the_deviation_certificate(space):
    """For readers with the same patches it is `reader_deviation`'s relative_gain; 1 for one that sees all directions alike."""
    readers = [reader_of("4x4 patches", seed) for seed in range(2)]
    flat = seeing(np.eye(48), np.full(48, 0.7), (4, 4, 3))
    expected = [float(reader_deviation(reader, space, 0.1).relative_gain) for reader in readers]
    np.testing.assert_allclose(zoo_gain(space, [*readers, flat]), [*expected, 1], rtol=8 * 48 * EPS)


@pytest.mark.parametrize("design", ["gaussian", "boxed"])
def test_recoding_works_and_certificates_of_the_whole_space_hold(graded, space, zoo, keys, images, design):
    """The authorized model is as safe as `space` promises; a reader reacts as `zoo_gain` says, more than to noise in `space`."""
    reader, images, narrow = zoo[0], images[:16], contrastive(space, zoo, 6)
    recoded = jax.jit(jax.vmap(lambda key, image: recode(key, image, narrow, 24.0, design=design)))(keys[:16], images)
    for promised in (space, narrow):
        certificate = certify(graded.layer, promised, images, recoded)
        assert bool(certificate.holds.all())
    np.testing.assert_allclose(certificate.psnr_db, 24, atol=0.1)
    # Rounding to 8 bits, .29 grey levels rms, is all that leaves the subspace.
    outside = float(jnp.max(certificate.residual_term)) / float(space.sigma_1) / np.sqrt(images[0].size)
    assert outside <= (0.4 / 255 if design == "boxed" else 48 * EPS)
    isotropic = np.trace(reader_gram(reader, space)) / 48 * float(jnp.mean(certificate.delta_norm**2))
    whole, gain = zoo_gain(space, [reader])[0], zoo_gain(narrow, [reader])[0]
    found = float(ENERGY(reader, recoded - images).mean()) / isotropic
    assert found == pytest.approx(gain, rel=0.15)  # of 16 images of 96 coordinates; boxed noise is not quite white
    assert found > 1.3 * whole


def test_a_model_that_is_not_in_the_zoo_reacts_more_too():
    """Shipped samples: for `vit_a` and a zoo of `vit_b` and `resnet_a`, `resnet_b` has gain 1.00 before and 1.48 after."""
    layers = {name: load_model(name).first_layer for name in ("vit_a", "vit_b", "resnet_a", "resnet_b")}
    space = low_sensitivity(spectrum(layers["vit_a"], (112, 112, 1)), "relative", 1e-2)
    zoo, held_out = [layers["vit_b"], layers["resnet_a"]], [layers["resnet_b"]]
    found = contrastive(space, zoo)
    assert zoo_gain(space, held_out)[0] == pytest.approx(1, abs=0.02)
    assert zoo_gain(found, held_out)[0] > 1.4
    assert (zoo_gain(found, zoo) > 1.5).all()
    assert zoo_gain(found, [layers["vit_a"]])[0] < 1e-9


def test_a_subspace_of_frequencies_is_refused(zoo):
    """Where the authorized windows overlap there are no patches to choose directions of."""
    space = FourierSubspace(
        jnp.zeros((4, 3, 12, 12), complex), jnp.zeros(50), jnp.ones(()), (3, 3, 3), (2, 2), (8, 8, 3)
    )
    for use in (lambda: contrastive(space, zoo), lambda: zoo_gain(space, zoo), lambda: reader_gram(zoo[0], space)):
        with pytest.raises(UserError, match="subspace is of frequencies.* contrastive directions need patches"):
            use()


@pytest.mark.parametrize("count", [0, -1, 25])
def test_a_count_out_of_range_is_refused(space, zoo, count):
    with pytest.raises(UserError, match=f"count {count} is not from 1 to 24, the directions of the subspace"):
        contrastive(space, zoo, count)


@pytest.mark.parametrize(
    ("readers", "message"),
    [
        ([], "there are no readers; give the first layers"),
        (
            [reader_of("7x7/2"), reader_of("7x7/2", channels=1)],
            r"reader FirstLayer\(kernel=\(7, 7, 1, 8\).* takes 1 channels; the subspace has 3",
        ),
        (
            [reader_of("7x7/2"), FirstLayer(np.zeros((3, 3, 3, 8)), (2, 2), "SAME", 3 * [0.5], 3 * [0.2])],
            r"reader 2 of 2, FirstLayer\(.*, sees nothing of the patches; leave it out",
        ),
        (
            [FirstLayer(np.ones((32, 32, 3, 8)), (32, 32), "VALID", 3 * [0.5], 3 * [0.2])],
            r"FirstLayer\(kernel=\(32, 32, 3, 8\).* has windows larger than the subspace's images \(16, 16, 3\)",
        ),
    ],
)
def test_readers_that_do_not_fit_are_refused_in_one_line(space, readers, message):
    """No readers, other channels, zeros and windows larger than an image: one line names the reader."""
    for use in (contrastive, zoo_gain):
        with pytest.raises(UserError, match=message) as caught:
            use(space, readers)
        assert "\n" not in str(caught.value)
