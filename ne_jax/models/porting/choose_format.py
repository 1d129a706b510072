"""Which publisher's names a checkpoint has, and which variants it would fit."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from flax import nnx

from ne_jax.models.porting import checkpoints
from ne_jax.models.porting.checkpoints import Format
from ne_jax.models.porting.tensor_files import TensorFile
from ne_jax.models.registry import FAMILIES, Family, find


class Fit(NamedTuple):
    """A variant made to fit a file: publisher, sizes with the file's number of classes, key table."""

    publisher: str
    format: Format
    config: Any
    keys: checkpoints.KeyTable


def as_published(family: Family, config: Any, publisher: str) -> Fit:
    """A variant as one publisher stores it."""
    fmt = family.formats[publisher]
    sizes = fmt.sizes(config)
    return Fit(publisher, fmt, sizes, fmt.keys(sizes))


def choose(family: Family, config: Any, file: TensorFile) -> Fit:
    """The publisher whose names the file has, and the file's number of classes (0: no head)."""

    def explained(publisher: str) -> int:
        fit = as_published(family, config, publisher)
        bare = {fit.format.bare(name) for name in file.shapes}
        wanted = {name for source in fit.keys.values() for name in source.names}
        return len(bare & wanted) + sum(map(fit.format.is_ignored, bare - wanted)) - len(wanted - bare)

    fit = as_published(family, config, max(family.formats, key=explained))
    shapes = bare_shapes(fit, file)
    head = {ours: source for ours, source in fit.keys.items() if ours.startswith("head")}
    if not any(name in shapes for source in head.values() for name in source.names):
        classes = 0
    else:
        bias = shapes.get(head["head.bias"].names[0], ())
        classes = bias[0] if len(bias) == 1 else config.num_classes
    return as_published(family, dataclasses.replace(config, num_classes=classes), fit.publisher)


def bare_shapes(fit: Fit, file: TensorFile) -> dict[str, tuple[int, ...]]:
    """The file's shapes by bare names."""
    return {fit.format.bare(name): shape for name, shape in file.shapes.items()}


def differences(architecture: str, fit: Fit, file: TensorFile, fitted: list[str]) -> list[str]:
    """What must be said of a checkpoint that fits: how it differs from the published variant. fitted: leaves made to fit."""
    published, notes = find(architecture)[1], []
    if fit.config.num_classes == 0:
        notes.append("no head: features only")
    elif fit.config.num_classes != published.num_classes:
        notes.append(f"a head of {fit.config.num_classes} classes, not {published.num_classes}")
    if fitted:
        notes.append(f"{', '.join(fitted)} resized to images of {fit.config.image_size} pixels")
    used = {name for source in fit.keys.values() for name in source.names}
    left = {name for name in bare_shapes(fit, file) if name not in used and fit.format.is_left_out(name)}
    if left:
        shown = sorted(left)[:3] + ["..."] * (len(left) > 3)
        notes.append(f"{len(left)} tensors left out, as no part of this network: {', '.join(shown)}")
    return notes


def fitting(file: TensorFile) -> list[str]:
    """Variants whose every leaf the file has, in the right shape: those of the file's own image size if there are any."""
    found: dict[str, bool] = {}
    for family in FAMILIES:
        for name, config in family.variants.items():
            fit = choose(family, config, file)
            shapes = bare_shapes(fit, file)
            if any(tensor not in shapes for source in fit.keys.values() for tensor in source.names):
                continue
            leaves = leaf_shapes(family.abstract(fit.config)[1])
            if leaves.keys() != fit.keys.keys():  # a publisher who never stored this variant
                continue
            if not any(checkpoints.faults_of(shapes, leaves, fit.keys, fit.format).values()):
                resized = [s.name for ours, s in fit.keys.items() if s.fit and shapes[s.names[0]] != leaves[ours]]
                found[name] = not resized
    return [name for name, exact in found.items() if exact] or list(found)


def leaf_shapes(state: nnx.State) -> dict[str, tuple[int, ...]]:
    """Leaf path -> shape."""
    leaves = dict(nnx.to_flat_state(state))
    return {name: leaves[path].shape for name, path in checkpoints.flat_leaves(state).items()}
