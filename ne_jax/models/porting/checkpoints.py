"""Strict porting of published checkpoints: every leaf filled from the file, every tensor of the file used, or an error.

A family's key table maps the path of a leaf in our module ("blocks.0.norm1.scale") to a `Source` in the file. Files are opened by
`tensor_files`.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from flax import nnx

from ne_jax.data.preprocess import Preprocess
from ne_jax.errors import UserError
from ne_jax.models.porting.tensor_files import TensorFile

CONV = (2, 3, 1, 0)  # PyTorch OIHW -> HWIO
LINEAR = (1, 0)  # PyTorch (out, in) -> (in, out)
# BatchNorm's step counter is bookkeeping of PyTorch's training, no part of the function.
_BOOKKEEPING = "num_batches_tracked"


class Source(NamedTuple):
    """Where a leaf lies in a file.

    name: of the tensor, or of several that lie side by side along `axis` of our leaf.
    permute: the axis order that turns the file's tensor into our leaf (None: as it is).
    shape: the tensor's shape in the file where that is no permutation of ours, but the same numbers in the same order.
    fit: (tensor, shape of the leaf) -> leaf, or None if that cannot be: for leaves that are made to fit, such as position
        embeddings of another image size. Without it, shapes must agree.
    """

    name: str | tuple[str, ...]
    permute: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    axis: int = -1
    fit: Callable[[np.ndarray, tuple[int, ...]], np.ndarray | None] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names."""
        return (self.name,) if isinstance(self.name, str) else self.name

    def _part(self, leaf_shape: tuple[int, ...]) -> tuple[int, ...]:
        part = list(leaf_shape)
        if len(self.names) > 1:
            part[self.axis] //= len(self.names)
        return tuple(part)

    def file_shape(self, leaf_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that each tensor must have in the file."""
        part = self._part(leaf_shape)
        return self.shape or (part if self.permute is None else tuple(part[i] for i in np.argsort(self.permute)))

    def to_leaf(self, tensors: list[np.ndarray], leaf_shape: tuple[int, ...]) -> np.ndarray | None:
        """The file's tensors in our axis order; None if `fit` finds no way."""
        if self.shape is not None:
            tensors = [tensor.reshape(self._part(leaf_shape)) for tensor in tensors]
        if self.permute is not None:
            tensors = [np.transpose(tensor, self.permute) for tensor in tensors]
        whole = tensors[0] if len(tensors) == 1 else np.concatenate(tensors, self.axis)
        return whole if self.fit is None or whole.shape == leaf_shape else self.fit(whole, leaf_shape)

    def to_file(self, leaf: np.ndarray) -> dict[str, np.ndarray]:
        """The inverse of `to_leaf`: name -> tensor."""
        parts = np.split(leaf, len(self.names), self.axis)
        if self.permute is not None:
            parts = [np.transpose(part, np.argsort(self.permute)) for part in parts]
        shaped = [part if self.shape is None else part.reshape(self.shape) for part in parts]
        return dict(zip(self.names, shaped, strict=True))


KeyTable = Mapping[str, Source]


class Format(NamedTuple):
    """How one publisher stores, and feeds, a family.

    keys: sizes -> key table.
    preprocess: sizes -> what the publisher does to images, unless files beside the weights say otherwise.
    prefixes: of this network's tensors inside a larger one ("vit."); a file of the bare network has none.
    ignored: beginnings of names of tensors that are no part of the function.
    sizes: the publisher's small deviations from our variants, such as the epsilon of norms.
    """

    keys: Callable[[Any], dict[str, Source]]
    preprocess: Callable[[Any], Preprocess]
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    sizes: Callable[[Any], Any] = lambda config: config

    def bare(self, name: str) -> str:
        """A tensor's name without the prefix of a larger network."""
        return next((name.removeprefix(prefix) for prefix in self.prefixes if name.startswith(prefix)), name)

    def is_ignored(self, name: str) -> bool:
        """Whether a tensor (bare name) is no part of the function."""
        return name.endswith(_BOOKKEEPING) or name.startswith(self.ignored)

    def is_left_out(self, name: str) -> bool:
        """Whether a tensor (bare name) is ignored and worth a word."""
        return name.startswith(self.ignored)


def _on_device(value: np.ndarray, dtype: np.dtype) -> jax.Array:
    """A copy of `value`, which may be a view of a file. JAX's CPU backend takes an array at a multiple of 64 bytes over as it is, and
    copies any other, a transposed one faster than NumPy does."""
    if value.dtype != dtype or not value.flags.c_contiguous:
        return jax.device_put(np.asarray(value, dtype))
    room = np.empty(value.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + value.nbytes].view(dtype).reshape(value.shape)
    np.copyto(copy, value)
    return jax.device_put(copy)


def flat_leaves(state: Any) -> dict[str, tuple]:
    """Leaf path as text ("blocks.0.norm1.scale") -> path in the state."""
    return {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}


def _first(names: list[str], count: int = 4) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


class Misfit(UserError):
    """A checkpoint that does not fit a variant. `told`: the faults, without the checkpoint's name."""

    def __init__(self, label: str, told: str):
        super().__init__(f"{label} does not fit: {told}")
        self.told = told


def faults_of(shapes: Mapping[str, tuple], leaf_shapes: Mapping[str, tuple], keys: KeyTable, fmt: Format) -> dict:
    """Kind of fault -> names, from names and shapes alone: what is missing, surplus or misshapen."""
    missing, misshapen = [], []
    for ours, source in keys.items():
        expected = source.file_shape(leaf_shapes[ours])
        for name in source.names:
            if name not in shapes:
                missing.append(name)
            elif source.fit is None and shapes[name] != expected:
                turned = ", which is its transpose" if shapes[name] == expected[::-1] else ""
                misshapen.append(f"{name} is {shapes[name]}, not {expected}{turned}")
    used = {name for source in keys.values() for name in source.names}
    surplus = sorted(name for name in shapes if name not in used and not fmt.is_ignored(name))
    return {"missing": missing, "surplus": surplus, "misshapen": misshapen}


def port(state: Any, fmt: Format, keys: KeyTable, file: TensorFile, label: str) -> tuple[Any, list[str]]:
    """Fill the (abstract) `state` of a module from `file`; `label` names the checkpoint in the error.

    Returns the state, on the host's memory or JAX's default device, and the names of leaves that were made to fit.
    Raises Misfit, which lists every missing, surplus, misshapen and non-finite tensor together.
    """
    leaves, paths = dict(nnx.to_flat_state(state)), flat_leaves(state)
    if set(paths) != set(keys):
        raise AssertionError(f"key table and module differ in {sorted(set(paths) ^ set(keys))}")
    names = {fmt.bare(name): name for name in file.shapes}
    shapes = {bare: file.shapes[name] for bare, name in names.items()}
    leaf_shapes = {ours: tuple(leaves[path].shape) for ours, path in paths.items()}
    faults = faults_of(shapes, leaf_shapes, keys, fmt)
    unfit = any(faults.values())
    faults["NaN or infinite"] = []
    fitted: list[str] = []

    def fill(ours: str):
        source, leaf = keys[ours], leaves[paths[ours]]
        present = [name for name in source.names if name in names]
        tensors = [file.read(names[name]) for name in present]
        broken = [name for name, tensor in zip(present, tensors, strict=True) if not np.isfinite(tensor).all()]
        faults["NaN or infinite"].extend(broken)
        if unfit:
            return None
        value = source.to_leaf(tensors, leaf_shapes[ours])
        if value is None:
            faults["misshapen"].append(f"{source.names[0]} is {tensors[0].shape}, which fits no {leaf_shapes[ours]}")
            return None
        if source.fit is not None and tensors[0].shape != source.file_shape(leaf_shapes[ours]):
            fitted.append(ours)
        return paths[ours], leaf.replace(_on_device(value, np.dtype(leaf.dtype)))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # copies let go of Python's lock
        filled = list(pool.map(fill, keys))
    faults["NaN or infinite"].sort()
    if any(faults.values()):
        told = "; ".join(f"{len(names)} {fault}: {_first(names)}" for fault, names in faults.items() if names)
        raise Misfit(label, told)
    return nnx.from_flat_state(dict(filled)), fitted


def export(state: Any, keys: KeyTable, path: str | os.PathLike, metadata: dict[str, str] | None = None) -> None:
    """Write `state` as a safetensors file under the publisher's names: the inverse of `port`. Atomic."""
    leaves, paths = dict(nnx.to_flat_state(state)), flat_leaves(state)
    tensors: dict[str, np.ndarray] = {}
    for ours, source in keys.items():
        tensors |= source.to_file(np.asarray(leaves[paths[ours]][...]))
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    safetensors.numpy.save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, partial, metadata)
    os.replace(partial, path)
