"""Learned denoisers: a small U-Net trained on non-transferable examples alone (blind spots), on pairs, or on the attacker's own pairs.

Everything follows the patch grid: crops begin at patches, and what a blind spot hides, it hides in every patch. Training is optax's
Adam with a cosine schedule, step by step, so that a CPU uses its cores. The cost is about .1 s a step and .1 s an image and pass on two
cores: the quick parameters take seconds, the full ones minutes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.attacks.known_pairs import ridge_decoder
from ne_jax.core.linear_estimate import given
from ne_jax.core.pixels import Images, float_pixels, from_bytes
from ne_jax.recoding.design import Recipe
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.subspace_noise import noise_for

_CROP = 64  # sides of training crops are the fewest whole patches of at least this many pixels
_BATCH = 8  # crops in a step, images in a pass
Batch = Float[Array, "n height width _channels"]
Pairs = Float[np.ndarray, "pairs height width channels"]  # beside other images
Hide = Literal["patches", "pixels"]


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


def _network(inputs: int, outputs: int, widths: Sequence[int], seed: int) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(UNet(inputs, outputs, widths, rngs=nnx.Rngs(seed)))


def _crops(generator: np.random.Generator, sets: Sequence[Images], patch: tuple[int, int, int]):
    """Endless batches of crops that begin at patches, the same of each set."""
    count, *sides, _ = sets[0].shape
    sizes = [min(side, -(-_CROP // step) * step) for side, step in zip(sides, patch, strict=False)]
    places = [(side - size) // step + 1 for side, size, step in zip(sides, sizes, patch, strict=False)]
    while True:
        numbers = generator.integers(count, size=_BATCH)
        tops, lefts = (generator.integers(many, size=_BATCH) * step for many, step in zip(places, patch, strict=False))
        corners = list(zip(numbers, tops, lefts, strict=True))
        yield tuple(np.stack([s[n, t : t + sizes[0], w : w + sizes[1]] for n, t, w in corners]) for s in sets)


# Blind spots.


def hidden_sets(
    generator: np.random.Generator, patch: tuple[int, int, int], folds: int, sides: tuple[int, int], hide: Hide
) -> Int[np.ndarray, "height width"]:
    """For each pixel the number, below `folds`, of the set that it is hidden with.

    "patches": whole patches, none with one of its eight neighbours if `folds` is 4 or more; for noise that is independent from patch to
    patch, which the rest of a patch would tell. "pixels": random pixels of a patch, the same in every patch; for noise that repeats
    from patch to patch, which other patches would tell.
    """
    rows, columns = np.indices(sides)
    if hide == "patches":
        return (rows // patch[0] + 2 * (columns // patch[1]) + generator.integers(folds)) % folds
    numbers = generator.permutation(np.arange(patch[0] * patch[1]) % folds).reshape(patch[:2])
    return numbers[rows % patch[0], columns % patch[1]]


@functools.partial(jax.jit, static_argnames=("graphdef", "reach"))
def predict(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    images: Batch,
    hidden: Float[Array, "height width"],
    reach: tuple[int, int],
) -> Batch:
    """What the network makes of images of which it does not see the pixels where `hidden` is 1: they are first filled with the mean of
    the visible ones, at most `reach` rows and columns away. No prediction depends on a hidden pixel."""
    seen = jnp.broadcast_to(1 - hidden[:, :, None], images.shape)
    filled = jnp.where(seen > 0, images, _around(images * seen, reach) / jnp.maximum(_around(seen, reach), 1))
    return filled + nnx.merge(graphdef, params)(jnp.concatenate([filled, 1 - seen[..., :1]], axis=-1))


def _around(values: Batch, reach: tuple[int, int]) -> Batch:
    """The sum over pixels at most `reach` away, zeros outside, in each channel."""
    for window in ((1, 2 * reach[0] + 1, 1, 1), (1, 1, 2 * reach[1] + 1, 1)):
        values = jax.lax.reduce_window(values, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")
    return values


def _blind_loss(static, params, _, batch):
    graphdef, reach = static
    images, hidden = batch
    error = predict(graphdef, params, images, hidden, reach) - images
    return jnp.sum(error**2 * hidden[:, :, None]) / jnp.sum(hidden)


def blind_spot(
    stored: Images,
    knowledge: Knowledge,
    steps: int = 60,
    hide: Hide = "patches",
    folds: int = 4,
    widths: tuple[int, ...] = (16, 32, 64),
    rate: float = 1e-3,
) -> Images:
    """Noise2Self (Batson and Royer 2019, arXiv 1901.11365) on non-transferable examples only: learn to predict hidden pixels from
    the others, squared error, then predict each pixel of the stored images while it is hidden. `hide`, `folds`: see `hidden_sets`.

    Noise of a subspace is told by the rest of its patch, so with "pixels" it is learned with the image unless it is weak; with
    "patches" it is not, and detail is lost with it.
    """
    releases = given(knowledge.releases, "releases")
    generator = np.random.default_rng(knowledge.seed)
    channels, patch = stored.shape[-1], knowledge.patch
    graphdef, params = _network(channels + 1, channels, widths, knowledge.seed)
    reach = (patch[0], patch[1]) if hide == "patches" else (1, 1)

    def batches():
        for (images,) in _crops(generator, (releases,), patch):
            yield images, (hidden_sets(generator, patch, folds, images.shape[1:3], hide) == 0).astype(np.float32)

    params = descend(_blind_loss, (graphdef, reach), params, None, batches(), steps, rate)
    numbers = hidden_sets(generator, patch, folds, stored.shape[1:3], hide)

    def predicted(images):
        masks = [(numbers == fold).astype(np.float32) for fold in range(folds)]
        return sum(
            mask[:, :, None] * predict(graphdef, params, jnp.asarray(images), jnp.asarray(mask), reach)
            for mask in masks
        )

    return in_chunks(predicted, stored)


# Pairs.


def _refined(graphdef, params, scale, noisy: Batch, decoded: Batch) -> Batch:
    found = nnx.merge(graphdef, params)(jnp.concatenate([decoded, noisy - decoded], axis=-1))
    return decoded + scale * found


def _pair_loss(graphdef, params, scale, batch):
    noisy, decoded, clean = batch
    return jnp.mean(jnp.abs(_refined(graphdef, params, scale, noisy, decoded) - clean))


def denoise(
    stored: Images,
    noisy: Pairs,
    clean: Pairs,
    knowledge: Knowledge,
    steps: int,
    widths: tuple[int, ...],
    ridge: float,
    rate: float,
) -> Images:
    """The stored images as a U-Net sees them that learned `clean` from `noisy`, L1.

    A convolution does not know where in a patch it is, but the subspace does; so the U-Net is given what `ridge_decoder` makes of
    the image beside it, and learns what is to be added, which is little where the noise lies in one subspace of patches. Without steps
    it is that decoder.
    """
    pairs = knowledge._replace(releases=noisy, originals=clean)
    learned, decoded = np.split(ridge_decoder(np.concatenate([noisy, stored]), pairs, ridge), [len(noisy)])
    scale = jnp.float32(np.std(learned - clean) + 1e-6)  # so that the rate is right however little the decoder leaves
    graphdef, params = _network(2 * stored.shape[-1], stored.shape[-1], widths, knowledge.seed)
    batches = _crops(np.random.default_rng(knowledge.seed), (noisy, learned, clean), knowledge.patch)
    params = descend(_pair_loss, graphdef, params, scale, batches, steps, rate)
    refine = jax.jit(functools.partial(_refined, graphdef, params, scale))
    both = np.concatenate([stored, decoded], axis=-1)
    return in_chunks(lambda images: refine(*np.split(images, 2, axis=-1)), both)


def unet(
    stored: Images,
    knowledge: Knowledge,
    steps: int = 60,
    widths: tuple[int, ...] = (16, 32, 64),
    ridge: float = 100.0,
    rate: float = 1e-3,
) -> Images:
    """`denoise`, learned from the releases whose clean images are known."""
    noisy, clean = given(knowledge.releases, "releases"), given(knowledge.originals, "the releases' clean images")
    return denoise(stored, noisy, clean, knowledge, steps, widths, ridge, rate)


def own_pairs(stored: Images, knowledge: Knowledge, copies: int) -> tuple[Pairs, Pairs]:
    """(recoded, clean): the public images, mirrored in every second copy, recoded by the attacker as most of `stored` seem to be: as
    strong as their energy in the subspace beyond that of public images, and in 8 bits if they stay in [0, 1].

    Raises UserError without public images or without a subspace.
    """
    public, space = given(knowledge.public, "public images"), given(knowledge.space, "the authorized model's subspace")

    @jax.jit
    def energy(image):
        return jnp.mean(space.project(image) ** 2)

    found, usual = (np.median([energy(image) for image in images]) for images in (stored, public))
    psnr_db = -10 * np.log10(max(found - usual, 1e-8))
    boxed = np.median([image.min() >= 0 and image.max() <= 1 for image in stored]) == 1
    clean = np.concatenate([public[:, :, ::-1] if copy % 2 else public for copy in range(copies)])
    clean = np.round(np.clip(clean, 0, 1) * 255).astype(np.uint8)
    keys = jax.random.split(jax.random.key(knowledge.seed), len(clean))
    dtype = np.uint8 if boxed else np.float32
    recoded = encode_batch(keys, clean, Recipe(noise_for(dtype), space, float(psnr_db), dtype)).stored
    return float_pixels(np.asarray(recoded)), from_bytes(clean)


def unet_own_pairs(
    stored: Images,
    knowledge: Knowledge,
    steps: int = 60,
    copies: int = 1,
    widths: tuple[int, ...] = (16, 32, 64),
    ridge: float = 100.0,
    rate: float = 1e-3,
) -> Images:
    """`denoise`, learned from public images that the attacker recodes himself, each `copies` times."""
    return denoise(stored, *own_pairs(stored, knowledge, copies), knowledge, steps, widths, ridge, rate)


_QUICK = ({"steps": 60},)
_HIDDEN = (("patches", 4), ("patches", 9), ("pixels", 4), ("pixels", 16))
ATTACKS = (
    Attack(
        "blind_spot", 2, "Blind-spot network", "images", blind_spot, frozenset({"releases"}),
        tuple({"steps": 2000, "hide": hide, "folds": folds} for hide, folds in _HIDDEN), _QUICK,
        "Batson and Royer 2019, arXiv 1901.11365",
    ),
    Attack(
        "unet", 3, "U-Net on pairs", "images", unet, frozenset({"releases", "originals"}),
        tuple({"steps": 2000, "ridge": ridge} for ridge in (1.0, 100.0)), _QUICK,
        "Ronneberger et al. 2015, arXiv 1505.04597, on pairs of clean and recoded images",
    ),
    Attack(
        "unet_own_pairs", 4, "U-Net on own pairs", "images", unet_own_pairs, frozenset({"public", "space"}),
        tuple({"steps": 2000, "copies": 4, "ridge": ridge} for ridge in (1.0, 100.0)), _QUICK,
        "Ronneberger et al. 2015, arXiv 1505.04597, on public images recoded by the attacker",
    ),
)  # fmt: skip
