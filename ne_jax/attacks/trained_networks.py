"""What learned denoisers share: a small U-Net, and how it is trained and run, a batch at a time.

Crops begin at patches, as everything that these attacks learn follows the patch grid. Training is optax's Adam with a cosine schedule,
step by step, so that a CPU uses its cores. The cost is about .1 s a step and .1 s an image and pass on two cores. Knows no attack.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from ne_jax.core.pixels import Images

_CROP = 64  # sides of training crops are the fewest whole patches of at least this many pixels
_BATCH = 8  # crops in a step, images in a pass
Batch = Float[Array, "n height width _channels"]


@functools.partial(jax.jit, static_argnames=("loss", "static"))
def _step(loss, static, rate, params, moments, fixed, batch):
    gradient = jax.grad(loss, argnums=1)(static, params, fixed, batch)
    change, moments = optax.adam(rate).update(gradient, moments, params)
    return optax.apply_updates(params, change), moments


def descend(
    loss: Callable[..., Float[Array, ""]],
    static: Any,
    params: Any,
    fixed: Any,
    batches: Iterable[Any],
    steps: int,
    rate: float,
) -> Any:
    """The parameters after `steps` steps of Adam on loss(static, params, fixed, batch), the rate falling to 0 by a cosine.

    loss: a function of a module, and static hashable, so that equal problems share one compiled step. batches: at least `steps`.
    """
    moments = optax.adam(rate).init(params)
    schedule = optax.cosine_decay_schedule(rate, max(steps, 1))
    for number, batch in zip(range(steps), batches, strict=False):
        params, moments = _step(loss, static, schedule(number), params, moments, fixed, batch)
    return params


def in_chunks(
    function: Callable[[Images], Any], images: Images, size: int = _BATCH
) -> Float[np.ndarray, "n height width _channels"]:
    """function(images), `size` at a time; the last ones padded, so that it is compiled once."""
    padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % size, axis=0)])
    parts = [np.asarray(function(padded[start : start + size])) for start in range(0, len(padded), size)]
    return np.concatenate(parts)[: len(images)]


def _conv(inputs: int, outputs: int, rngs: nnx.Rngs, **kwargs) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (3, 3), rngs=rngs, **{"kernel_init": nnx.initializers.he_normal()} | kwargs)


class UNet(nnx.Module):
    """A U-Net (Ronneberger et al. 2015, arXiv 1505.04597) of as many levels as `widths`, two 3x3 convolutions each on the way down and
    one on the way up, on blocks of 2x2 pixels as channels, which costs a quarter (FFDNet, Zhang et al. 2018, arXiv 1710.04026). Its
    last convolution sees the input too, so that linear filters are learned at once; it starts at zero, and the output with it. Sides
    of any length."""

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int], *, rngs: nnx.Rngs):
        pairs = zip([4 * inputs, *widths[:-1]], widths, strict=True)
        self.down = nnx.List([nnx.List([_conv(a, b, rngs), _conv(b, b, rngs)]) for a, b in pairs])
        self.up = nnx.List([_conv(a + b, a, rngs) for a, b in zip(widths[:-1], widths[1:], strict=True)])
        self.last = _conv(widths[0] + 4 * inputs, 4 * outputs, rngs, kernel_init=nnx.initializers.zeros)

    def __call__(self, x: Float[Array, "n height width inputs"]) -> Float[Array, "n height width outputs"]:
        """The images that come out, at the size of those that go in."""
        height, width = x.shape[1:3]
        multiple = 2 ** len(self.down)
        x = jnp.pad(x, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")
        blocks = x = _to_blocks(x)
        kept = []
        for level, convs in enumerate(self.down):
            x = x if level == 0 else nnx.avg_pool(x, (2, 2), (2, 2))
            for conv in convs:
                x = jax.nn.leaky_relu(conv(x), 0.1)
            kept.append(x)
        for conv, skip in zip(reversed(self.up), reversed(kept[:-1]), strict=True):
            larger = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            x = jax.nn.leaky_relu(conv(jnp.concatenate([skip, larger], axis=-1)), 0.1)
        return _to_pixels(self.last(jnp.concatenate([x, blocks], axis=-1)))[:, :height, :width]


def _to_blocks(pixels: Batch) -> Float[Array, "n rows columns _numbers"]:
    """Blocks of 2x2 pixels as channels."""
    n, height, width, channels = pixels.shape
    blocks = pixels.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(n, height // 2, width // 2, 4 * channels)


def _to_pixels(blocks: Float[Array, "n rows columns _numbers"]) -> Batch:
    """The inverse."""
    n, height, width, channels = blocks.shape
    pixels = blocks.reshape(n, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(n, 2 * height, 2 * width, channels // 4)


def small_network(inputs: int, outputs: int, widths: Sequence[int], seed: int) -> tuple[nnx.GraphDef, nnx.State]:
    """A fresh `UNet` in two parts: what it is, hashable, and its parameters, which `seed` decides."""
    return nnx.split(UNet(inputs, outputs, widths, rngs=nnx.Rngs(seed)))


def crops(
    generator: np.random.Generator, sets: Sequence[Images], patch: tuple[int, int, int]
) -> Iterator[tuple[Images, ...]]:
    """Endless batches of crops that begin at patches, the same of each set of images."""
    count, *sides, _ = sets[0].shape
    sizes = [min(side, -(-_CROP // step) * step) for side, step in zip(sides, patch, strict=False)]
    places = [(side - size) // step + 1 for side, size, step in zip(sides, sizes, patch, strict=False)]
    while True:
        numbers = generator.integers(count, size=_BATCH)
        tops, lefts = (generator.integers(many, size=_BATCH) * step for many, step in zip(places, patch, strict=False))
        corners = list(zip(numbers, tops, lefts, strict=True))
        yield tuple(np.stack([s[n, t : t + sizes[0], w : w + sizes[1]] for n, t, w in corners]) for s in sets)
