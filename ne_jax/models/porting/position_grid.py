"""Which grid a file's position embeddings are of: a row of them does not say, and a wrong guess gives wrong features without an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ne_jax.errors import UserError
from ne_jax.models.porting.choose_format import Fit, bare_shapes
from ne_jax.models.porting.tensor_file import TensorFile
from ne_jax.models.registry import Family

Grid = tuple[int, int]  # rows, columns of patches


def check_grid(family: Family, fit: Fit, file: TensorFile, beside: Mapping[str, Mapping[str, Any]], label: str) -> str:
    """Raise UserError, with the tensor's name and `label` in front, unless the grid of the file's position embeddings is known and a
    square, as networks here have it. Gives what must be said of it; empty for nothing.

    It is what config.json beside the file says (`beside`: JSON files by name); else the network's own, or that of a published
    variant, or the only square that so many positions can be. Files without positions, or of another rank, are left to porting.
    """
    source, shapes = fit.keys.get("pos_embed"), bare_shapes(fit, file)
    sizes = [shapes.get(name, ()) for name in source.names] if source else []
    if not sizes or not all(len(shape) == 3 for shape in sizes):
        return ""
    patch, count = fit.config.patch_size, sum(shape[1] for shape in sizes) - source.fit.stored
    place = f"{label}: {source.names[-1]}"
    told, own = _told(beside.get("config.json", {}), patch), fit.config.image_size // patch
    if told and math.prod(told) == count:
        if told[0] != told[1]:
            raise UserError(
                f"{place} is of a grid of {told[0]} x {told[1]} patches (config.json); networks here take squares"
            )
        return ""
    side, others = math.isqrt(max(count, 0)), _others(count)
    if side**2 != count or not others or side in _published(family, patch):
        return ""
    could = f"{count} positions could be {side} x {side} or {others}"
    if side != own:
        raise UserError(
            f"{place}: its {could}, and no file says which; give image_size = {side * patch} if they are {side} x {side}, or the "
            "config.json of its publisher beside it"
        )
    return f"its {could}; taken as {side} x {side}, as its image size is"


def _told(config: Mapping[str, Any], patch: int) -> Grid | None:
    """The grid by the image size in a config.json of transformers or timm; None if it has none."""
    given = [config.get("image_size"), _inside(config, "model_args").get("img_size")]
    given.append((_inside(config, "pretrained_cfg").get("input_size") or (0,))[1:])
    for size in given:
        match size:
            case int(side) if side >= patch:
                return side // patch, side // patch
            case [int(height), int(width)] if min(height, width) >= patch:
                return height // patch, width // patch
    return None


def _inside(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _published(family: Family, patch: int) -> set[int]:
    """Sides of the grids of the family's published variants with patches of this size."""
    return {each.image_size // patch for each in family.variants.values() if each.patch_size == patch}


def _others(count: int) -> str:
    """The grids of at least two rows and columns, but for the square, that so many positions could be: "8 x 32, 4 x 64"."""
    sides = range(math.isqrt(max(count - 1, 0)), 1, -1)
    return ", ".join(f"{side} x {count // side}" for side in sides if count % side == 0)
