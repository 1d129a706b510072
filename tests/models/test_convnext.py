from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from flax import nnx
from PIL import Image

from ne_jax.data.preprocess import to_pixels
from ne_jax.models.families import convnext
from ne_jax.models.porting import checkpoints
from ne_jax.models.porting.tensor_files import TensorFile
from tests import oracles
from tests.oracles import timm, torch, torchvision, transformers

TINY = convnext.VARIANTS["convnext_t"]
# A small one with every kind of layer.
SMALL = convnext.ConvNeXtConfig(32, (1, 1, 2, 1), (8, 12, 16, 20), 5)
HEADLESS = dataclasses.replace(SMALL, num_classes=0)
ORACLES = {
    "hugging_face": lambda: transformers.ConvNextForImageClassification(transformers.ConvNextConfig(num_labels=1000)),
    "timm": lambda: timm.create_model("convnext_tiny"),
    "torchvision": torchvision.models.convnext_tiny,
}
FIRST_LAYERS = {  # stem with its norm, first block
    "hugging_face": lambda model: (model.convnext.embeddings, model.convnext.encoder.stages[0].layers[0]),
    "timm": lambda model: (model.stem, model.stages[0].blocks[0]),
    "torchvision": lambda model: (model.features[0], model.features[1][0]),
}
CALL = nnx.jit(lambda model, images: model(images))


def abstract(config) -> nnx.Module:
    return nnx.eval_shape(lambda: convnext.ConvNeXt(config, rngs=nnx.Rngs(0)))


def ported(tensors: dict[str, np.ndarray], name: str, config=TINY) -> nnx.Module:
    """Our module with the published tensors."""
    fmt = convnext.FORMATS[name]
    config = fmt.sizes(config)
    file = TensorFile((), {key: tensor.shape for key, tensor in tensors.items()}, tensors.__getitem__)
    module = abstract(config)
    nnx.update(module, checkpoints.port(nnx.state(module), fmt, fmt.keys(config), file, name)[0])
    module.eval()
    return module


def arrays(theirs: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}


def run(theirs: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """NHWC images or feature map to logits or feature map, NHWC."""
    with torch.inference_mode():
        out = theirs(torch.from_numpy(x).permute(0, 3, 1, 2))
    out = getattr(out, "logits", out)
    return (out if out.ndim == 2 else out.permute(0, 2, 3, 1)).numpy()


def random_images(count: int) -> np.ndarray:
    """Noise of 8 pixels a side, magnified and shifted by a colour: unlike white noise, images that differ in class."""
    generator = np.random.default_rng(0)
    coarse = 3 * generator.standard_normal((count, 28, 28, 3)) + 3 * generator.standard_normal((count, 1, 1, 3))
    return np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.float32)


@pytest.fixture(scope="module", params=ORACLES)
def pair(request):
    """Format, published implementation of ConvNeXt-T with random weights, ours with the same weights."""
    theirs = oracles.randomise(ORACLES[request.param]())
    return request.param, theirs, ported(arrays(theirs), request.param)


def test_logits_are_the_published_ones(pair):
    """At real size, ported weights give the published implementation's logits, whoever published it."""
    _, theirs, ours = pair
    images = random_images(2)
    oracles.close(CALL(ours, images), run(theirs, images), 1e-4)


def test_first_layers_are_the_published_ones(pair):
    """Stem and first block agree to float32's rounding, so that a deeper difference would be a deeper layer's."""
    name, theirs, ours = pair
    stem, block = FIRST_LAYERS[name](theirs)
    images = random_images(2)
    hidden = run(stem, images)
    oracles.close(nnx.jit(lambda model, x: model.stem_norm(model.stem(x)))(ours, images), hidden, 1e-5)
    oracles.close(CALL(ours.stages[0].blocks[0], hidden), run(block, hidden), 1e-5)


def test_norms_have_the_published_epsilon(pair):
    """Every norm's epsilon is the publisher's, the last one's too, where transformers differs from the others."""
    name, theirs, ours = pair
    published = [module.eps for module in theirs.modules() if hasattr(module, "eps")]
    found = [module.epsilon for _, module in nnx.iter_modules(ours) if isinstance(module, nnx.LayerNorm)]
    assert sorted(found) == sorted(published)
    assert ours.norm.epsilon == published[-1] == (1e-12 if name == "hugging_face" else 1e-6)


@pytest.mark.slow
def test_the_same_class_on_64_images():
    """Ported ConvNeXt-T ranks the same class first on 64 of 64 random images."""
    theirs = oracles.randomise(ORACLES["torchvision"]())
    ours, images = ported(arrays(theirs), "torchvision"), random_images(64)
    batches = np.split(images, 16)
    logits = np.concatenate([CALL(ours, batch) for batch in batches])
    expected = np.concatenate([run(theirs, batch) for batch in batches])
    assert len(set(expected.argmax(-1))) >= 8
    assert (logits.argmax(-1) == expected.argmax(-1)).sum() == 64
    oracles.close(logits, expected, 1e-4)


def test_facebook_s_names_are_those_that_timm_translates():
    """The names of the original files: timm's own translation of them gives timm's names for the same tensors."""
    theirs = timm.models.convnext.ConvNeXt(num_classes=5, depths=SMALL.depths, dims=SMALL.widths)
    expected = arrays(oracles.randomise(theirs))
    state = nnx.state(ported(expected, "timm", SMALL))
    leaves, paths = dict(nnx.to_flat_state(state)), checkpoints.flat_leaves(state)
    original = {}
    for ours, source in convnext.FORMATS["facebook"].keys(SMALL).items():
        original |= source.to_file(np.asarray(leaves[paths[ours]][...]))
    translated = timm.models.convnext.checkpoint_filter_fn(dict(original), theirs)
    assert translated.keys() == expected.keys()
    assert all(np.array_equal(translated[name], expected[name]) for name in expected)
    again = nnx.state(ported(original, "facebook", SMALL))
    jax.tree.map(np.testing.assert_array_equal, again, state)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("convnext_t", torchvision.models.convnext_tiny),
        ("convnext_s", torchvision.models.convnext_small),
        ("convnext_b", torchvision.models.convnext_base),
        ("convnext_l", torchvision.models.convnext_large),
    ],
)
def test_published_sizes(name, build):
    """Every variant has the published tensors: their number, their shapes, 28.6M to 197.8M parameters in all."""
    config = convnext.VARIANTS[name]
    with torch.device("meta"):
        published = {key: tuple(tensor.shape) for key, tensor in build().state_dict().items()}
    leaves = dict(nnx.to_flat_state(nnx.state(abstract(config), nnx.Param)))
    shapes = {".".join(map(str, path)): leaf.shape for path, leaf in leaves.items()}
    keys = convnext.FORMATS["torchvision"].keys(config)
    assert keys.keys() == shapes.keys()
    assert {source.name: source.file_shape(shapes[ours]) for ours, source in keys.items()} == published
    total = sum(leaf.size for leaf in leaves.values())
    assert total == sum(int(np.prod(shape)) for shape in published.values())
    millions = {"convnext_t": 28.6, "convnext_s": 50.2, "convnext_b": 88.6, "convnext_l": 197.8}[name]
    assert round(total / 1e6, 1) == millions


@pytest.mark.parametrize("name", convnext.FORMATS)
@pytest.mark.parametrize("config", [TINY, SMALL, HEADLESS], ids=["tiny", "small", "headless"])
def test_key_tables_cover_the_module_exactly(name, config):
    """Every leaf has one row of the table, every row a leaf, and no two rows share a tensor."""
    keys = convnext.FORMATS[name].keys(config)
    assert set(checkpoints.flat_leaves(nnx.state(abstract(config)))) == set(keys)
    assert len({source.name for source in keys.values()}) == len(keys)


def test_a_network_without_head_gives_the_same_features(random_model):
    """num_classes 0: no head, and encode and pool are those of the classifier with the same weights."""
    whole = random_model(convnext.ConvNeXt, SMALL)
    bare = abstract(HEADLESS)
    assert bare.head is None
    state = [(path, leaf) for path, leaf in nnx.to_flat_state(nnx.state(whole)) if path[0] != "head"]
    nnx.update(bare, nnx.from_flat_state(state))
    images = jnp.asarray(random_images(2)[:, :32, :32])
    pooled = nnx.jit(lambda model, x: (model.encode(x), model.pool(model.encode(x))))
    hidden, expected = pooled(whole, images)
    assert hidden.shape == (2, 1, 1, 20)
    features = pooled(bare, images)[1]
    np.testing.assert_array_equal(features, expected)
    np.testing.assert_allclose(whole.head(features), CALL(whole, images), rtol=1e-5, atol=1e-5)


def test_images_do_not_mix(random_model):
    """The logits of an image do not depend on the others of its batch."""
    model = random_model(convnext.ConvNeXt, SMALL)
    images = jnp.asarray(random_images(3)[:, :32, :32])
    logits = np.asarray(CALL(model, images))
    others = images.at[1:].set(0)
    np.testing.assert_array_equal(CALL(model, others)[0], logits[0])
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def photo() -> Image.Image:
    """451 x 300 pixels: the crop drops an odd number of them."""
    return Image.fromarray(skimage.data.chelsea())


def shown(config, name) -> np.ndarray:
    """The photo as our model sees it, NCHW."""
    spec = convnext.FORMATS[name].preprocess(config)
    pixels = (to_pixels(photo(), spec) / 255 - np.asarray(spec.mean)) / np.asarray(spec.std)
    return pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("name", ["Tiny", "Small", "Base", "Large"])
def test_preprocessing_is_torchvision_s(name):
    """A photo goes into each variant as torchvision's transform for these weights makes it."""
    transform = getattr(torchvision.models, f"ConvNeXt_{name}_Weights").IMAGENET1K_V1.transforms(antialias=True)
    found = shown(convnext.VARIANTS[f"convnext_{name[0].lower()}"], "torchvision")
    np.testing.assert_allclose(found, transform(photo()).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "small", "base", "large"])
def test_preprocessing_is_timm_s(name):
    """A photo goes into each variant as timm's transform for the original weights makes it."""
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(f"convnext_{name}.fb_in1k").to_dict())
    found = shown(convnext.VARIANTS[f"convnext_{name[0]}"], "timm")
    np.testing.assert_allclose(found, timm.data.create_transform(**config)(photo()).numpy(), atol=1e-5)


def test_preprocessing_is_the_original_one():
    """A photo goes in as the original code's transform makes it: 256 pixels, bicubic, centre 224."""
    steps = torchvision.transforms
    transform = steps.Compose(
        [
            steps.Resize(256, steps.InterpolationMode.BICUBIC),
            steps.CenterCrop(224),
            steps.ToTensor(),
            steps.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    np.testing.assert_allclose(shown(TINY, "facebook"), transform(photo()).numpy(), atol=1e-5)


def test_preprocessing_is_transformers_s():
    """A photo goes in as the image processor of facebook/convnext-tiny-224 makes it."""
    processor = transformers.ConvNextImageProcessorPil(
        size={"shortest_edge": 224}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    expected = processor(photo(), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(shown(TINY, "hugging_face"), expected, atol=1e-5)
