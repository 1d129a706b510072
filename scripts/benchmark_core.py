"""Cases core, stem and spectrum of scripts/benchmark.py: arrays in, arrays out."""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_pairs import Row, rate, ratio, seconds, spread

import ne_jax
from ne_jax.core.first_layer import HIGHEST
from ne_jax.core.threefry import normal
from ne_jax.data.sources import num_workers
from ne_jax.recoding.noise_keys import noise_keys
from ne_jax.recoding.paper import low_directions, paper_recode

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH, SHAPE = 64, (224, 224, 3)


def _layer(kernel: int, stride: int, outputs: int, padding) -> ne_jax.FirstLayer:
    weights = np.random.default_rng(0).standard_normal((kernel, kernel, 3, outputs), dtype=np.float32)
    return ne_jax.FirstLayer(weights, (stride, stride), padding, MEAN, STD)


_STEP = 16  # images a call; each result is dropped before the next call, so that its memory is used again
_THREADS = ThreadPoolExecutor(num_workers(0))  # as stage encode has them


def _recoded(one, keys, images) -> None:
    """`one(key, image)` of all images, on a CPU four at a time."""

    def call(rows: slice) -> None:
        _step(one, keys[rows], images[rows]).block_until_ready()

    list(_THREADS.map(call, (slice(start, start + _STEP) for start in range(0, BATCH, _STEP))))


@functools.partial(jax.jit, static_argnames=("one",))
def _step(one, keys, images):
    return jax.lax.map(lambda pair: one(*pair), (keys, images), batch_size=4)


def _inputs():
    pixels = np.random.default_rng(1).integers(0, 256, (BATCH, *SHAPE), np.uint8)
    return pixels, noise_keys(bytes(32), b"", pixels), jnp.asarray(pixels, jnp.float32) / 255


def _torch(pixels: np.ndarray, numbers: int, directions: int):
    import torch

    torch.manual_seed(0)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).contiguous()
    return images, torch.linalg.qr(torch.randn(numbers, directions)).Q


def core(repeats: int) -> dict[str, Row]:
    """Patches of 16 x 16: a tile, fresh noise, and what fresh noise cannot do without."""
    import torch_baseline

    pixels, keys, floats = _inputs()
    layer = _layer(16, 16, 368, "VALID")  # 768 numbers, 368 outputs: 400 null directions
    space = ne_jax.low_sensitivity(ne_jax.spectrum(layer, SHAPE), "count", 400)
    tile = low_directions(layer, 0.0)
    images, basis = _torch(pixels, 768, 400)

    def tiled(key, image):
        return paper_recode(key, image, layer, tile, 30.0)

    def fresh(key, image):
        return ne_jax.recode(key, image, space, 10.0)

    def alone(key, _):
        return jnp.matmul(normal(key, (196, 400)), space.basis.T, precision=HIGHEST)

    found = seconds(
        {
            "torch": lambda: torch_baseline.recode_tile(images, basis, MEAN, STD, 30.0),
            "tile": lambda: _recoded(tiled, keys, floats),
            "fresh": lambda: _recoded(fresh, keys, floats),
            "alone": lambda: _recoded(alone, keys, floats),
        },
        repeats,
    )
    return {
        "tile, times as fast as PyTorch's": ratio(found, "torch", "tile"),
        "fresh noise, times as fast as PyTorch's tile": ratio(found, "torch", "fresh"),
        "fresh noise, share of the rate of numbers and product alone": ratio(found, "alone", "fresh"),
        **{f"{name}, images/s": rate(found, name, BATCH) for name in found},
    }


def stem(repeats: int) -> dict[str, Row]:
    """A 7 x 7 stem of stride 2: noise of the whole image by FFT, against windows cut out."""
    import torch_baseline

    pixels, keys, floats = _inputs()
    spectrum = ne_jax.spectrum(_layer(7, 2, 64, ((3, 3), (3, 3))), SHAPE)
    space = ne_jax.low_sensitivity(spectrum, "count", 30_000)
    images, basis = _torch(pixels, 147, 83)

    def in_image_space(key, image):
        return ne_jax.recode(key, image, space, 10.0)

    found = seconds(
        {
            "torch": lambda: torch_baseline.recode_unfold_stem(images, basis, MEAN, STD, 30.0, folded=False),
            "image space": lambda: _recoded(in_image_space, keys, floats),
        },
        repeats,
    )
    return {
        "image space, times as fast as PyTorch on windows": ratio(found, "torch", "image space"),
        **{f"{name}, images/s": rate(found, name, BATCH) for name in found},
    }


def spectra(repeats: int) -> dict[str, Row]:
    """Seconds: of the first call, which compiles, and of further ones."""
    rows = {}
    for name, layer in {
        "SVD, 16 x 16 patches, 768 outputs": _layer(16, 16, 768, "VALID"),
        "polyphase, 7 x 7 stem, stride 2": _layer(7, 2, 64, ((3, 3), (3, 3))),
    }.items():

        def run(layer=layer):
            jax.block_until_ready(ne_jax.spectrum(layer, SHAPE))

        start = time.perf_counter()
        run()
        rows[f"{name}, first call, s"] = spread([time.perf_counter() - start])
        rows[f"{name}, s"] = spread(seconds({"run": run}, repeats)["run"])
    return rows
