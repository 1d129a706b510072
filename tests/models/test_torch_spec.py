"""Networks of other frameworks through `load_model`: the same functions as any other model."""

import numpy as np
import pytest
import safetensors.torch

from ne_jax import load_model
from ne_jax.errors import UserError
from ne_jax.files import sha256
from ne_jax.measure.answers import answer
from ne_jax.models.loading import from_torch, save_model
from tests.models.test_adapted_model import RULES, Stem, export, normalised, pixels, randomise  # noqa: F401 pixels is a fixture

NAME = "torch:tests.models.test_adapted_model:Stem"


@pytest.fixture
def stem(tmp_path):
    """A small network, its weights as safetensors, and as a graph."""
    module = randomise(Stem(), 4)
    safetensors.torch.save_file(module.state_dict(), tmp_path / "stem.safetensors")
    export(module, tmp_path / "stem.onnx")
    return module, tmp_path / "stem.safetensors", tmp_path / "stem.onnx"


def test_all_ways_give_one_model(stem, pixels):  # noqa: F811
    """torch: by name, torch by object, onnx: as checkpoint and in the name: one network, one first layer, equal logits."""
    module, weights, graph = stem
    truth = module(normalised(pixels)).detach().numpy()
    models = [
        load_model(NAME, weights, preprocess=RULES, label="one"),
        from_torch(module, preprocess=RULES),
        load_model("onnx:", graph, preprocess=RULES),
        load_model(f"onnx:{graph}", preprocess=RULES),
    ]
    for model in models:
        np.testing.assert_allclose(model.apply(pixels), truth, atol=1e-4 * truth.std())
        np.testing.assert_allclose(model.first_layer.kernel, models[0].first_layer.kernel, atol=1e-6)
        assert (model.num_classes, model.preprocess) == (truth.shape[1], RULES)
        assert model.features(pixels).shape[0] == len(pixels)
        assert np.array_equal(answer(model, np.asarray(pixels)).said, truth.argmax(-1))
    assert models[0].name == "one" and models[0].sha256 == sha256(weights) and models[2].sha256 == sha256(graph)


def test_what_only_flax_networks_have_is_told(stem, pixels, tmp_path):  # noqa: F811
    """Hidden states and orbax folders: one line each."""
    model = load_model("onnx:", stem[2], preprocess=RULES)
    with pytest.raises(UserError, match="no Flax network"):
        model.hidden(pixels)
    with pytest.raises(UserError, match="its own file is its checkpoint"):
        save_model(model, tmp_path / "out")
    with pytest.raises(UserError, match="onnx: needs a graph"):
        load_model("onnx:")


def test_a_config_can_name_them(stem, tmp_path):
    """What `load_model` takes, a config can say: architecture, checkpoint and preprocessing; mistakes are one line."""
    from ne_jax.config import checked, default
    from ne_jax.stages.job import load_named

    rules = {"size": 32, "mean": list(RULES.mean), "std": list(RULES.std)}
    entries = {
        "mine": {"architecture": NAME, "checkpoint": str(stem[1]), "preprocess": rules},
        "graph": {"architecture": "onnx:", "checkpoint": str(stem[2]), "preprocess": rules},
        "typo": {"architecture": NAME, "checkpoin": "x"},
        "empty": {"checkpoint": "x"},
        "rules": {"architecture": NAME, "preprocess": {"size": 32, "mean": [0.5], "sdt": [1.0]}},
        "choice": {"architecture": NAME, "preprocess": rules | {"resize": "stretch"}},
    }

    def load(name):
        config = default()
        config.models = {name: entries[name]}
        return load_named(checked(config), name)

    for name in ("mine", "graph"):
        model = load(name)
        assert (model.name, model.preprocess) == (name, RULES)
    told = {
        "typo": "models.typo.checkpoin.*did you mean models.typo.checkpoint",
        "empty": "models.empty.architecture is missing",
        "rules": "preprocess: sdt is unknown; its fields are",
        "choice": "preprocess: resize is stretch; choose from squash",
    }
    for name, part in told.items():
        with pytest.raises(UserError, match=part) as caught:
            load(name)
        assert "\n" not in str(caught.value)
