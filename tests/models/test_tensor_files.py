"""Checkpoints opened: every kind gives the same tensors, and a bad file is told in one line, without running what is in it."""

from __future__ import annotations

import hashlib
import importlib
import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ne_jax import UserError
from ne_jax.files import sha256
from ne_jax.models.porting.tensor_files import beside, open_tensors
from tests.oracles import torch

TENSORS = {
    "first.weight": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32),
    "first.bias": np.random.default_rng(1).standard_normal(3).astype(np.float32),
    "last.weight": np.random.default_rng(2).standard_normal((2, 3)).astype(np.float32),
}


def told(path, *parts: str) -> str:
    """The error of opening `path` and reading everything: one line that names the file, with `parts` in it."""
    with pytest.raises(UserError) as caught:
        file = open_tensors(path)
        for name in file.shapes:
            file.read(name)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("checkpoint ") and str(path) in message
    for part in parts:
        assert part in message, message
    return message


def write_safetensors(folder: pathlib.Path) -> pathlib.Path:
    safetensors.numpy.save_file(TENSORS, folder / "model.safetensors")
    return folder / "model.safetensors"


def write_sharded(folder: pathlib.Path) -> pathlib.Path:
    """Two shards with their index, as transformers writes them."""
    places = {}
    for number, names in enumerate((["first.weight", "first.bias"], ["last.weight"]), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        safetensors.numpy.save_file({name: TENSORS[name] for name in names}, folder / shard)
        places |= dict.fromkeys(names, shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 84}, "weight_map": places}))
    return index


def write_torch(folder: pathlib.Path, wrap=lambda tensors: tensors, name: str = "model.pth", **how) -> pathlib.Path:
    torch.save(wrap({name: torch.from_numpy(tensor) for name, tensor in TENSORS.items()}), folder / name, **how)
    return folder / name


def write_npz(folder: pathlib.Path) -> pathlib.Path:
    np.savez(folder / "model.npz", **TENSORS)
    return folder / "model.npz"


def write_onnx(folder: pathlib.Path, external: bool = False) -> pathlib.Path:
    """A graph as torch.onnx.export leaves it: the linear layer's weight renamed and transposed."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    renamed = {
        "first.weight": ("onnx::MatMul_7", TENSORS["first.weight"].T),
        "first.bias": ("first.bias", TENSORS["first.bias"]),
        "last.weight": ("last.weight", TENSORS["last.weight"]),
    }
    initializers = [numpy_helper.from_array(np.ascontiguousarray(t), name) for name, t in renamed.values()]
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"], name="/first/MatMul"),
        helper.make_node("Add", ["y", "first.bias"], ["z"], name="/first/Add"),
        helper.make_node("Gemm", ["z", "last.weight"], ["out"], name="/last/Gemm", transB=1),
    ]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "out")]
    model = helper.make_model(helper.make_graph(nodes, "graph", sides[:1], sides[1:], initializers))
    stored = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0} if external else {}
    onnx.save_model(model, str(folder / "model.onnx"), **stored)
    return folder / "model.onnx"


WRITERS = {
    "safetensors": write_safetensors,
    "sharded": write_sharded,
    "torch": write_torch,
    "old torch": lambda folder: write_torch(folder, _use_new_zipfile_serialization=False),
    "npz": write_npz,
    "onnx": write_onnx,
    "onnx with its weights apart": lambda folder: write_onnx(folder, external=True),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_gives_the_same_tensors(tmp_path, kind):
    """Names, shapes and values do not depend on the kind of file."""
    file = open_tensors(WRITERS[kind](tmp_path))
    assert dict(file.shapes) == {name: tensor.shape for name, tensor in TENSORS.items()}
    for name, tensor in TENSORS.items():
        assert file.read(name).dtype == np.float32
        np.testing.assert_array_equal(file.read(name), tensor)


@pytest.mark.parametrize("kind", ["safetensors", "sharded", "pytorch_model.bin", "another name"])
def test_a_folder_is_opened_by_the_weights_in_it(tmp_path, kind):
    """A Hugging Face folder is given as it is; a single safetensors file of any name will do."""
    if kind == "pytorch_model.bin":
        write_torch(tmp_path, name=kind)
    elif kind == "another name":
        write_safetensors(tmp_path).rename(tmp_path / "weights.safetensors")
    else:
        WRITERS[kind](tmp_path)
    assert set(open_tensors(tmp_path).shapes) == set(TENSORS)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"state_dict": tensors, "epoch": 3, "arch": "resnet50"},
        lambda tensors: {"model": tensors},
        lambda tensors: {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}},
        lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
    ],
    ids=["state_dict", "model", "state_dict and module.", "module."],
)
def test_what_training_scripts_wrap_a_state_dict_in_is_taken_off(tmp_path, wrap):
    """{"state_dict": ...}, {"model": ...} and DataParallel's "module." are no part of the names."""
    assert dict(open_tensors(write_torch(tmp_path, wrap)).shapes) == {n: t.shape for n, t in TENSORS.items()}


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_precisions_are_read_as_float32(tmp_path, dtype):
    """Half, bfloat16 (two nameless bytes in NumPy's files) and double: the values that the file holds, in float32."""
    stored = {name: tensor.astype(dtype) for name, tensor in TENSORS.items()}
    np.savez(tmp_path / "model.npz", **stored)
    safetensors.numpy.save_file(stored, tmp_path / "model.safetensors")
    for path in (tmp_path / "model.npz", tmp_path / "model.safetensors"):
        found = open_tensors(path).read("first.weight")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, stored["first.weight"].astype(np.float32))


@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 0.9, -1])
@pytest.mark.parametrize("kind", ["safetensors", "sharded", "torch", "old torch", "npz", "onnx"])
def test_truncated_files_are_told(tmp_path, kind, kept):
    """A file cut anywhere is refused, with its path and the way out."""
    path = cut = WRITERS[kind](tmp_path)
    if kind == "sharded":
        cut = tmp_path / "model-00002-of-00002.safetensors"
    whole = cut.read_bytes()
    cut.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    with pytest.raises(
        UserError, match=rf"^checkpoint {tmp_path}/model.*; (fetch it again|export .*|fetch it again, or .*)$"
    ) as caught:
        file = open_tensors(path)
        for name in file.shapes:
            file.read(name)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # torch, of a damaged header
@pytest.mark.parametrize("kind", ["safetensors", "torch", "old torch", "npz", "compressed npz", "onnx"])
def test_damaged_files_never_end_in_another_package_s_error(tmp_path, kind):
    """Cut anywhere, or with any byte changed, a file gives tensors or one line that names it: never a foreign traceback."""
    if kind == "compressed npz":
        np.savez_compressed(tmp_path / "model.npz", **TENSORS)
    path = tmp_path / "model.npz" if kind == "compressed npz" else WRITERS[kind](tmp_path)
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    damaged = [whole[:length] for length in range(0, len(whole), len(whole) // 25)]
    for place, value in zip(generator.integers(len(whole), size=60), generator.integers(256, size=60), strict=True):
        damaged.append(whole[:place] + bytes([value]) + whole[place + 1 :])
    refused = 0
    for bytes_ in damaged:
        path.write_bytes(bytes_)
        try:
            file = open_tensors(path)
            for name in file.shapes:
                file.read(name)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
    assert refused >= 25


class _Bomb:
    """Unpickled, it creates a file."""

    def __init__(self, place: pathlib.Path):
        self.place = place

    def __reduce__(self):
        return (pathlib.Path.touch, (self.place,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path, zipped):
    """A .pth that would create a file when unpickled does not: it is refused in one line that says why and what to do."""
    place = tmp_path / "created"
    path = write_torch(tmp_path, lambda tensors: tensors | {"x": _Bomb(place)}, _use_new_zipfile_serialization=zipped)
    told(path, "holds more than tensors", "was not read", "export its state dict as safetensors")
    assert not place.exists()
    torch.load(path, weights_only=False)
    assert place.exists()  # it would have


def test_code_in_an_npz_is_not_run(tmp_path):
    """An npz with an array of Python objects is refused, and the objects stay pickled."""
    place = tmp_path / "created"
    np.savez(tmp_path / "model.npz", weight=np.ones(3), x=np.array([_Bomb(place)], object))
    told(tmp_path / "model.npz", "x.npy holds pickled objects")
    assert not place.exists()


@pytest.mark.parametrize("value", [{"a": 1}, [1, 2], {"a": {"b": torch.ones(2)}}], ids=["numbers", "list", "nested"])
def test_a_pickle_without_a_state_dict_is_told(tmp_path, value):
    """Something harmless that is no mapping of names to tensors is no checkpoint."""
    torch.save(value, tmp_path / "model.pt")
    told(tmp_path / "model.pt", "no state dict")


def test_missing_shards_are_told(tmp_path):
    """An index whose shards are not all there names them."""
    index = write_sharded(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    told(index, "1 shards are missing: model-00001-of-00002.safetensors; fetch them")


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors"])
def test_shards_outside_the_folder_are_refused(tmp_path, shard):
    """An index cannot make the reader open a file elsewhere."""
    index = write_sharded(tmp_path)
    note = json.loads(index.read_text())
    note["weight_map"]["last.weight"] = shard
    index.write_text(json.dumps(note))
    told(index, f"names a shard outside its folder: {shard}")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {}}']
)
def test_a_broken_index_is_told(tmp_path, text):
    """An index that is cut, or is no index, is refused."""
    (tmp_path / "model.safetensors.index.json").write_text(text)
    told(tmp_path / "model.safetensors.index.json", "fetch it again")


def test_an_index_that_does_not_match_its_shards_is_told(tmp_path):
    """A tensor that is not where the index says is named."""
    index = write_sharded(tmp_path)
    note = json.loads(index.read_text())
    note["weight_map"]["last.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(note))
    told(index, "last.weight is not in model-00001-of-00002.safetensors")


def test_what_is_no_checkpoint_is_told(tmp_path):
    """Nothing, a folder with nothing, an unknown ending and foreign bytes: the path and the way out."""
    told(tmp_path / "none.safetensors", "no such file")
    told(tmp_path, "the folder has none of model.safetensors.index.json, model.safetensors", "name the file")
    (tmp_path / "model.h5").write_bytes(b"x" * 100)
    told(tmp_path / "model.h5", 'ending ".h5" is unknown; give .safetensors, .pth, .npz or .onnx')
    for ending, part in {"safetensors": "not a whole", "pth": "", "npz": "not a whole", "onnx": "not a whole"}.items():
        (tmp_path / f"foreign.{ending}").write_bytes(b"<html>404 not found</html>" * 9)
        told(tmp_path / f"foreign.{ending}", part)


def test_an_onnx_graph_without_its_weights_file_is_told(tmp_path):
    """A graph whose external data was not fetched names what is missing."""
    path = write_onnx(tmp_path, external=True)
    (tmp_path / "weights.bin").unlink()
    told(path, "weights.bin", "fetch it again")


def test_a_reader_that_is_not_installed_is_told(tmp_path, monkeypatch):
    """Without torch a .pth file is refused with the command that installs it."""

    def absent(name):
        raise ModuleNotFoundError(name)

    path = write_torch(tmp_path)
    monkeypatch.setattr(importlib, "import_module", absent)
    told(path, "reading it needs torch; pip install torch")


def test_files_beside_the_weights_are_found(tmp_path):
    """The publishers' JSON files are read beside a file and in a folder; a broken one is told."""
    path = write_safetensors(tmp_path)
    assert beside(path) == {}
    (tmp_path / "config.json").write_text('{"architecture": "x"}')
    assert beside(path) == beside(tmp_path) == {"config.json": {"architecture": "x"}}
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match=r"preprocessor_config\.json: not a whole JSON file .*; fetch it again"):
        beside(path)


def test_hashes_are_of_every_byte(tmp_path):
    """SHA-256 of one file; of several: any changed byte in any of them changes it."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    whole = open_tensors(write_safetensors(tmp_path))
    assert whole.sha256() == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    sharded = open_tensors(write_sharded(tmp_path))
    before = sharded.sha256()
    last = tmp_path / "model-00002-of-00002.safetensors"
    last.write_bytes(last.read_bytes()[:-1] + b"\x00")
    assert len(sharded.files) == 3 and sharded.sha256() != before
    graph = open_tensors(write_onnx(tmp_path, external=True))
    before = graph.sha256()
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[:-1] + b"\x00")
    assert len(graph.files) == 2 and graph.sha256() != before
