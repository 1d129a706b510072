"""Strict porting and its inverse, on small modules."""

from __future__ import annotations

import functools

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from ne_jax import UserError
from ne_jax.models.families import resnet, vit, vit_formats
from ne_jax.models.porting.checkpoints import CONV, LINEAR, Format, Source, export, port
from ne_jax.models.porting.tensor_files import TensorFile, open_tensors

MODELS = {
    "vit": (vit.ViT, vit.ViTConfig(8, 4, 8, 2, 2, 12, 5), vit_formats.timm_keys),
    "resnet, bottleneck": (
        resnet.ResNet,
        resnet.ResNetConfig(32, (2, 1), "bottleneck", 5, width=4),
        resnet.torchvision_keys,
    ),
    "resnet, basic": (
        resnet.ResNet,
        resnet.ResNetConfig(32, (1, 2), "basic", 5, width=4, channels=1),
        resnet.torchvision_keys,
    ),
}


@pytest.fixture(params=MODELS)
def model(request, random_model):
    """A small model of each kind, every leaf random (BatchNorm's mean and var too), with its key table."""
    build, config, keys = MODELS[request.param]
    return random_model(build, config), keys(config)


@pytest.fixture
def abstract():
    """abstract(model): the state of the same module, with shapes and dtypes but no numbers."""
    return lambda model: nnx.state(nnx.eval_shape(lambda: model))


# Nothing in a small module's file is left out but PyTorch's bookkeeping.
PLAIN = Format(dict, lambda _: None)


def ported(state, keys, tensors, label):
    """The state filled from tensors in memory, or from an opened file."""
    if isinstance(tensors, dict):
        tensors = TensorFile((), {name: tensor.shape for name, tensor in tensors.items()}, tensors.__getitem__)
    return port(state, PLAIN, keys, tensors, label)[0]


def leaves(state) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}


def test_export_then_port_gives_every_leaf_back(model, abstract, tmp_path):
    """A model that is exported, read and ported is the same model, bit for bit, in every leaf."""
    module, keys = model
    path = tmp_path / "model.safetensors"
    export(nnx.state(module), keys, path, {"origin": "test"})
    state, fitted = port(abstract(module), PLAIN, keys, open_tensors(path), "the copy")
    expected, found = leaves(nnx.state(module)), leaves(state)
    assert fitted == []
    assert set(found) == set(expected) == set(keys)
    for name, leaf in expected.items():
        assert found[name].dtype == leaf.dtype
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)
        assert len(np.unique(leaf)) == leaf.size  # so no leaf could stand for another, nor for itself transposed
    assert list(tmp_path.iterdir()) == [path]  # no partial file stays behind


def test_the_ported_state_is_the_model(random_model, abstract, tmp_path):
    """Merged into an abstract module the ported state gives the very logits of the exported one."""
    build, config, table = MODELS["resnet, bottleneck"]
    module = random_model(build, config)
    export(nnx.state(module), table(config), tmp_path / "model.safetensors")
    empty = nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(1)))
    file = open_tensors(tmp_path / "model.safetensors")
    nnx.update(empty, ported(nnx.state(empty), table(config), file, "the copy"))
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    module.eval()
    empty.eval()
    np.testing.assert_array_equal(empty(jax.numpy.asarray(images)), module(jax.numpy.asarray(images)))


def test_files_keep_the_published_layout(random_model, tmp_path):
    """Kernels are stored as PyTorch has them, OIHW and (out, in); everything else as it is."""
    build, config, table = MODELS["vit"]
    module = random_model(build, config)
    export(nnx.state(module), table(config), tmp_path / "model.safetensors", {"origin": "test"})
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    kernel = np.asarray(module.stem.kernel[...])
    assert tensors["patch_embed.proj.weight"].shape == (8, 3, 4, 4)
    assert tensors["patch_embed.proj.weight"][5, 2, 1, 3] == kernel[1, 3, 2, 5]
    assert tensors["blocks.1.mlp.fc1.weight"].shape == (12, 8)
    assert tensors["blocks.1.mlp.fc1.weight"][7, 2] == np.asarray(module.blocks[1].fc1.kernel[...])[2, 7]
    np.testing.assert_array_equal(tensors["pos_embed"], module.pos_embed[...])
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"origin": "test"}


@pytest.mark.parametrize(("permute", "shape"), [(CONV, (7, 5, 2, 3)), (LINEAR, (4, 6)), (None, (3, 2))])
def test_sources_invert_themselves(permute, shape):
    """to_leaf and to_file are each other's inverse."""
    tensor = np.arange(np.prod(shape)).reshape(shape)
    source = Source("name", permute)
    expected = {CONV: (2, 3, 5, 7), LINEAR: (6, 4), None: (3, 2)}[permute]
    leaf = source.to_leaf([tensor], expected)
    assert leaf.shape == expected and source.file_shape(expected) == shape
    assert source.to_file(leaf).keys() == {"name"}
    np.testing.assert_array_equal(source.to_file(leaf)["name"], tensor)


@pytest.mark.parametrize(
    ("source", "shape"),
    [(Source(("q", "k", "v"), LINEAR), (4, 6)), (Source(("q", "k", "v"), shape=(6, 2, 2)), (6, 2, 2))],
)
def test_sources_of_several_tensors_invert_themselves(source, shape):
    """Three tensors side by side in one leaf, turned or with heads apart, come back as they were."""
    tensors = [np.arange(24).reshape(shape) + 100 * index for index in range(3)]
    leaf = source.to_leaf(tensors, (6, 12))
    assert source.file_shape((6, 12)) == shape and leaf.shape == (6, 12)
    assert [leaf[0, 0], leaf[0, 4], leaf[0, 8]] == [0, 100, 200]
    found = source.to_file(leaf)
    assert list(found) == ["q", "k", "v"]
    for tensor, back in zip(tensors, found.values(), strict=True):
        np.testing.assert_array_equal(back, tensor)


def tensors_of(module, keys) -> dict[str, np.ndarray]:
    state = leaves(nnx.state(module))
    files = (source.to_file(state[ours]) for ours, source in keys.items())
    return functools.reduce(dict.__or__, files)


def test_every_fault_is_named_in_one_error(random_model, abstract):
    """Missing, surplus, misshapen and non-finite tensors are told together, each by name, with the checkpoint's label; a
    tensor that is its own transpose in shape is told so."""
    build, config, table = MODELS["vit"]
    module = random_model(build, config)
    tensors = tensors_of(module, table(config))
    del tensors["blocks.0.norm1.weight"]
    tensors["head_dist.weight"] = np.ones((5, 8), np.float32)
    tensors["blocks.1.mlp.fc1.weight"] = tensors["blocks.1.mlp.fc1.weight"].T
    tensors["norm.bias"] = np.full(8, -np.inf, np.float32)
    tensors["head.bias"] = np.array([1, 2, np.nan, 4, 5], np.float32)
    with pytest.raises(UserError) as caught:
        ported(abstract(module), table(config), tensors, "vit_small from here.safetensors")
    assert str(caught.value) == (
        "vit_small from here.safetensors does not fit: 1 missing: blocks.0.norm1.weight; 1 surplus: head_dist.weight; "
        "1 misshapen: blocks.1.mlp.fc1.weight is (8, 12), not (12, 8), which is its transpose; "
        "2 NaN or infinite: head.bias, norm.bias"
    )


@pytest.mark.parametrize("fault", ["missing", "surplus", "misshapen", "NaN or infinite"])
def test_each_fault_alone_stops_the_port(random_model, abstract, fault):
    """One fault of any kind is enough: nothing is ported in part."""
    build, config, table = MODELS["resnet, basic"]
    module = random_model(build, config)
    tensors = tensors_of(module, table(config))
    name = "layer2.0.bn1.running_var"
    if fault == "missing":
        del tensors[name]
    elif fault == "surplus":
        name = "layer2.0.bn3.running_var"
        tensors[name] = np.ones(8, np.float32)
    elif fault == "misshapen":
        tensors[name] = np.ones((8, 1), np.float32)
    else:
        tensors[name] = np.full(8, np.nan, np.float32)
    with pytest.raises(UserError, match=f"the file does not fit: 1 {fault}: {name}"):
        ported(abstract(module), table(config), tensors, "the file")


def test_a_wholly_foreign_file_is_told_in_short(random_model, abstract):
    """Of many faults the first names and their number are given, not hundreds of lines."""
    build, config, table = MODELS["vit"]
    module = random_model(build, config)
    with pytest.raises(UserError, match=r"32 missing: .* and 28 more; 1 surplus: conv1\.weight$") as caught:
        ported(abstract(module), table(config), {"conv1.weight": np.ones(3, np.float32)}, "resnet")
    assert len(str(caught.value)) < 400


def test_batch_norm_counters_are_ignored(random_model, abstract):
    """PyTorch's num_batches_tracked is no part of the function: such tensors are neither wanted nor surplus."""
    build, config, table = MODELS["resnet, basic"]
    module = random_model(build, config)
    tensors = tensors_of(module, table(config)) | {"bn1.num_batches_tracked": np.array(7, np.int64)}
    found = leaves(ported(abstract(module), table(config), tensors, "the file"))
    np.testing.assert_array_equal(found["stem_norm.mean"], tensors["bn1.running_mean"])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_precisions_become_the_module_s(random_model, abstract, dtype, tmp_path):
    """A file in half, bfloat16 or double precision fills float32 leaves with the values that it holds."""
    build, config, table = MODELS["vit"]
    module = random_model(build, config)
    stored = {
        name: np.ascontiguousarray(tensor.astype(dtype)) for name, tensor in tensors_of(module, table(config)).items()
    }
    safetensors.numpy.save_file(stored, tmp_path / "model.safetensors")
    found = leaves(ported(abstract(module), table(config), open_tensors(tmp_path / "model.safetensors"), "the file"))
    assert {leaf.dtype for leaf in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["norm.scale"], stored["norm.weight"].astype(np.float32))


def test_a_key_table_that_forgets_a_leaf_is_our_bug(random_model, abstract):
    """A table that does not cover the module exactly is no user's fault: it fails as an assertion, naming the leaf."""
    build, config, table = MODELS["vit"]
    module = random_model(build, config)
    keys = table(config)
    forgotten = keys.pop("blocks.1.attn.qkv.bias")
    with pytest.raises(AssertionError, match=r"blocks\.1\.attn\.qkv\.bias"):
        ported(abstract(module), keys, {forgotten.name: np.ones(24, np.float32)}, "the file")
