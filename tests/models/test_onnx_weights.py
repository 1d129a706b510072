"""Graphs whose weights lie in other files: only those beside them are read, and whatever is wrong is one line."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ne_jax.data.preprocess import Preprocess
from ne_jax.errors import UserError
from ne_jax.models.foreign.from_onnx import from_onnx
from ne_jax.models.porting.tensor_files import open_tensors

RULES = Preprocess(8, (0.5,) * 3, (0.25,) * 3)
WEIGHT = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)


def read_tensors(path: pathlib.Path) -> np.ndarray:
    """A checkpoint's way."""
    file = open_tensors(path)
    return [file.read(name) for name in file.shapes][0]


def read_graph(path: pathlib.Path) -> np.ndarray:
    """A reader's way."""
    return from_onnx(path, preprocess=RULES).first_layer_kernel.transpose(3, 2, 0, 1)


WAYS = {"checkpoint": read_tensors, "reader": read_graph}


def write(folder: pathlib.Path, **place: str) -> pathlib.Path:
    """A convolution whose weight lies in a file; `place`: what the graph says of it instead of the truth; an empty text: nothing."""
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(WEIGHT.tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=WEIGHT.shape, data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": "weights.bin", "offset": "0", "length": str(WEIGHT.nbytes)} | place).items():
        if value:
            tensor.external_data.add(key=key, value=value)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 8, 8))
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="/first/Conv")]
    made = helper.make_graph(nodes, "g", [image], [onnx.ValueInfoProto(name="y")], [tensor])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def told(read: Callable, path: pathlib.Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("way", WAYS)
def test_weights_beside_the_graph_are_read(tmp_path, way):
    """With and without the length, which may be left out."""
    for length in (str(WEIGHT.nbytes), ""):
        np.testing.assert_array_equal(WAYS[way](write(tmp_path, length=length)), WEIGHT)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("location", ["../weights.bin", "sub/../../weights.bin", "ABSOLUTE", "link.bin", "a\0b", ""])
def test_weights_that_lie_elsewhere_are_not_read(tmp_path, way, location):
    """Up, an absolute path, a link that leads out, a name that is none: by the tensor's name, though the file is there."""
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    place = str(tmp_path / "weights.bin") if location == "ABSOLUTE" else location
    path = write(tmp_path / "model", location=place)
    (path.parent / "link.bin").symlink_to(tmp_path / "weights.bin")
    assert ": w lies outside of the graph's folder (" in told(WAYS[way], path)


BAD = {
    "longer than the file": (
        {"length": str(WEIGHT.nbytes + 4)},
        f"w is bytes 0 to {WEIGHT.nbytes + 4} of weights.bin, which has",
    ),
    "behind its end": ({"offset": str(1 << 40)}, "of weights.bin, which has"),
    "before its start": ({"offset": "-4"}, "w is bytes -4 to"),
    "a negative length": ({"length": "-4"}, "w is bytes 0 to -4 of weights.bin"),
    "no number": ({"length": "many"}, "w has a place in weights.bin that is no number"),
    "missing": ({"location": "gone.bin"}, "gone.bin, which does not exist"),
    "a folder": ({"location": "."}, "which does not exist"),
    "too short for the tensor": ({"length": "8"}, ""),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", BAD)
def test_a_place_that_cannot_be_is_told(tmp_path, way, fault):
    """Wrong lengths, offsets and names: one line with the tensor, the file and the way out; no other package's error."""
    place, expected = BAD[fault]
    assert expected in told(WAYS[way], write(tmp_path, **place))


def test_weights_of_other_kinds_are_refused_by_name(tmp_path):
    """A graph of whole numbers, as quantised ones are, is no checkpoint of weights."""
    path = write(tmp_path)
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHT.astype(np.int8), "w"))
    onnx.save(model, path)
    assert "w is of int8, and weights are floating point" in told(read_tensors, path)


@pytest.mark.parametrize("way", WAYS)
def test_damaged_graphs_never_end_in_another_package_s_error(tmp_path, way):
    """Cut anywhere, or with any byte changed, a graph gives numbers or one line."""
    path = write(tmp_path / "whole")
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    damaged = [whole[:length] for length in range(0, len(whole), len(whole) // 12)]
    for place, value in zip(generator.integers(len(whole), size=80), generator.integers(256, size=80), strict=True):
        damaged.append(whole[:place] + bytes([value]) + whole[place + 1 :])
    shutil.copytree(path.parent, tmp_path / "damaged")
    refused, path = 0, tmp_path / "damaged" / "model.onnx"
    for content in damaged:
        path.write_bytes(content)
        try:
            WAYS[way](path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
    assert refused >= 12
