"""Where the image enters an ONNX graph: what its nodes do to it up to the first convolution, and that convolution.

Knows nodes and their attributes; runs nothing.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ne_jax.data.preprocess import Preprocess
from ne_jax.errors import UserError
from ne_jax.models.families.published import IMAGENET
from ne_jax.models.foreign.adapted_model import Sides, kernel_of, needed, same_padding

_AFFINE = ("Add", "Sub", "Mul", "Div")
_PASSING = ("Identity", "Cast", "Transpose", "Pad", *_AFFINE)
_LAYOUTS = ((0, 1, 2, 3), (0, 3, 1, 2))  # where an NCHW and an NHWC image have batch, channel, row and column


class GraphImage(NamedTuple):
    """The graph's input. axes: those of batch, channel, row and column; batch: 0 if it may be any."""

    name: str
    axes: tuple[int, ...]
    batch: int
    channels: int
    size: int
    dtype: np.dtype


class Affine(NamedTuple):
    """What lies between the input and the convolution: gain * input + offset for each channel, then a margin of zeros."""

    gain: np.ndarray
    offset: np.ndarray
    margin: Sides


def trail_of(graph: Any, label: str) -> list[tuple[list[str], Any]]:
    """The nodes from the image to the first convolution, which is the last of them, each with its other operands.

    Raises UserError if the image meets anything else before a convolution.
    """
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


def attributes_of(node: Any) -> dict[str, Any]:
    """A node's attributes by name, as Python values; strings are bytes."""
    helper = needed("onnx.helper")
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def image_of(onnx: types.ModuleType, graph: Any, trail: list, preprocess: Preprocess | None, label: str) -> GraphImage:
    """What image the graph takes. Raises UserError unless it is square, of four axes and a float type, and fits `preprocess`."""
    axes = (0, 1, 2, 3)
    for _, node in trail:
        if node.op_type == "Transpose":
            axes = tuple(axes[axis] for axis in attributes_of(node).get("perm", (3, 2, 1, 0)))
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
    return GraphImage(value.name, axes, batch, channels, rows, dtype)


def affine_of(trail: list, values: Mapping[str, np.ndarray], image: GraphImage, label: str) -> Affine:
    """The affine function of each channel, and the margin, that the nodes before the convolution make up.

    values: operands by name. Raises UserError if they make up anything else.
    """
    gain, offset = np.ones(image.channels), np.zeros(image.channels)
    axes = [0, 1, 2, 3]  # of the input, as this node sees them
    margin = np.zeros((2, 4), int)  # zeros before and after each of them
    for operands, node in trail[:-1]:
        place = axes.index(image.axes[1])
        if node.op_type == "Transpose":
            axes = [axes[axis] for axis in attributes_of(node).get("perm", (3, 2, 1, 0))]
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
    return Affine(gain, offset, tuple(sides[2:]))


def _pads(operands: Sequence[str], node: Any, values: Mapping[str, np.ndarray], label: str) -> np.ndarray:
    """(2, 4): zeros before and after each axis that the node sees."""
    attributes = attributes_of(node)
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


def normalisation(
    given: Preprocess | None, affine: Affine, image: GraphImage, label: str
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], Preprocess]:
    """The mean and std that are applied before the graph, and the preprocessing with those of the whole way.

    Raises UserError where neither the caller nor the graph says how the image is normalised, or the graph does it for other pixels
    than those in [0, 1].
    """
    channels = image.channels
    own = bool((affine.gain != 1).any() or affine.offset.any())
    fitted = given or Preprocess(
        image.size, (0.0,) * channels, (1.0,) * channels, resize="shorter", resize_to=image.size * 256 // 224
    )
    if given is None and not own:
        if channels != 3:
            raise UserError(f"{label}: takes {channels} channel(s) and has no mean and std; give preprocess")
        fitted = dataclasses.replace(fitted, **IMAGENET)
    before = np.asarray(fitted.mean), np.asarray(fitted.std)
    mean, std = before[0] - affine.offset * before[1] / affine.gain, before[1] / np.abs(affine.gain)
    if given is None and (np.abs(mean).max() > 1 or std.max() > 1):
        raise UserError(
            f"{label}: the graph normalises by mean {mean.round(4).tolist()}, std {std.round(4).tolist()}, not for pixels in "
            "[0, 1]; give preprocess (mean 0 and std 1 / 255 if it takes 0..255)"
        )
    return (fitted.mean, fitted.std), dataclasses.replace(fitted, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def convolution(
    node: Any, weight: np.ndarray, affine: Affine, image: GraphImage, label: str
) -> tuple[np.ndarray, tuple[int, int], str | Sides]:
    """Kernel (HWIO), strides and padding of the first convolution. Raises UserError if it has groups or dilations."""
    attributes = attributes_of(node)
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
