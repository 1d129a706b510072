"""Small modules against plain float64 references, and shapes of the real ones."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from ne_jax import FirstLayer
from ne_jax.models.families import resnet, vit, vit_formats
from ne_jax.models.registry import Family

EPS = float(np.finfo(np.float32).eps)
FAMILIES = {
    "vit": (vit.ViT, vit_formats.timm_keys, vit.VARIANTS),
    "resnet": (resnet.ResNet, resnet.torchvision_keys, resnet.VARIANTS),
}
SMALL_VIT = vit.ViTConfig(8, 4, 12, 2, 3, 20, 5)
SMALL_RESNETS = {
    "bottleneck": resnet.ResNetConfig(32, (2, 1), "bottleneck", 5, width=4),
    "basic": resnet.ResNetConfig(32, (2, 2), "basic", 5, width=4, channels=1),
}
CASES = [
    *((family, name, config) for family, (_, _, variants) in FAMILIES.items() for name, config in variants.items()),
    ("vit", "small", SMALL_VIT),
    *(("resnet", kind, config) for kind, config in SMALL_RESNETS.items()),
]
CALL = nnx.jit(lambda model, images: model(images))
FEATURES = nnx.jit(lambda model, images: model.pool(model.encode(images)))


def abstract(family: str, config) -> nnx.Module:
    return nnx.merge(*Family(FAMILIES[family][0], {}, {}).abstract(config))


def image_batch(config, count=3, seed=0) -> jax.Array:
    shape = (count, config.image_size, config.image_size, config.channels)
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def published(model, keys) -> dict[str, np.ndarray]:
    """The model's tensors under the published names and in PyTorch's axis order, float64."""
    state = {
        ".".join(map(str, path)): np.asarray(leaf[...], np.float64)
        for path, leaf in nnx.to_flat_state(nnx.state(model))
    }
    files = (source.to_file(state[ours]) for ours, source in keys.items())
    return functools.reduce(dict.__or__, files)


def assert_close(found, expected):
    """To 1e-5 of the largest entry: float32 sums of some 200 terms in a few layers, and far below any wrong constant."""
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("family", "name", "parameters", "tensors"),
    [("vit", "vit_b16", 86_567_656, 152), ("resnet", "resnet50", 25_557_032, 267)],
)
def test_published_sizes(family, name, parameters, tensors):
    """The published variants have exactly the published number of trainable parameters, and of tensors in the file."""
    _, keys, variants = FAMILIES[family]
    state = nnx.state(abstract(family, variants[name]), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == parameters
    assert len(keys(variants[name])) == tensors


@pytest.mark.parametrize(("family", "name", "config"), CASES)
def test_key_tables_cover_the_module_exactly(family, name, config):
    """Every leaf has one row of the table, every row a leaf, and no two rows share a tensor."""
    keys = FAMILIES[family][1](config)
    state = nnx.state(abstract(family, config))
    assert {".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)} == set(keys)
    assert len({source.name for source in keys.values()}) == len(keys)


@pytest.mark.parametrize(("family", "name", "config"), CASES)
def test_output_shapes(family, name, config):
    """Images to one logit for each class, in float32; features to a vector."""
    model = abstract(family, config)
    model.eval()
    images = jax.ShapeDtypeStruct((2, config.image_size, config.image_size, config.channels), jnp.float32)
    logits = nnx.eval_shape(lambda model, x: model(x), model, images)
    features = nnx.eval_shape(FEATURES, model, images)
    assert (logits.shape, logits.dtype) == ((2, config.num_classes), jnp.float32)
    assert features.shape == (2, model.head.kernel.shape[0])


@pytest.mark.parametrize(
    ("family", "config"), [("vit", SMALL_VIT), *(("resnet", one) for one in SMALL_RESNETS.values())]
)
def test_inference_is_deterministic_and_of_one_image(random_model, family, config):
    """In eval mode logits repeat, do not depend on the other images of the batch, and change no state."""
    model = random_model(FAMILIES[family][0], config)
    model.eval()
    before = jax.tree.map(np.asarray, nnx.state(model))
    images, others = image_batch(config), image_batch(config, seed=1)
    logits = np.asarray(CALL(model, images))
    assert np.array_equal(CALL(model, images), logits)
    assert np.array_equal(CALL(model, others.at[0].set(images[0]))[0], logits[0])
    assert_close(CALL(model, images[:1])[0], logits[0])
    assert np.abs(logits[0] - logits[1]).max() > 1e-3 * np.abs(logits).max()
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, nnx.state(model)), before)


def test_training_of_a_resnet_uses_the_batch(random_model):
    """In train mode BatchNorm reads the batch and moves its mean: eval mode is a choice that must be made."""
    config = SMALL_RESNETS["basic"]
    model = random_model(resnet.ResNet, config)
    model.train()
    before = np.asarray(model.stem_norm.mean[...])
    images = image_batch(config)
    mates = CALL(model, images), CALL(model, image_batch(config, seed=1).at[0].set(images[0]))
    assert np.abs(mates[0][0] - mates[1][0]).max() > 1e-3
    assert not np.array_equal(model.stem_norm.mean[...], before)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layer_is_the_model_s_own(random_model, family):
    """FirstLayer.response of pixels, plus bias, is what the model's first convolution makes of normalised pixels."""
    config = {"vit": SMALL_VIT, "resnet": SMALL_RESNETS["bottleneck"]}[family]
    model = random_model(FAMILIES[family][0], config)
    mean, std = np.array((0.485, 0.456, 0.406), np.float32), np.array((0.229, 0.224, 0.225), np.float32)
    convolution = model.stem
    strides, padding = ((4, 4), "VALID") if family == "vit" else ((2, 2), ((3, 3), (3, 3)))
    bias = np.asarray(convolution.bias[...]) if family == "vit" else 0
    layer = FirstLayer(convolution.kernel[...], strides, padding, mean, std)
    image = np.random.default_rng(0).uniform(0, 1, (config.image_size, config.image_size, 3)).astype(np.float32)
    found = np.asarray(jax.jit(FirstLayer.response)(layer, jnp.asarray(image))) + bias
    expected = np.asarray(convolution(jnp.asarray((image - mean) / std)[None])[0])
    # Two float32 sums of d products, each term with three roundings of its own.
    magnitude = FirstLayer(jnp.abs(layer.kernel), strides, padding, mean, std).apply(jnp.asarray(np.abs(image - mean)))
    assert found.shape == expected.shape
    assert (
        np.abs(found - expected) <= 2 * (np.prod(layer.window) + 4) * EPS * (np.asarray(magnitude) + np.abs(bias))
    ).all()


def linear(tensors, name, x):
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def layer_norm(tensors, name, x):
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return normal * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def vit_block(tensors, name, x, num_heads):
    """The pre-norm encoder block as published, one image and one head after another: (batch, tokens, width)."""
    qkv = linear(tensors, f"{name}.attn.qkv", layer_norm(tensors, f"{name}.norm1", x))
    width, mixed = x.shape[-1], np.empty_like(x)
    size = width // num_heads
    for image in range(len(x)):
        for head in range(num_heads):
            query, key, value = (qkv[image][:, part * width + head * size :][:, :size] for part in range(3))
            scores = query @ key.T / np.sqrt(size)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            mixed[image][:, head * size : (head + 1) * size] = weights @ value
    x = x + linear(tensors, f"{name}.attn.proj", mixed)
    hidden = linear(tensors, f"{name}.mlp.fc1", layer_norm(tensors, f"{name}.norm2", x))
    gelu = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    return x + linear(tensors, f"{name}.mlp.fc2", gelu)


def vit_tokens(tensors, images, patch):
    """Patch embedding, class token first, position embedding."""
    rows, columns = images.shape[1] // patch, images.shape[2] // patch
    tokens = [
        np.einsum(
            "nhwc,ochw->no", images[:, r * patch :, c * patch :][:, :patch, :patch], tensors["patch_embed.proj.weight"]
        )
        for r in range(rows)
        for c in range(columns)
    ]
    embedded = np.stack(tokens, axis=1) + tensors["patch_embed.proj.bias"]
    classes = np.broadcast_to(tensors["cls_token"], (len(images), 1, embedded.shape[-1]))
    return np.concatenate([classes, embedded], axis=1) + tensors["pos_embed"]


def test_vit_agrees_with_a_plain_reference_step_by_step(random_model):
    """Block, features and logits equal a float64 numpy forward that reads the published tensors (erf GELU, eps 1e-6)."""
    model = random_model(vit.ViT, SMALL_VIT)
    model.eval()
    tensors, images = published(model, vit_formats.timm_keys(SMALL_VIT)), image_batch(SMALL_VIT)
    x = vit_tokens(tensors, np.asarray(images, np.float64), 4)
    block = nnx.jit(lambda block, tokens: block(tokens))
    for index in range(2):
        after = vit_block(tensors, f"blocks.{index}", x, 3)
        assert_close(block(model.blocks[index], jnp.asarray(x, jnp.float32)), after)
        x = after
    features = layer_norm(tensors, "norm", x)[:, 0]
    assert_close(FEATURES(model, images), features)
    assert_close(CALL(model, images), linear(tensors, "head", features))


def convolve(x, kernel, stride, pad):
    """NHWC by OIHW, padded by `pad` zeros on every side."""
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("nijchw,ochw->nijo", windows, kernel)


def batch_norm(tensors, name, x):
    normal = (x - tensors[f"{name}.running_mean"]) / np.sqrt(tensors[f"{name}.running_var"] + 1e-5)
    return normal * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def resnet_block(tensors, name, x, stride):
    """A residual block as torchvision has it: a bottleneck's stride is in its 3x3 convolution."""
    count = 3 if f"{name}.conv3.weight" in tensors else 2
    strides = (1, stride, 1) if count == 3 else (stride, 1)
    out = x
    for index in range(count):
        kernel = tensors[f"{name}.conv{index + 1}.weight"]
        out = batch_norm(tensors, f"{name}.bn{index + 1}", convolve(out, kernel, strides[index], kernel.shape[2] // 2))
        out = np.maximum(out, 0) if index < count - 1 else out
    if f"{name}.downsample.0.weight" in tensors:
        x = batch_norm(tensors, f"{name}.downsample.1", convolve(x, tensors[f"{name}.downsample.0.weight"], stride, 0))
    return np.maximum(out + x, 0)


@pytest.mark.parametrize("kind", SMALL_RESNETS)
def test_resnet_agrees_with_a_plain_reference(random_model, kind):
    """Features and logits equal a float64 numpy forward that reads the published tensors in PyTorch's axis order."""
    config = SMALL_RESNETS[kind]
    model = random_model(resnet.ResNet, config)
    model.eval()
    tensors, images = published(model, resnet.torchvision_keys(config)), image_batch(config)
    stem = np.maximum(
        batch_norm(tensors, "bn1", convolve(np.asarray(images, np.float64), tensors["conv1.weight"], 2, 3)), 0
    )
    padded = np.pad(stem, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2].max((-1, -2))
    for stage, size in enumerate(config.stage_sizes):
        for index in range(size):
            x = resnet_block(tensors, f"layer{stage + 1}.{index}", x, 2 if stage > 0 and index == 0 else 1)
    features = x.mean((1, 2))
    assert features.shape == (3, config.width * 2 * (4 if kind == "bottleneck" else 1))
    assert_close(FEATURES(model, images), features)
    assert_close(CALL(model, images), linear(tensors, "fc", features))
