"""PyTorch's files: the right state dict or none, named tensors of floating point, and one line for all that is something else."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import safetensors.numpy
from absl import logging

from ne_jax import UserError
from ne_jax.models.porting.tensor_files import open_tensors
from tests.oracles import torch

PLAIN = {"first.weight": torch.arange(6.0).reshape(2, 3), "first.bias": torch.ones(2)}
AVERAGED = {name: tensor + 10 for name, tensor in PLAIN.items()}


def save(tmp_path: pathlib.Path, content, name: str = "model.pth") -> pathlib.Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


def told(path: pathlib.Path, weights: str | None = None) -> str:
    """The one line of opening a file and reading all of it."""
    with pytest.raises(UserError) as caught:
        file = open_tensors(path, weights)
        for name in file.shapes:
            file.read(name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"checkpoint {path}: ")
    return str(caught.value).removeprefix(f"checkpoint {path}: ")


@pytest.mark.parametrize(
    ("plain", "averaged"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("student", "teacher"), ("params", "params_ema")],
)
def test_of_several_state_dicts_none_is_taken_without_a_word(tmp_path, plain, averaged):
    """Plain and averaged weights, as timm and others store them: refused with the way to choose, and each can be chosen."""
    path = save(
        tmp_path, {plain: PLAIN, averaged: AVERAGED, "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    )
    choice = f'choose by weights = "{plain}" or "{averaged}" (models.NAME.weights in a config)'
    assert told(path) == f"holds 2 state dicts; {choice}"
    assert told(path, "stats_dict") == f"holds no state dict stats_dict; {choice}"
    for name, expected in ((plain, PLAIN), (averaged, AVERAGED)):
        np.testing.assert_array_equal(open_tensors(path, name).read("first.weight"), expected["first.weight"].numpy())


def test_one_inside_another_is_found_and_named(tmp_path):
    """However deep it lies; a choice names its place."""
    path = save(tmp_path, {"model": {"state_dict": PLAIN}, "epoch": 1})
    assert set(open_tensors(path).shapes) == set(PLAIN)
    path = save(tmp_path, {"nets": {"a": {"model": PLAIN}, "b": {"model": AVERAGED}}})
    assert told(path).startswith('holds 2 state dicts; choose by weights = "nets.a.model" or "nets.b.model"')
    assert float(open_tensors(path, "nets.b.model").read("first.bias")[0]) == 11


def test_what_else_a_file_holds_is_told_when_one_is_taken(tmp_path, monkeypatch):
    """A state dict of the usual name beside mappings of unusual ones: which was taken, of which."""
    said = []
    monkeypatch.setattr(logging, "warning", lambda words, *values: said.append(words % values))
    path = save(tmp_path, {"state_dict": PLAIN, "centres": {"x": torch.ones(3)}})
    assert set(open_tensors(path).shapes) == set(PLAIN)
    assert said == [f"checkpoint {path}: state_dict is taken, of state_dict, centres"]
    path = save(tmp_path, {"centres": {"x": torch.ones(3)}})
    assert told(path) == (
        'no state dict, a mapping of names to tensors; choose by weights = "centres" (models.NAME.weights in a config)'
    )


def test_a_choice_where_there_is_none_is_told(tmp_path):
    """Weights asked for by name are found there, or it is said that there is no such choice."""
    assert told(save(tmp_path, PLAIN), "ema") == "holds one state dict and no ema; leave weights out"
    safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    assert told(tmp_path / "model.safetensors", "ema") == "holds one set of weights; leave weights out"


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "_orig_mod.module.", "model._orig_mod.", "module.model."]
)
def test_what_wraps_every_name_is_taken_off(tmp_path, prefix):
    """Data-parallel training, torch.compile and Lightning, in any order, in PyTorch's files and in safetensors."""
    wrapped = {prefix + name: tensor for name, tensor in PLAIN.items()}
    for path in (save(tmp_path, {"state_dict": wrapped}, "model.ckpt"), save(tmp_path, wrapped)):
        assert set(open_tensors(path).shapes) == set(PLAIN)
    numbers = {name: tensor.numpy() for name, tensor in wrapped.items()}
    safetensors.numpy.save_file(numbers, tmp_path / "model.safetensors")
    file = open_tensors(tmp_path / "model.safetensors")
    assert set(file.shapes) == set(PLAIN)
    np.testing.assert_array_equal(file.read("first.weight"), PLAIN["first.weight"].numpy())


def test_what_wraps_some_names_is_part_of_them(tmp_path):
    """Two networks in one file, or a part that is called so: nothing is taken off, so nothing is mistaken for something else."""
    names = {"model.a": torch.ones(1), "ema_model.a": torch.zeros(1)}
    assert set(open_tensors(save(tmp_path, names)).shapes) == set(names)
    both = {"module.a": torch.ones(1), "a": torch.zeros(1)}
    assert float(open_tensors(save(tmp_path, both)).read("a")[0]) == 0


def test_the_count_of_averaged_models_is_no_weight(tmp_path):
    """torch.optim.swa_utils.AveragedModel stores how many it averaged beside them."""
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(3, 2))
    assert set(open_tensors(save(tmp_path, averaged.state_dict())).shapes) == {"weight", "bias"}


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)


STRANGE = {
    "integers": (lambda: torch.ones(2, 3, dtype=torch.int32), "first.weight is of int32, and weights are floating point"),
    "bytes": (lambda: torch.ones(2, 3, dtype=torch.int8), "first.weight is of int8, and weights are floating point"),
    "truth values": (lambda: torch.ones(2, 3, dtype=torch.bool), "first.weight is of bool, and weights are floating point"),
    "complex": (lambda: torch.ones(2, 3, dtype=torch.complex64), "first.weight is of complex64, and weights are"),
    "8 bits": (lambda: torch.ones(2, 3).to(torch.float8_e4m3fn), "first.weight is of float8_e4m3fn, and weights are"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "first.weight is sparse (torch.sparse_coo); export it dense"),
    "compressed": (lambda: torch.eye(3).to_sparse_csr(), "first.weight is sparse (torch.sparse_csr); export it dense"),
    "without numbers": (lambda: torch.ones(2, 3, device="meta"), "first.weight has no numbers (it is on the device meta)"),
    "quantised": (quantised, "first.weight is quantised; export its dequantised numbers"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # torch's own, of kinds of tensors that it will drop
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_weight_is_refused_by_name(tmp_path, kind):
    """Integers, truth values, complex, sparse, quantised and empty tensors: one line each, with what it is."""
    make, expected = STRANGE[kind]
    assert told(save(tmp_path, PLAIN | {"first.weight": make()})).startswith(expected)


def test_names_that_are_no_names_are_told(tmp_path):
    """Tensors by number are no state dict of a network."""
    path = save(tmp_path, {0: torch.ones(2), 1: torch.ones(2)})
    assert told(path) == "0 is no name of a tensor; export a state dict of named tensors"


def test_buffers_may_be_whole_numbers(tmp_path):
    """Who says that no weight is meant gets a table of places as it is, from every kind of file."""
    table = np.array([[0, 1], [1, 0]])
    path = save(tmp_path, {"table": torch.from_numpy(table)})
    safetensors.numpy.save_file({"table": table}, tmp_path / "model.safetensors")
    np.savez(tmp_path / "model.npz", table=table)
    for each in (path, tmp_path / "model.safetensors", tmp_path / "model.npz"):
        found = open_tensors(each).read("table", integers=True)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, table)
        assert "table is of " in told(each)
