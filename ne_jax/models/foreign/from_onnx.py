"""ONNX graphs as models: `onnx_entrance` reads the first convolution off the graph, onnxruntime runs the whole.

Knows the file, the session and which outputs are logits and features.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ne_jax.data.preprocess import Preprocess
from ne_jax.errors import UserError
from ne_jax.files import line, sha256_of
from ne_jax.models.foreign.adapted_model import Adapted, needed, normalise, pooled
from ne_jax.models.foreign.onnx_entrance import (
    GraphImage,
    affine_of,
    attributes_of,
    convolution,
    image_of,
    normalisation,
    trail_of,
)
from ne_jax.models.porting.onnx_weights import faults, read_graph

_NO_LOGITS = ("pooler_output", "image_embeds")  # what transformers calls features of two axes

Run = Callable[[Sequence[str], np.ndarray], list[np.ndarray]]


def from_onnx(path: str | os.PathLike, *, preprocess: Preprocess | None = None) -> Adapted:
    """The network in an ONNX file, run by onnxruntime on the CPU.

    Its one input is an image, NCHW or NHWC, square, of a float type, of any or a fixed batch size. Normalisation in the
    graph counts in `mean` and `std`.
    preprocess: what is done to an image before the graph; its mean and std are applied before those of the graph. For a
        graph that takes pixels of 0..255, give mean 0 and std 1 / 255. When None: mean and std are the graph's own, or
        ImageNet's if it has none; the shorter side is resized to size * 256 // 224, bilinear.
    The logits are the first output of two axes (before a softmax, if it comes from one); the features are what the
    linear layer that makes them reads, or the logits. Without logits, the features are the first output made a vector
    by `adapted_model.pooled`.
    Raises UserError if a package is missing, the file is no whole ONNX file, the image does not enter by one plain
    convolution, or `preprocess` is needed or does not fit.
    """
    onnx, path = needed("onnx"), pathlib.Path(path)
    label = f"model {path}"
    if not path.is_file():
        raise UserError(f"{label}: no such file")
    model, files = read_graph(onnx, path, label)
    try:
        return _adapted(onnx, model, files, preprocess, label)
    except UserError:
        raise
    except faults(onnx) as error:  # a graph can be damaged in more ways than its reader looks for
        raise UserError(f"{label}: not a whole ONNX file ({line(error)}); fetch or export it again") from error


def _adapted(
    onnx: types.ModuleType, model: Any, files: list[pathlib.Path], preprocess: Preprocess | None, label: str
) -> Adapted:
    """The network in a graph. files: the graph's own, and those of its weights."""
    path, graph = files[0], model.graph
    trail = trail_of(graph, label)
    image = image_of(onnx, graph, trail, preprocess, label)
    constants = _constants(onnx, graph, {name for operands, _ in trail for name in operands}, path)
    computed = sorted({name for operands, _ in trail for name in operands} - constants.keys())
    heads = {output.name: _head(graph, output.name) for output in graph.output}
    run = _session(onnx, model, path, image, [*computed, *(name for head in heads.values() for name in head)])

    outputs = list(heads)
    probe = np.zeros((image.batch or 1, image.size, image.size, image.channels), np.float32)
    found = dict(zip([*computed, *outputs], run([*computed, *outputs], probe), strict=True))
    values = constants | {name: found[name] for name in computed}
    affine = affine_of(trail, values, image, label)
    given, preprocess = normalisation(preprocess, affine, image, label)
    kernel, strides, padding = convolution(trail[-1][1], values[trail[-1][0][0]], affine, image, label)
    forward, num_classes = _forward(
        _in_batches(run, image.batch), heads, {name: found[name] for name in outputs}, given, label
    )
    return Adapted(
        kernel, strides, padding, preprocess.mean, preprocess.std, preprocess, num_classes, forward, sha256_of(files)
    )


def _constants(onnx: types.ModuleType, graph: Any, names: set[str], path: pathlib.Path) -> dict[str, np.ndarray]:
    """Those of `names` that the graph stores, as arrays. The others are computed when it runs."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            (value,) = attributes_of(node).values()
            stored[node.output[0]] = value
    proto, convert = onnx.TensorProto, onnx.numpy_helper.to_array
    return {
        name: convert(stored[name], str(path.parent)) if isinstance(stored[name], proto) else np.asarray(stored[name])
        for name in names & stored.keys()
    }


def _head(graph: Any, output: str) -> tuple[str, str]:
    """Where the logits behind an output are, and what the linear layer that makes them reads (or the logits again)."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in ("Softmax", "LogSoftmax", "Identity", "Cast"):
        output = node.input[0]
        node = makers.get(output)
    if node is not None and node.op_type == "Add":  # the bias of a MatMul
        products = [makers[name] for name in node.input if name in makers and makers[name].op_type == "MatMul"]
        node = products[0] if len(products) == 1 else None
    return output, node.input[0] if node is not None and node.op_type in ("Gemm", "MatMul") else output


@contextlib.contextmanager
def _told(label: str) -> Iterator[None]:
    """onnxruntime's errors as UserErrors. They have no base class of their own."""
    state = needed("onnxruntime.capi.onnxruntime_pybind11_state")
    kinds = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    try:
        yield
    except kinds as error:
        raise UserError(f"{label}: onnxruntime cannot run it ({' '.join(str(error).split())[:300]})") from error


def _session(onnx: types.ModuleType, model: Any, path: pathlib.Path, image: GraphImage, inner: Sequence[str]) -> Run:
    """run(names, images): values by name, those of `inner` too. images: (n, H, W, C), n as the graph takes it."""
    runtime = needed("onnxruntime")
    shown = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(inner) if name not in shown)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent.resolve()))
    with _told(f"model {path}"):
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    axes = (0, 1, 2, 3) if image.axes == (0, 3, 1, 2) else (0, 3, 1, 2)

    def run(names, images):
        with _told(f"model {path}"):
            return session.run(names, {image.name: np.ascontiguousarray(images.transpose(axes), image.dtype)})

    return run


def _in_batches(run: Run, batch: int) -> Run:
    """`run` for any number of images where the graph takes `batch` at a time: the last ones are filled up with zeros."""

    def run_all(names, images):
        parts = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            missing = np.zeros((batch - len(part), *part.shape[1:]), part.dtype)
            parts.append(run(names, np.concatenate([part, missing])))
        return [np.concatenate(values)[: len(images)] for values in zip(*parts, strict=True)]

    return run_all if batch else run


def _forward(
    run: Run, heads: Mapping[str, tuple[str, str]], found: Mapping[str, np.ndarray], before: tuple, label: str
) -> tuple[Callable[[np.ndarray], tuple[np.ndarray | None, np.ndarray]], int]:
    """The function of pixels and the number of classes. `found`: the outputs for one image."""
    real = {name: value for name, value in found.items() if np.issubdtype(value.dtype, np.floating)}
    if not real:
        raise UserError(f"{label}: none of its outputs ({', '.join(found)}) is of a float type")
    logits = next((name for name, value in real.items() if value.ndim == 2 and name not in _NO_LOGITS), None)
    if logits is None:
        name = next(iter(real))
        pooled(real[name], label)
        return lambda pixels: (None, pooled(run([name], normalise(pixels, *before))[0], label)), 0

    def forward(pixels):
        scores, features = run(list(heads[logits]), normalise(pixels, *before))
        return scores.astype(np.float32), pooled(features, label)

    return forward, real[logits].shape[1]
