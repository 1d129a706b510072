"""The fields of a `Preprocess` as configs and JSON write them, checked: this module takes no time to import."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from ne_jax.errors import UserError

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
Resize = Literal["squash", "shorter", "longer", "crop_first"]
Crop = Literal["floor", "round"]

_CHOICES = {"resize": get_args(Resize), "crop": get_args(Crop), "interpolation": get_args(Interpolation)}
_NAMES = ("size", "mean", "std", "resize_to", *_CHOICES)


def check_fields(fields: Mapping[str, Any], name: str = "preprocess") -> None:
    """Raise UserError, with `name` in front, for a field that is unknown, missing, none of its choices or no number it can be."""
    unknown, missing = sorted(fields.keys() - set(_NAMES)), sorted({"size", "mean", "std"} - fields.keys())
    if unknown or missing:
        what = f"{unknown[0]} is unknown" if unknown else f"{missing[0]} is missing"
        raise UserError(f"{name}: {what}; its fields are {', '.join(sorted(_NAMES))}")
    for field, allowed in _CHOICES.items():
        if fields.get(field, allowed[0]) not in allowed:
            raise UserError(f"{name}: {field} is {fields[field]}; choose from {', '.join(allowed)}")
    for field in ("size", "resize_to"):
        value = fields.get(field)
        if not (value is None and field == "resize_to") and (type(value) is not int or value < 1):
            raise UserError(f"{name}: {field} is {value}; give a whole number of pixels, at least 1")
    for field in ("mean", "std"):
        value = fields[field]
        if not isinstance(value, list | tuple) or len(value) not in (1, 3) or not all(map(is_number, value)):
            raise UserError(f"{name}: {field} is {value}; give a list of one number a channel, 1 or 3, in pixel units")
    if len(fields["mean"]) != len(fields["std"]) or 0 in fields["std"]:
        raise UserError(f"{name}: std is {fields['std']}; give as many numbers as mean has, none of them 0")


def is_number(value: Any) -> bool:
    """A finite one; files that Python wrote may hold NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
