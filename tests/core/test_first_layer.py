from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import FirstLayer, UserError

EPS = float(np.finfo(np.float32).eps)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GEOMETRIES = [
    ((1, 1), "VALID"),
    ((2, 2), "VALID"),
    ((3, 5), "VALID"),
    ((1, 1), "SAME"),
    ((2, 2), "SAME"),
    ((2, 1), ((0, 0), (0, 0))),
    ((2, 3), ((1, 2), (3, 0))),
]


APPLY = jax.jit(FirstLayer.apply)  # one compilation, where eager calls would need one for each operation


def random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def make(strides=(2, 2), padding="VALID", kernel=None) -> FirstLayer:
    return FirstLayer(random(0, 3, 5, 3, 4) if kernel is None else kernel, strides, padding, MEAN, STD)


def naive(kernel, normalised, strides, padding) -> np.ndarray:
    """Convolution by its definition, in float64, one output position after another."""
    kernel, normalised = np.asarray(kernel, np.float64), np.asarray(normalised, np.float64)
    (kh, kw), (height, width) = kernel.shape[:2], normalised.shape[:2]
    if padding == "VALID":
        padding = ((0, 0), (0, 0))
    elif padding == "SAME":
        needed = [(-(-n // s) - 1) * s + k - n for n, s, k in zip((height, width), strides, (kh, kw), strict=True)]
        padding = tuple((max(n, 0) // 2, max(n, 0) - max(n, 0) // 2) for n in needed)
    padded = np.pad(normalised, (*padding, (0, 0)))
    rows, columns = (padded.shape[0] - kh) // strides[0] + 1, (padded.shape[1] - kw) // strides[1] + 1
    out = np.empty((rows, columns, kernel.shape[3]))
    for row in range(rows):
        for column in range(columns):
            window = padded[row * strides[0] :, column * strides[1] :][:kh, :kw]
            out[row, column] = (window[..., None] * kernel).sum((0, 1, 2))
    return out


def rounding(layer: FirstLayer, values) -> np.ndarray:
    """What float32 may lose of each output: a rounding for each of d products, d sums, one division by std, one difference."""
    magnitude = naive(np.abs(layer.kernel), np.abs(np.asarray(values, np.float64)) / STD, layer.strides, layer.padding)
    return (np.prod(layer.window) + 2) * EPS * magnitude


@pytest.mark.parametrize(("strides", "padding"), GEOMETRIES)
def test_apply_is_the_convolution_of_the_normalised_change(strides, padding):
    """T delta equals a naive loop over kernel * (delta / std), at every stride and padding."""
    layer, delta = make(strides, padding), random(1, 9, 11, 3)
    expected = naive(layer.kernel, np.asarray(delta, np.float64) / STD, strides, padding)
    found = np.asarray(APPLY(layer, delta))
    assert found.shape == expected.shape
    assert (np.abs(found - expected) <= rounding(layer, delta)).all()


@pytest.mark.parametrize(("strides", "padding"), GEOMETRIES)
def test_response_is_the_model_s_own_output_without_bias(strides, padding):
    """T (x - mean) is what the model computes on its normalised, zero padded image."""
    layer, image = make(strides, padding), jax.nn.sigmoid(random(1, 9, 11, 3))
    expected = naive(layer.kernel, (np.asarray(image, np.float64) - MEAN) / STD, strides, padding)
    # The difference x - mean is off by a rounding of each: at most that of their sum of sizes.
    assert (
        np.abs(jax.jit(FirstLayer.response)(layer, image) - expected)
        <= rounding(layer, np.asarray(image) + np.array(MEAN))
    ).all()


@pytest.mark.parametrize(("strides", "padding"), GEOMETRIES)
def test_adjoint_identity(strides, padding):
    """<T x, y> = <x, T^T y> for every stride and padding."""
    layer, x = make(strides, padding), random(1, 9, 11, 3)
    forward = np.asarray(APPLY(layer, x), np.float64)
    y = random(2, *forward.shape)
    back = jax.jit(lambda y: layer.adjoint(y, x.shape))(y)
    assert back.shape == x.shape
    # Each side sums products |k / std| |x| |y|; a term meets at most d (forward) or 3 * 5 * 4 (back) roundings.
    magnitude = np.sum(naive(np.abs(layer.kernel), np.abs(x) / np.array(STD), strides, padding) * np.abs(y))
    difference = np.sum(forward * np.asarray(y, np.float64)) - np.sum(
        np.asarray(x, np.float64) * np.asarray(back, np.float64)
    )
    assert abs(difference) <= 2 * (3 * 5 * 4 + 2) * EPS * magnitude


def test_apply_is_linear_and_forgets_the_mean():
    """T (a x + b y) = a T x + b T y, and no change gives exactly no change: the mean plays no part."""
    layer, x, y = make(), random(1, 9, 11, 3), random(2, 9, 11, 3)
    assert not np.any(APPLY(layer, jnp.zeros((9, 11, 3))))
    left, right = APPLY(layer, 2 * x - 3 * y), 2 * APPLY(layer, x) - 3 * APPLY(layer, y)
    assert (np.abs(left - right) <= 2 * rounding(layer, 2 * np.abs(x) + 3 * np.abs(y))).all()


def test_apply_takes_any_leading_axes():
    """A batch, of any number of axes, is the images one by one."""
    layer, delta = make(), random(1, 2, 3, 9, 11, 3)
    found = np.asarray(APPLY(layer, delta))
    assert found.shape == (2, 3, 4, 4, 4)
    for index in np.ndindex(2, 3):
        assert (np.abs(found[index] - APPLY(layer, delta[index])) <= 2 * rounding(layer, delta[index])).all()


def test_matrix_is_the_map_of_one_window():
    """`matrix` times a flattened window (row, column, channel) is T of that window."""
    layer, window = make(), random(1, 3, 5, 3)
    expected = np.asarray(layer.matrix, np.float64) @ np.asarray(window, np.float64).reshape(-1)
    assert layer.matrix.shape == (4, 45)
    assert (np.abs(APPLY(layer, window)[0, 0] - expected) <= rounding(layer, window)[0, 0]).all()


def test_windows_are_patches_only_when_the_stride_is_the_kernel():
    """`has_patches` tells windows that tile from windows that overlap or leave gaps."""
    assert make((3, 5)).has_patches
    assert not make((2, 5)).has_patches
    assert not make((3, 6)).has_patches
    assert make().window == (3, 5, 3)


def test_pytree_round_trip():
    """Kernel, mean and std are the leaves, strides and padding the structure; nothing is lost on the way."""
    layer = make((2, 1), [[1, 2], [0, 3]])
    leaves, structure = jax.tree.flatten(layer)
    again = jax.tree.unflatten(structure, leaves)
    assert [np.shape(leaf) for leaf in leaves] == [(3, 5, 3, 4), (3,), (3,)]
    assert (again.strides, again.padding) == ((2, 1), ((1, 2), (0, 3)))
    names = [path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(layer)]
    assert all(np.array_equal(getattr(again, name), getattr(layer, name)) for name in names)
    assert names == ["kernel", "mean", "std"]
    assert structure != jax.tree.structure(make((2, 2), [[1, 2], [0, 3]]))
    assert structure != jax.tree.structure(make((2, 1), "VALID"))


def test_composes_with_jit_vmap_and_grad():
    """A layer is an argument of jitted, mapped and differentiated functions like any array."""
    kernels, x = random(0, 2, 3, 5, 3, 4), random(1, 9, 11, 3)
    layers = [make(kernel=kernel) for kernel in kernels]
    expected = [np.asarray(layer.apply(x)) for layer in layers]
    limits = [2 * rounding(layer, x) for layer in layers]
    mapped = jax.jit(jax.vmap(lambda layer: layer.apply(x)))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers))
    built_inside = jax.jit(jax.vmap(lambda kernel: make(kernel=kernel).apply(x)))(kernels)
    for index, layer in enumerate(layers):
        for found in (APPLY(layer, x), mapped[index], built_inside[index]):
            assert (np.abs(found - expected[index]) <= limits[index]).all()
    gradient = jax.jit(jax.grad(lambda layer: jnp.sum(layer.apply(x))))(layers[0])
    # d/dkernel of a sum of outputs does not depend on the kernel: the sum over windows of x / std.
    windows = [np.asarray(x, np.float64)[2 * row :, 2 * column :][:3, :5] for row in range(4) for column in range(4)]
    expected_gradient = np.sum(windows, 0) / STD
    magnitude = np.sum(np.abs(windows), 0) / np.array(STD)
    assert (np.abs(np.asarray(gradient.kernel) - expected_gradient[..., None]) <= 18 * EPS * magnitude[..., None]).all()
    assert not np.any(gradient.mean)


KERNEL = np.ones((2, 2, 3, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": KERNEL * np.nan}, "kernel has NaN or infinite values"),
        ({"kernel": KERNEL * np.inf}, "kernel has NaN or infinite values"),
        ({"kernel": KERNEL[0]}, r"kernel has shape \(2, 3, 4\); give \(height, width"),
        ({"std": (0.2, 0, 0.2)}, r"std is \[.*0\.0.*\]; every channel's must be above 0"),
        ({"std": (0.2, -0.1, 0.2)}, "std is .* must be above 0"),
        ({"mean": (0.5, np.nan, 0.5)}, "mean is .*nan.* must be a number"),
        ({"mean": (0.5, np.inf, 0.5)}, "mean is .*inf.* must be a number"),
        ({"std": (0.2, np.inf, 0.2)}, "std is .*inf.* must be above 0, and finite"),
        ({"std": (0.2, np.nan, 0.2)}, "std is .*nan.* must be above 0"),
        ({"mean": (0.5,)}, r"mean has shape \(1,\); the kernel has 3 input channels"),
        ({"std": (0.5, 0.5)}, r"std has shape \(2,\); the kernel has 3 input channels"),
        ({"strides": (2,)}, r"strides are \(2,\); give two numbers of at least 1"),
        ({"strides": (2, 0)}, r"strides are \(2, 0\); give two numbers of at least 1"),
        ({"padding": "CIRCULAR"}, 'padding is "CIRCULAR"; give "VALID", "SAME" or'),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    """A layer that cannot be right is refused with the argument, the value found and what is allowed."""
    fitting = {"kernel": KERNEL, "strides": (2, 2), "padding": "VALID", "mean": MEAN, "std": STD}
    with pytest.raises(UserError, match=message):
        FirstLayer(**(fitting | change))
