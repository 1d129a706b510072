"""The training script: a killed run goes on to the same weights."""

import gzip
import json

import numpy as np
import pytest

from ne_jax.models.families import convnext, resnet
from ne_jax.models.porting.tensor_files import open_tensors
from tests import in_process


@pytest.fixture(scope="module")
def script():
    with in_process.script("train_samples") as module:
        yield module


@pytest.fixture
def tiny(monkeypatch):
    """An architecture that trains in a second."""
    config = resnet.ResNetConfig(28, (1,), "basic", 10, width=4, channels=1)
    monkeypatch.setitem(resnet.VARIANTS, "tiny", config)


@pytest.fixture
def folder(tmp_path):
    """The four files in the published format, with few images."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 48), ("t10k", 500)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = rng.integers(0, 10, count).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = b"\x00\x00\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
            with gzip.open(tmp_path / f"{prefix}-{kind}-ubyte.gz", "wb") as file:
                file.write(head + array.tobytes())
    return tmp_path


def test_a_killed_run_goes_on_to_the_same_weights(script, tiny, folder, monkeypatch):
    """Parameters, BatchNorm statistics, optimizer and order of images all come back: bit-equal checkpoints."""
    monkeypatch.setattr(script, "_SAVE_EVERY", 4)
    recipe = script.Recipe("tiny", seed=1, epochs=2, learning_rate=1e-2, batch_size=8)
    whole, killed = folder / "whole", folder / "killed"
    script.train("tiny", recipe, str(folder), _made(whole))

    make_step = script.make_step

    def dying(*arguments):
        step, calls = make_step(*arguments), []

        def counted(*values):
            calls.append(1)
            if len(calls) == 7:
                raise KeyboardInterrupt
            return step(*values)

        return counted

    monkeypatch.setattr(script, "make_step", dying)
    with pytest.raises(KeyboardInterrupt):
        script.train("tiny", recipe, str(folder), _made(killed))
    assert not (killed / "tiny.safetensors").exists()
    monkeypatch.setattr(script, "make_step", make_step)
    script.train("tiny", recipe, str(folder), killed)

    first, second = (tensors(place / "tiny.safetensors") for place in (whole, killed))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name], err_msg=name)
    assert np.std(first["bn1.running_mean"]) > 0  # statistics were learned, and exported
    note = json.loads((killed / "tiny.json").read_text())
    assert [row["step"] for row in note["curve"]] == [4, 8, 12] and note["recipe"]["seed"] == 1


def test_the_stem_rate_zero_leaves_the_first_layer_as_drawn(script, tiny, folder):
    """The recorded recipe of the ViTs does what it says, and everything else moves."""
    from flax import nnx

    recipe = script.Recipe("tiny", seed=1, epochs=1, learning_rate=1e-2, batch_size=8, stem_rate=0)
    script.train("tiny", recipe, str(folder), _made(folder / "frozen"))
    trained = tensors(folder / "frozen" / "tiny.safetensors")
    drawn = resnet.ResNet(resnet.VARIANTS["tiny"], rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(trained["conv1.weight"], np.transpose(drawn.stem.kernel[...], (3, 2, 0, 1)))
    assert np.any(trained["fc.weight"] != np.transpose(drawn.head.kernel[...]))


def test_the_branch_scale_is_where_every_block_starts(script):
    """Layer scales, and nothing else, are set."""
    from flax import nnx

    config = convnext.ConvNeXtConfig(32, (1, 2), (4, 8), 10, channels=1)
    drawn, model = (convnext.ConvNeXt(config, rngs=nnx.Rngs(0)) for _ in range(2))
    script.set_branch_scale(model, 0.5)
    before = dict(nnx.to_flat_state(nnx.state(drawn)))
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        expected = np.full(leaf.shape, 0.5) if path[-1] == "gamma" else before[path][...]
        np.testing.assert_array_equal(leaf[...], expected, err_msg=str(path))


def tensors(path) -> dict[str, np.ndarray]:
    file = open_tensors(path)
    return {name: file.read(name) for name in file.shapes}


def _made(path):
    path.mkdir()
    return path
