"""Ported networks kept with orbax: the whole state, BatchNorm statistics too, with a note of where it came from. Written whole or not
at all; restored on any device layout."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx

from ne_jax.errors import UserError
from ne_jax.files import Record
from ne_jax.models.porting.checkpoints import Misfit, flat_leaves

_NOTE = "ne_jax"


class Note(Record, kw_only=True):
    """Where a ported network came from: its architecture, whose names its file had, and the file's SHA-256; side of its input, pixels;
    the fields of its `Preprocess`; and what loading had to say."""

    architecture: str
    publisher: str
    image_size: int
    num_classes: int
    preprocess: dict[str, Any]
    sha256: str
    notes: list[str]


def is_store(path: str | os.PathLike) -> bool:
    """Whether `path` is a folder that orbax wrote and finished."""
    return (pathlib.Path(path) / "_CHECKPOINT_METADATA").is_file()


def save(path: str | os.PathLike, state: Any, note: Note) -> None:
    """Write `state` and `note` as a new folder. Raises UserError if there is something already."""
    path = pathlib.Path(path).absolute()
    if path.exists():
        raise UserError(f"{path} exists; give another folder, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    leaves, paths = dict(nnx.to_flat_state(state)), flat_leaves(state)
    with ocp.StandardCheckpointer() as checkpointer:
        tree = {name: leaves[place][...] for name, place in paths.items()}
        checkpointer.save(path, tree, custom_metadata={_NOTE: note.to_json()})


def read_note(path: str | os.PathLike) -> Note:
    """The note of a folder. Raises UserError for an orbax checkpoint that is not ours, and for a note that is not whole."""
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.metadata(pathlib.Path(path).absolute())
    note = (found.custom_metadata or {}).get(_NOTE)
    if note is None:
        raise UserError(f"checkpoint {path}: an orbax checkpoint, but not of scripts/port_checkpoint.py; port it first")
    return Note.from_json(note, f"checkpoint {path}")


def restore(path: str | os.PathLike, abstract: Any, sharding: jax.sharding.Sharding | None, label: str) -> Any:
    """The state in `path` in the form of `abstract`, placed by `sharding` (None: the default device).

    Raises Misfit, which names every leaf that is missing, surplus or misshapen.
    """
    path = pathlib.Path(path).absolute()
    leaves, paths = dict(nnx.to_flat_state(abstract)), flat_leaves(abstract)
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {
        name: jax.ShapeDtypeStruct(leaves[place].shape, leaves[place].dtype, sharding=sharding)
        for name, place in paths.items()
    }
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.metadata(path).item_metadata
        if found is None:  # orbax says no more of a file that is gone or cut
            raise UserError(f"{label}: cannot be restored (its description is gone or damaged); port it again")
        stored = {name: leaf.shape for name, leaf in found.tree.items()}
        faults = {
            "missing": sorted(target.keys() - stored.keys()),
            "surplus": sorted(stored.keys() - target.keys()),
            "misshapen": [n for n in sorted(target.keys() & stored.keys()) if tuple(stored[n]) != target[n].shape],
        }
        told = [f"{len(names)} {fault}: {', '.join(names[:4])}" for fault, names in faults.items() if names]
        if told:
            raise Misfit(label, "; ".join(told))
        try:
            tree = checkpointer.restore(path, target)
        except Exception as error:  # orbax raises that very class where a file of numbers is gone or cut
            if type(error) is not Exception and not isinstance(error, (OSError, ValueError)):
                raise
            told = next(iter(str(error).splitlines()), type(error).__name__)[:120]
            raise UserError(f"{label}: cannot be restored ({told}); port it again") from error
    return nnx.from_flat_state({place: leaves[place].replace(tree[name]) for name, place in paths.items()})
