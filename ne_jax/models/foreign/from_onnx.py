"""ONNX graphs as models: the first convolution is read off the graph, onnxruntime runs the whole."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ne_jax.data.preprocess import Preprocess
from ne_jax.errors import UserError
from ne_jax.files import sha256_of
from ne_jax.models.foreign.adapted_model import Adapted, Sides, kernel_of, needed, normalise, pooled, same_padding

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_AFFINE = ("Add", "Sub", "Mul", "Div")
_PASSING = ("Identity", "Cast", "Transpose", "Pad", *_AFFINE)
_LAYOUTS = ((0, 1, 2, 3), (0, 3, 1, 2))  # where an NCHW and an NHWC image have batch, channel, row and column
_NO_LOGITS = ("pooler_output", "image_embeds")  # what transformers calls features of two axes

Run = Callable[[Sequence[str], np.ndarray], list[np.ndarray]]


class _Image(NamedTuple):
    """The graph's input. axes: those of batch, channel, row and column; batch: 0 if it may be any."""

    name: str
    axes: tuple[int, ...]
    batch: int
    channels: int
    size: int
    dtype: np.dtype


class _Affine(NamedTuple):
    """What lies between the input and the convolution: gain * input + offset for each channel, then a margin of zeros."""

    gain: np.ndarray
    offset: np.ndarray
    margin: Sides


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
    model, files = _read(onnx, path)
    graph, label = model.graph, f"model {path}"
    trail = _trail(graph, label)
    image = _image(onnx, graph, trail, preprocess, label)
    constants = _constants(onnx, graph, {name for operands, _ in trail for name in operands}, path)
    computed = sorted({name for operands, _ in trail for name in operands} - constants.keys())
    heads = {output.name: _head(graph, output.name) for output in graph.output}
    run = _session(onnx, model, path, image, [*computed, *(name for head in heads.values() for name in head)])

    outputs = list(heads)
    probe = np.zeros((image.batch or 1, image.size, image.size, image.channels), np.float32)
    found = dict(zip([*computed, *outputs], run([*computed, *outputs], probe), strict=True))
    values = constants | {name: found[name] for name in computed}
    affine = _fold(trail, values, image, label)
    given, preprocess = _normalisation(preprocess, affine, image, label)
    kernel, strides, padding = _convolution(trail[-1][1], values[trail[-1][0][0]], affine, image, label)
    forward, num_classes = _forward(
        _in_batches(run, image.batch), heads, {name: found[name] for name in outputs}, given, label
    )
    return Adapted(
        kernel, strides, padding, preprocess.mean, preprocess.std, preprocess, num_classes, forward, sha256_of(files)
    )


def _read(onnx: types.ModuleType, path: pathlib.Path) -> tuple[Any, list[pathlib.Path]]:
    """The graph, with large tensors left outside where they are, and the files that make it up."""
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise UserError(f"model {path}: no such file")
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise UserError(f"model {path}: not a whole ONNX file ({error}); fetch or export it again") from error
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    outside = [path.parent / name for name in sorted({entry.value for entry in entries if entry.key == "location"})]
    for file in outside:
        if not file.is_file():
            raise UserError(f"model {path}: its weights are in {file}, which does not exist; put it there")
    return model, [path, *outside]


def _input(graph: Any, label: str) -> Any:
    stored = {tensor.name for tensor in graph.initializer}  # old graphs list their weights as inputs too
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise UserError(f"{label}: the graph has {len(inputs)} inputs; it must have one, the image")
    return inputs[0]


def _reads(node: Any) -> Iterator[str]:
    """Names that a node reads, in its branches and loops too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)


def _trail(graph: Any, label: str) -> list[tuple[list[str], Any]]:
    """The nodes from the image to the first convolution, which is the last of them, each with its other operands."""
    name, trail = _input(graph, label).name, []
    while not trail or trail[-1][1].op_type != "Conv":
        readers = [node for node in graph.node if name in _reads(node) and node.op_type not in ("Shape", "Size")]
        if len(readers) != 1:
            told = ", ".join(node.op_type for node in readers[:4]) or "no node"
            raise UserError(f"{label}: the image does not enter by one convolution: {told} read(s) {name}")
        (node,) = readers
        operands = [operand for operand in node.input if operand not in ("", name)]
        first = list(node.input).index(name) if name in node.input else -1
        if node.op_type not in ("Conv", *_PASSING) or (first != 0 and node.op_type not in ("Add", "Sub", "Mul")):
            raise UserError(f"{label}: the image does not enter by a convolution: it meets {node.op_type} before one")
        trail.append((operands, node))
        name = node.output[0]
    return trail


def _attributes(onnx_node: Any) -> dict[str, Any]:
    helper = needed("onnx.helper")
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in onnx_node.attribute}


def _image(onnx: types.ModuleType, graph: Any, trail: list, preprocess: Preprocess | None, label: str) -> _Image:
    axes = (0, 1, 2, 3)
    for _, node in trail:
        if node.op_type == "Transpose":
            axes = tuple(axes[axis] for axis in _attributes(node).get("perm", (3, 2, 1, 0)))
    if axes not in _LAYOUTS:
        raise UserError(f"{label}: the graph transposes the image by {axes}; it must be NCHW or NHWC")
    value = _input(graph, label)
    tensor = value.type.tensor_type
    dimensions = [dimension.dim_value for dimension in tensor.shape.dim]
    if len(dimensions) != 4:
        raise UserError(f"{label}: its input {value.name} has {len(dimensions)} axes; an image batch has 4")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if dtype not in (np.float16, np.float32, np.float64):
        raise UserError(f"{label}: takes {dtype} images, which cannot hold a float release; export it for float32")
    batch, channels, rows, columns = (dimensions[axis] for axis in axes)
    wanted = (preprocess.size, preprocess.channels) if preprocess else (0, 3)
    rows, columns, channels = rows or columns or wanted[0], columns or rows or wanted[0], channels or wanted[1]
    if not rows:
        raise UserError(f"{label}: takes images of any size; give preprocess with the size")
    if rows != columns:
        raise UserError(f"{label}: takes images of {rows} x {columns}; only square ones are supported")
    if preprocess and (rows, channels) != wanted:
        raise UserError(
            f"{label}: takes {rows} x {rows} x {channels}, but preprocess makes {wanted[0]} x {wanted[0]} x {wanted[1]}"
        )
    return _Image(value.name, axes, batch, channels, rows, dtype)


def _constants(onnx: types.ModuleType, graph: Any, names: set[str], path: pathlib.Path) -> dict[str, np.ndarray]:
    """Those of `names` that the graph stores, as arrays. The others are computed when it runs."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            (value,) = _attributes(node).values()
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
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    try:
        yield
    except tuple(getattr(state, name) for name in (*names, "RuntimeException")) as error:
        raise UserError(f"{label}: onnxruntime cannot run it ({' '.join(str(error).split())[:300]})") from error


def _session(onnx: types.ModuleType, model: Any, path: pathlib.Path, image: _Image, inner: Sequence[str]) -> Run:
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


def _fold(trail: list, values: Mapping[str, np.ndarray], image: _Image, label: str) -> _Affine:
    """The affine function of each channel, and the margin, that the nodes before the convolution make up."""
    gain, offset = np.ones(image.channels), np.zeros(image.channels)
    axes, margin = (
        [0, 1, 2, 3],
        np.zeros((2, 4), int),
    )  # of the input, at this node; zeros before and after each of them
    for operands, node in trail[:-1]:
        place = axes.index(image.axes[1])
        if node.op_type == "Transpose":
            axes = [axes[axis] for axis in _attributes(node).get("perm", (3, 2, 1, 0))]
        elif node.op_type == "Pad":
            margin[:, axes] += _pads(operands, node, values, label)
        elif node.op_type in _AFFINE:
            if margin.any():
                raise UserError(f"{label}: the graph normalises the image after it pads it; the margin must be zeros")
            number = _per_channel(values[operands[0]] if operands else None, place, image.channels, node, label)
            turned = node.op_type == "Sub" and node.input[0] == operands[0]
            if node.op_type in ("Add", "Sub"):
                gain = -gain if turned else gain
                offset = number - offset if turned else offset + (number if node.op_type == "Add" else -number)
            else:
                factor = number if node.op_type == "Mul" else 1 / number
                gain, offset = gain * factor, offset * factor
    if not (np.isfinite(gain).all() and np.isfinite(offset).all() and gain.all()):
        raise UserError(f"{label}: the graph multiplies a channel of the image by 0 or divides it by 0")
    sides = [tuple(map(int, margin[:, axis])) for axis in image.axes]
    if any(map(any, sides[:2])):
        raise UserError(f"{label}: the graph pads the image's channels")
    return _Affine(gain, offset, tuple(sides[2:]))


def _pads(operands: Sequence[str], node: Any, values: Mapping[str, np.ndarray], label: str) -> np.ndarray:
    """(2, 4): zeros before and after each axis that the node sees."""
    attributes = _attributes(node)
    pads = values[operands[0]] if operands else np.asarray(attributes.get("pads", ()))
    value = values[node.input[2]] if len(node.input) > 2 and node.input[2] else attributes.get("value", 0)
    if attributes.get("mode", b"constant") != b"constant" or np.any(value) or pads.shape != (8,) or pads.min() < 0:
        raise UserError(f"{label}: the graph pads the image with something other than zeros")
    return pads.reshape(2, 4)


def _per_channel(value: np.ndarray | None, place: int, channels: int, node: Any, label: str) -> np.ndarray:
    """(C,): a constant that is combined with an image whose channels are axis `place`."""
    if value is not None and value.ndim <= 4:
        value = value.astype(np.float64).reshape((1,) * (4 - value.ndim) + value.shape)
        if value.size in (1, channels) and value.shape[place] == value.size:
            return np.broadcast_to(value.ravel(), channels)
    raise UserError(f"{label}: {node.op_type} before the first convolution does more than scale or shift channels")


def _normalisation(
    given: Preprocess | None, affine: _Affine, image: _Image, label: str
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], Preprocess]:
    """The mean and std that are applied before the graph, and the preprocessing with those of the whole way."""
    channels = image.channels
    own = bool((affine.gain != 1).any() or affine.offset.any())
    fitted = given or Preprocess(
        image.size, (0.0,) * channels, (1.0,) * channels, resize="shorter", resize_to=image.size * 256 // 224
    )
    if given is None and not own:
        if channels != 3:
            raise UserError(f"{label}: takes {channels} channel(s) and has no mean and std; give preprocess")
        fitted = dataclasses.replace(fitted, **_IMAGENET)
    before = np.asarray(fitted.mean), np.asarray(fitted.std)
    mean, std = before[0] - affine.offset * before[1] / affine.gain, before[1] / np.abs(affine.gain)
    if given is None and (np.abs(mean).max() > 1 or std.max() > 1):
        raise UserError(
            f"{label}: the graph normalises by mean {mean.round(4).tolist()}, std {std.round(4).tolist()}, not for pixels in "
            "[0, 1]; give preprocess (mean 0 and std 1 / 255 if it takes 0..255)"
        )
    return (fitted.mean, fitted.std), dataclasses.replace(fitted, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def _convolution(
    node: Any, weight: np.ndarray, affine: _Affine, image: _Image, label: str
) -> tuple[np.ndarray, tuple[int, int], str | Sides]:
    """Kernel, strides and padding of the first convolution."""
    attributes = _attributes(node)
    if attributes.get("group", 1) != 1 or weight.ndim != 4 or weight.shape[1] != image.channels:
        raise UserError(
            f"{label}: its first convolution has {attributes.get('group', 1)} groups and weight {weight.shape}"
        )
    if set(attributes.get("dilations", (1,))) != {1}:
        raise UserError(f"{label}: its first convolution has dilations {attributes['dilations']}; only 1 is supported")
    kernel = kernel_of(weight) * np.sign(affine.gain).astype(np.float32)[:, None]
    strides = tuple(attributes.get("strides", (1, 1)))
    kind = attributes.get("auto_pad", b"NOTSET")
    if kind == b"SAME_UPPER" and not np.any(affine.margin):
        return kernel, strides, "SAME"
    top, left, bottom, right = attributes.get("pads", (0,) * 4) if kind == b"NOTSET" else (0,) * 4
    own = (top, bottom), (left, right)
    if kind in (b"SAME_UPPER", b"SAME_LOWER"):
        sides = [image.size + sum(side) for side in affine.margin]
        own = map(same_padding, sides, kernel.shape[:2], strides)
        own = [side[::-1] if kind == b"SAME_LOWER" else side for side in own]
    padding = tuple((a + c, b + d) for (a, b), (c, d) in zip(own, affine.margin, strict=True))
    return kernel, strides, padding if np.any(padding) else "VALID"


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
