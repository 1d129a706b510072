"""Names of models, and what a loaded one is as a function of pixels."""

import numpy as np
import pytest

import ne_jax
from ne_jax.core import pixels as byte_pixels
from ne_jax.errors import UserError
from ne_jax.files import sha256
from ne_jax.models import model as model_module
from ne_jax.models import registry
from ne_jax.models.loading import load_model


def test_every_sample_loads_and_has_its_recorded_hash_and_size():
    """Shipped checkpoints go through the same strict loading as any other, and each is at most 3 MB."""
    for name in registry.SAMPLES:
        model = load_model(name)
        path = registry.ASSETS / f"{name}.safetensors"
        assert model.sha256 == sha256(path) and path.stat().st_size <= 3_000_000
        assert model.apply(np.zeros((2, 112, 112, 1), np.uint8)).shape == (2, 10)


def test_uint8_and_float_pixels_are_the_same_input():
    """Contract 1: one image, two dtypes, one answer."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 1), np.uint8)
    model = load_model("vit_a")
    np.testing.assert_array_equal(model.apply(pixels), model.apply(byte_pixels.from_bytes(pixels)))


def test_no_recompilation_across_batches_and_models_of_one_architecture():
    """One trace for an architecture and a batch shape, whatever the weights."""
    pixels = np.zeros((4, 112, 112, 1), np.uint8)
    load_model("vit_a").apply(pixels)
    traces = model_module._forward._cache_size()
    for name in ("vit_a", "vit_b", "vit_a_tuned"):
        load_model(name).apply(pixels + 1)
    assert model_module._forward._cache_size() == traces


def test_first_layer_is_the_models_own():
    """The operator that is certified is the convolution that the network runs."""
    from flax import nnx

    model = load_model("resnet_a")
    module = nnx.merge(model.graphdef, model.state)
    pixels = np.random.default_rng(0).uniform(size=(1, 112, 112, 1)).astype(np.float32)
    normalised = (pixels - model.first_layer.mean) / model.first_layer.std
    # Padding is zero after normalisation, so the two agree at the border only because `response` takes the mean off first.
    np.testing.assert_allclose(model.first_layer.response(pixels[0]), module.stem(normalised)[0], atol=2e-5)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("vit_aa",), 'model "vit_aa" is unknown; did you mean vit_a?'),
        (("zzz",), "choose from vit_a"),
        (("vit_b16",), "needs a checkpoint"),
        (("vit_a", "/no/such/file.safetensors"), "no such file"),
    ],
)
def test_a_wrong_name_is_told(arguments, part):
    """The error names the model and the way out."""
    with pytest.raises(UserError) as caught:
        load_model(*arguments)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_a_checkpoint_of_another_architecture_is_told_in_one_line():
    """Missing and surplus names together."""
    with pytest.raises(UserError, match=r"does not fit: \d+ missing: .*; \d+ surplus: .*") as caught:
        load_model("vit_a", registry.ASSETS / "resnet_a.safetensors")
    assert "\n" not in str(caught.value)


def test_pixels_of_another_size_are_refused():
    """A model is never fed another geometry silently."""
    with pytest.raises(UserError, match=r"vit_a takes images \(112, 112, 1\), not \(28, 28, 1\)"):
        load_model("vit_a").apply(np.zeros((1, 28, 28, 1), np.uint8))


def test_load_model_is_offered_at_the_top():
    """`ne_jax.load_model` is the loader itself."""
    assert ne_jax.load_model is load_model
