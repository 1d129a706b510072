"""Networks of other frameworks through `load_model`: the same functions as any other model."""

import numpy as np
import pytest
import safetensors.torch
import torch

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


class Places(torch.nn.Module):
    """A network whose parts all lie in one called `model`, with a table of whole numbers that it looks places up in."""

    def __init__(self):
        super().__init__()
        self.model = Stem()
        self.model.register_buffer("table", torch.arange(4))

    def forward(self, images):
        return self.model(images)


def places() -> torch.nn.Module:
    return Places()


def test_a_name_that_wraps_others_may_be_the_network_s_own(tmp_path, pixels):  # noqa: F811
    """A file with and without "model." in front of all names fills a network that has it; whole numbers stay what they are."""
    module, spec = randomise(Places(), 4), "torch:tests.models.test_torch_spec:places"
    truth = module(normalised(pixels)).detach().numpy()
    state = module.state_dict()
    weight = next(name for name in state if name.endswith(".weight"))
    for names in (state, {name.removeprefix("model."): tensor for name, tensor in state.items()}):
        safetensors.torch.save_file(names, tmp_path / "places.safetensors")
        model = load_model(spec, tmp_path / "places.safetensors", preprocess=RULES)
        np.testing.assert_allclose(model.apply(pixels), truth, atol=1e-4 * truth.std())
    for name, kind, part in (
        ("model.table", torch.float32, "1 no whole numbers: table"),
        (weight, torch.int32, f"{weight.removeprefix('model.')} is of I32, and weights are floating point"),
    ):
        safetensors.torch.save_file(state | {name: state[name].to(kind)}, tmp_path / "places.safetensors")
        with pytest.raises(UserError, match=part):
            load_model(spec, tmp_path / "places.safetensors", preprocess=RULES)


def test_one_of_several_state_dicts_is_chosen_by_a_config(stem, tmp_path, pixels):  # noqa: F811
    """models.NAME.weights; without it the file is refused, and what has but one set of weights, or no image_size, says so."""
    from ne_jax.config.schema import Config
    from ne_jax.stages.job import load_named

    module, rules = stem[0], {"size": 32, "mean": list(RULES.mean), "std": list(RULES.std)}
    averaged = {name: tensor * 2 for name, tensor in module.state_dict().items()}
    torch.save({"state_dict": module.state_dict(), "state_dict_ema": averaged}, tmp_path / "both.pth")
    entry = {"architecture": NAME, "checkpoint": str(tmp_path / "both.pth"), "preprocess": rules}
    kernels = [
        load_named(Config(models={"mine": entry | {"weights": name}}), "mine").first_layer.kernel
        for name in ("state_dict", "state_dict_ema")
    ]
    np.testing.assert_allclose(kernels[1], 2 * kernels[0])
    with pytest.raises(UserError, match="holds 2 state dicts; choose by weights = "):
        load_named(Config(models={"mine": entry}), "mine")
    with pytest.raises(UserError, match="a graph holds one set of weights; leave weights out"):
        load_model("onnx:", stem[2], preprocess=RULES, weights="ema")
    with pytest.raises(UserError, match="image_size is for networks of this package; give preprocess with its size"):
        load_model("onnx:", stem[2], preprocess=RULES, image_size=64)
