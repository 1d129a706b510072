"""A reader as a differentiable function of another model's pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import UserError
from ne_jax.data.preprocess import adapt
from ne_jax.models.as_reader import reading
from ne_jax.models.loading import load_model
from ne_jax.recoding.surrogate_views import view

RULES = {
    "as it is": ({}, (112, 112, 1)),
    "colour, squashed": ({}, (90, 150, 3)),
    "shorter side, cubic, cut": ({"resize": "shorter", "resize_to": 128, "interpolation": "bicubic"}, (100, 140, 1)),
    "cut first": ({"resize": "crop_first", "resize_to": 144, "interpolation": "bicubic"}, (100, 130, 1)),
    "smaller, black border": ({"resize": "shorter", "resize_to": 80}, (112, 112, 3)),
}


@pytest.mark.parametrize("rule", RULES)
def test_it_sees_what_the_model_sees(rule):
    """Logits and features are those of the model after its own preprocessing by PIL, for every kind of resize and crop."""
    fields, shape = RULES[rule]
    model = load_model("resnet_a")
    model = dataclasses.replace(model, preprocess=dataclasses.replace(model.preprocess, **fields))
    images = np.random.default_rng(0).random((3, *shape), np.float32)
    expected = model(adapt(images, model.preprocess))
    found = jax.jit(jax.vmap(reading(model, shape)))(jnp.asarray(images))
    np.testing.assert_allclose(found.logits, expected.logits, atol=2e-3 * float(np.std(expected.logits)))
    np.testing.assert_allclose(found.features, expected.features, atol=2e-3)


def test_it_is_a_pytree_that_is_differentiated(rule="as it is"):
    """It goes through jit as an argument, without tracing again, and its gradient is that of finite differences."""
    reader = reading(load_model("vit_a"), (112, 112, 1))
    image = jnp.asarray(np.random.default_rng(1).random((112, 112, 1)), jnp.float32)
    look = jax.jit(lambda reader, image: reader(image).logits[3])
    gradient = jax.grad(look, argnums=1)(reader, image)
    direction = jnp.sign(gradient)
    change = (look(reader, image + 1e-3 * direction) - look(reader, image - 1e-3 * direction)) / 2e-3
    assert float(change) == pytest.approx(float(jnp.sum(gradient * direction)), rel=2e-2)
    look(reading(load_model("vit_b"), (112, 112, 1)), image)
    assert look._cache_size() == 1


def test_a_view_moves_the_image():
    """A warp is an image at a random size and place: a constant stays one inside, black comes in, and no number leaves [0, 1]."""
    image = jnp.ones((40, 56, 1))
    for seed in range(20):
        rows, columns = view(jax.random.key(seed), image)
        seen = jnp.einsum("sh,hwc,tw->stc", rows, image, columns)
        assert seen.shape == image.shape and float(seen.min()) >= 0 and float(seen.max()) <= 1 + 1e-5
        assert 0.8**2 * 0.85 <= float(seen.mean()) <= 1 + 1e-5


def test_other_frameworks_have_no_gradients():
    """A network that is not Flax is refused in one line that names it."""
    model = dataclasses.replace(load_model("vit_a"), graphdef=None, name="foreign")
    with pytest.raises(UserError, match="foreign is no Flax network"):
        reading(model, (112, 112, 1))
