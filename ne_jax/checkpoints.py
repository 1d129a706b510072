"""Strict porting of published checkpoints: every leaf filled from the file, every tensor of the file used, or an error.

A family's key table maps the path of a leaf in our module ("blocks.0.norm1.scale") to a `Source` in the file. Files are
safetensors: nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from ne_jax.errors import UserError

CONV = (2, 3, 1, 0)  # PyTorch OIHW -> HWIO
LINEAR = (1, 0)  # PyTorch (out, in) -> (in, out)
# BatchNorm's step counter is bookkeeping of PyTorch's training, no part of the function.
_BOOKKEEPING = "num_batches_tracked"

Tensors = Mapping[str, np.ndarray]


class Source(NamedTuple):
    """A tensor's name in a file and the axis order that turns it into our leaf (None: as it is)."""

    name: str
    permute: tuple[int, ...] | None = None

    def to_leaf(self, tensor: np.ndarray) -> np.ndarray:
        """The file's tensor in our axis order."""
        return tensor if self.permute is None else np.transpose(tensor, self.permute)

    def to_file(self, leaf: np.ndarray) -> np.ndarray:
        """Our leaf in the file's axis order."""
        return leaf if self.permute is None else np.transpose(leaf, np.argsort(self.permute))


def _paths(state: nnx.State) -> dict[str, tuple]:
    """Leaf path as text ("blocks.0.norm1.scale") -> path in the state."""
    return {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file, on the host. Raises UserError for a missing, truncated or foreign file."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(
            f"checkpoint {path}: not a whole safetensors file ({error}); fetch or export it again"
        ) from error


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first(names: list[str], count: int = 4) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def port(state: Any, keys: Mapping[str, Source], tensors: Tensors, label: str) -> Any:
    """Fill the (abstract) `state` of a module from `tensors`; `label` names the checkpoint in the error.

    Raises UserError that lists every missing, surplus, misshapen and non-finite tensor together.
    """
    leaves, paths = dict(nnx.to_flat_state(state)), _paths(state)
    if set(paths) != set(keys):
        raise AssertionError(f"key table and module differ in {sorted(set(paths) ^ set(keys))}")
    missing, misshapen, broken, filled = [], [], [], {}
    for ours, source in keys.items():
        if source.name not in tensors:
            missing.append(source.name)
            continue
        tensor, leaf = tensors[source.name], leaves[paths[ours]]
        expected = source.to_file(np.empty(leaf.shape, np.bool_)).shape
        if tensor.shape != expected:
            misshapen.append(f"{source.name} is {tensor.shape}, not {expected}")
        elif not np.isfinite(tensor).all():
            broken.append(source.name)
        else:
            filled[paths[ours]] = leaf.replace(jax.numpy.asarray(source.to_leaf(tensor), leaf.dtype))
    used = {source.name for source in keys.values()}
    surplus = sorted(name for name in tensors if name not in used and not name.endswith(_BOOKKEEPING))
    faults = {"missing": missing, "surplus": surplus, "misshapen": misshapen, "NaN or infinite": broken}
    if any(faults.values()):
        told = "; ".join(f"{len(names)} {fault}: {_first(names)}" for fault, names in faults.items() if names)
        raise UserError(f"{label} does not fit: {told}")
    return nnx.from_flat_state(filled)


def export(
    state: Any, keys: Mapping[str, Source], path: str | os.PathLike, metadata: dict[str, str] | None = None
) -> None:
    """Write `state` under the file's names: the inverse of `read_tensors` and `port`. Atomic."""
    leaves, paths = dict(nnx.to_flat_state(state)), _paths(state)
    tensors = {
        s.name: np.ascontiguousarray(s.to_file(np.asarray(leaves[paths[ours]][...]))) for ours, s in keys.items()
    }
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    safetensors.numpy.save_file(tensors, partial, metadata)
    os.replace(partial, path)
