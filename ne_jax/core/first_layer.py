"""A model's first convolution as a linear map of pixel changes."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ne_jax.core.pixels import is_concrete
from ne_jax.errors import UserError

HIGHEST = jax.lax.Precision.HIGHEST
Padding = str | tuple[tuple[int, int], ...]


@jax.tree_util.register_pytree_with_keys_class
class FirstLayer:
    """T = convolution(kernel / std): what a change of pixels does to the outputs of the first layer.

    kernel: (kh, kw, C, M), HWIO, for inputs normalised as (x - mean) / std; C counts input channels, M outputs.
    strides: (vertical, horizontal), at least 1.
    padding: "VALID", "SAME" or ((top, bottom), (left, right)). Padding adds zeros to the *normalised* image, hence
        no change to a change.
    mean, std: (C,), in pixel units; std > 0.
    A pytree: kernel, mean and std are leaves, strides and padding are static.
    Raises UserError for a shape that does not fit, a NaN or infinite kernel, mean or std, or std <= 0.
    """

    def __init__(
        self,
        kernel: ArrayLike,
        strides: Sequence[int],
        padding: str | Sequence[Sequence[int]],
        mean: Sequence[float] | ArrayLike,
        std: Sequence[float] | ArrayLike,
    ):
        self.kernel = jnp.asarray(kernel, jnp.float32)
        self.mean, self.std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
        self.strides: tuple[int, int] = tuple(strides)
        self.padding: Padding = padding if isinstance(padding, str) else tuple(tuple(side) for side in padding)
        self._check()

    def _check(self) -> None:
        if self.kernel.ndim != 4:
            raise UserError(f"kernel has shape {self.kernel.shape}; give (height, width, channels in, channels out)")
        for name, value in (("mean", self.mean), ("std", self.std)):
            if value.shape != (self.kernel.shape[2],):
                raise UserError(f"{name} has shape {value.shape}; the kernel has {self.kernel.shape[2]} input channels")
        if len(self.strides) != 2 or min(self.strides) < 1:
            raise UserError(f"strides are {self.strides}; give two numbers of at least 1")
        if isinstance(self.padding, str) and self.padding not in ("VALID", "SAME"):
            raise UserError(f'padding is "{self.padding}"; give "VALID", "SAME" or ((top, bottom), (left, right))')
        if is_concrete(self.kernel, self.mean, self.std):
            if not np.isfinite(np.asarray(self.kernel)).all():  # in NumPy: nothing to compile
                raise UserError("kernel has NaN or infinite values; the checkpoint is broken")
            if not np.isfinite(np.asarray(self.mean)).all():
                raise UserError(f"mean is {np.asarray(self.mean).tolist()}; every channel's must be a number")
            if not ((np.asarray(self.std) > 0) & np.isfinite(np.asarray(self.std))).all():
                raise UserError(f"std is {np.asarray(self.std).tolist()}; every channel's must be above 0, and finite")

    def tree_flatten_with_keys(self):
        """For JAX: leaves with their names, and the static part."""
        leaves = tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in ("kernel", "mean", "std"))
        return leaves, (self.strides, self.padding)

    @classmethod
    def tree_unflatten(cls, static, leaves):
        """For JAX: the inverse, without the checks, since leaves may be tracers or placeholders."""
        layer = object.__new__(cls)
        layer.kernel, layer.mean, layer.std = leaves
        layer.strides, layer.padding = static
        return layer

    def __repr__(self) -> str:
        return f"FirstLayer(kernel={self.kernel.shape}, strides={self.strides}, padding={self.padding})"

    @property
    def window(self) -> tuple[int, int, int]:
        """What one output sees: (kh, kw, C); d = kh * kw * C."""
        return tuple(self.kernel.shape[:3])

    @property
    def has_patches(self) -> bool:
        """Whether windows do not overlap and leave no gap: the stride is the kernel size."""
        return self.strides == self.window[:2]

    def tiles(self, image_shape: tuple[int, int, int]) -> bool:
        """Whether the windows on images of (H, W, C) are patches cut from the top left corner, with nothing padded."""
        whole = all(side % kernel == 0 for side, kernel in zip(image_shape, self.window[:2], strict=False))
        unpadded = self.padding in ("VALID", ((0, 0), (0, 0))) or (self.padding == "SAME" and whole)
        return self.has_patches and unpadded

    @property
    def matrix(self) -> Float[Array, "outputs d"]:
        """The map of one window's pixel change, flattened in (row, column, channel) order, to the M outputs."""
        pixel_kernel = self.kernel / self.std[:, None]
        return pixel_kernel.reshape(-1, pixel_kernel.shape[-1]).T

    def apply(
        self, delta: Float[Array | np.ndarray, "*batch height width channels"]
    ) -> Float[Array, "*batch rows columns outputs"]:
        """T delta, float32 products at highest precision. `delta` in pixel units."""
        batch = delta.reshape(-1, *delta.shape[-3:])
        out = jax.lax.conv_general_dilated(
            batch, self.kernel / self.std[:, None], self.strides, self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=HIGHEST,
        )  # fmt: skip
        return out.reshape(*delta.shape[:-3], *out.shape[1:])

    def adjoint(
        self, outputs: Float[Array, "rows columns outputs"], image_shape: tuple[int, int, int]
    ) -> Float[Array, "height width channels"]:
        """T^T outputs, in the shape of the image; derived from `apply`."""
        transpose = jax.linear_transpose(self.apply, jax.ShapeDtypeStruct(image_shape, jnp.float32))
        return transpose(outputs)[0]

    def response(
        self, image: Float[Array | np.ndarray, "height width channels"]
    ) -> Float[Array, "rows columns outputs"]:
        """T (image - mean): the layer's output without its bias, what a change of outputs is compared with."""
        return self.apply(image - self.mean)


def pads(layer: FirstLayer, image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """The layer's padding in pixels: (top, bottom), (left, right)."""
    if isinstance(layer.padding, str):
        return list(jax.lax.padtype_to_pads(image_shape[:2], layer.window[:2], layer.strides, layer.padding))
    return list(layer.padding)


def stacked(layers: Sequence[FirstLayer], image_shape: tuple[int, int, int], *, unit_norm: bool = False) -> FirstLayer:
    """One layer with the outputs of all `layers`, one after another, on images of `image_shape` (H, W, C).

    A change that it does not see none of them sees: its null space is the intersection of theirs, in general d - M_1 - M_2 - ...
    directions of a window's d, and `certify` holds for each of them in a subspace of the stack (T1). Where the outputs together
    are d or more nothing exactly null is left.

    In pixel units: each kernel / its std, then std = 1. mean = that of the first layer; only `response` depends on it.
    Not scaled by default: the outputs are the layers' own, and a threshold relative to sigma_1 favours the loudest of them.
    unit_norm: each is first divided by the largest singular value of its window's map, so that a threshold means about the same
    for every one. Null directions are the same either way.

    Raises UserError for no layers, and for one whose windows, strides or padding are not those of the first.
    """
    if not layers:
        raise UserError("there are no layers; give the first layers of the models that are authorized together")
    first, padding = layers[0], _padding(layers[0], image_shape)
    for place, layer in enumerate(layers[1:], 2):
        if (layer.window, layer.strides, _padding(layer, image_shape)) != (first.window, first.strides, padding):
            raise UserError(
                f"layer {place} of {len(layers)}, {layer}, does not cut images {image_shape} into the windows of {first}; models "
                "authorized together must cut the image into the same windows"
            )
    kernels = [layer.matrix.T / (_largest(layer) if unit_norm else 1) for layer in layers]
    kernel = jnp.concatenate(kernels, axis=1).reshape(*first.window, -1)
    return FirstLayer(kernel, first.strides, padding, first.mean, np.ones(first.window[2]))


def together(layers: Sequence[FirstLayer], image_shape: tuple[int, int, int]) -> FirstLayer:
    """The layer of models that are authorized together: a single one's own, several `stacked` under one norm."""
    return layers[0] if len(layers) == 1 else stacked(layers, image_shape, unit_norm=True)


def _padding(layer: FirstLayer, image_shape: tuple[int, int, int]) -> tuple[tuple[int, ...], ...]:
    """In pixels, since "SAME" may add nothing."""
    return tuple(tuple(map(int, side)) for side in pads(layer, image_shape))


def _largest(layer: FirstLayer):
    # A layer of zeros stays one.
    return jnp.maximum(jnp.linalg.norm(layer.matrix, ord=2), np.finfo(np.float32).tiny)
