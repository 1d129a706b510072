"""Weights in an ONNX graph: initializers, under the names that the network's modules had."""

from __future__ import annotations

import pathlib
import types
from typing import Any

import numpy as np

from ne_jax.errors import UserError
from ne_jax.models.porting.tensor_file import BROKEN, TensorFile, as_float32, line, optional

_PLACE = {"location", "offset", "length", "checksum"}  # what a graph says of a tensor in another file


def open_onnx(path: pathlib.Path) -> TensorFile:
    """Initializers by name. PyTorch's exporter renames what it folds: weights of linear layers, transposed, and slices of embeddings.
    These get the path of the node that reads them: "encoder.fc1.weight", turned back, and "embeddings.Concat_3"."""
    onnx = optional("onnx", "onnx", path)
    model, files = read_graph(onnx, path, f"checkpoint {path}")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        graph = model.graph
        initializers = {tensor.name: tensor for tensor in graph.initializer}
        places = {name: (name, False) for name in initializers if not name.startswith("onnx::")}
        for node in graph.node:
            module = node.name.strip("/").replace("/", ".")
            for name in node.input:
                if name in initializers and name.startswith("onnx::"):
                    linear = node.op_type == "MatMul"
                    places[f"{module.rpartition('.')[0]}.weight" if linear else module] = (name, linear)
    except faults(onnx) as error:
        raise UserError(f"checkpoint {path}: not a whole ONNX file ({line(error)}); fetch it again") from error
    if not places:
        raise UserError(
            f"checkpoint {path}: the graph holds no weights; fetch it again, or export it with its parameters"
        )

    def read(name: str, integers: bool = False) -> np.ndarray:
        source, turned = places[name]
        try:
            tensor = onnx.numpy_helper.to_array(initializers[source])
        except BROKEN as error:
            raise UserError(f"checkpoint {path}: {name} cannot be read ({line(error)}); fetch it again") from error
        if not (integers and tensor.dtype.kind in "iub"):
            tensor = as_float32(tensor, f"checkpoint {path}: {name}")
        return tensor.T if turned else tensor

    shapes = {name: tuple(initializers[source].dims) for name, (source, _) in places.items()}
    return TensorFile(tuple(files), {n: s[::-1] if places[n][1] else s for n, s in shapes.items()}, read)


def faults(onnx: types.ModuleType) -> tuple[type[Exception], ...]:
    """What onnx and protobuf raise for bytes that are cut or changed, or that name other files."""
    from google.protobuf.message import DecodeError

    return (DecodeError, onnx.checker.ValidationError, *BROKEN)


def read_graph(onnx: types.ModuleType, path: pathlib.Path, label: str) -> tuple[Any, list[pathlib.Path]]:
    """The graph, with tensors that lie in files beside it left there; and its own file and these.

    Raises UserError, with `label` in front, for bytes that are no graph, and for tensors whose files lie out of the graph's folder, are
    missing, or are shorter than the graph says.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except faults(onnx) as error:
        raise UserError(f"{label}: not a whole ONNX file ({line(error)}); fetch it again") from error
    files: dict[str, pathlib.Path] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            told = {entry.key: entry.value for entry in tensor.external_data}
            if not all(
                isinstance(text, str) for pair in told.items() for text in pair
            ):  # protobuf gives bytes that are no text
                raise UserError(f"{label}: {tensor.name} has a place that is no text; fetch the graph again")
            unknown = sorted(told.keys() - _PLACE)
            if unknown:
                raise UserError(
                    f"{label}: {tensor.name} has a place with {unknown[0]!r}, which is unknown; fetch the graph again"
                )
            name = told.get("location", "")
            files[name] = _outside(path, name, f"{label}: {tensor.name}")
            _check_place(files[name], told, f"{label}: {tensor.name}")
    return model, [path, *(files[name] for name in sorted(files))]


def _outside(path: pathlib.Path, name: str, place: str) -> pathlib.Path:
    """The file that holds a tensor."""
    folder, file = path.parent.resolve(), path.parent / name.replace("\0", "")
    if not name or "\0" in name or not file.resolve().is_relative_to(folder):
        raise UserError(
            f"{place} lies outside of the graph's folder ({name!r}); it was not read: fetch the graph again"
        )
    if not file.is_file():
        raise UserError(f"{place} is in {file}, which does not exist; fetch it again, or put it there")
    return file


def _check_place(file: pathlib.Path, told: dict[str, str], place: str) -> None:
    """Raise UserError unless the file has the bytes that the graph speaks of."""
    try:
        start, length = int(told.get("offset", "0")), int(told.get("length", "0"))
    except ValueError as error:
        raise UserError(f"{place} has a place in {file.name} that is no number; fetch the graph again") from error
    if start < 0 or length < 0 or start + length > file.stat().st_size:
        raise UserError(
            f"{place} is bytes {start} to {start + length} of {file.name}, which has {file.stat().st_size}; fetch both again"
        )
