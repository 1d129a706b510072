"""Records of attacks: one JSON line for each (release, reader, attack), ours and other people's."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ne_jax.errors import UserError

# Field -> types that its value may have. The first nine are those of evaluate's records.
SCHEMA: dict[str, tuple[type, ...]] = {
    "authorized": (str,),
    "reader": (str,),
    "condition": (str,),  # "attacked"
    "release_format": (str,),
    "psnr_db": (float, int, type(None)),  # median of the stored images, dB
    "metric": (str,),  # accuracy where there are labels, else agreement, or feature_cosine for a reader without a head
    "value": (float, int),  # of the metric after the attack
    "n": (int,),
    "ci95": (list,),
    "attack": (str,),
    "tier": (int,),
    "parameters": (dict,),  # as chosen on the attacker's own images
    "value_ne": (float, int),  # the reader on the files as they are
    "value_clean": (float, int),  # on clean images
    "recovery": (float, int, type(None)),  # (value - value_ne) / (value_clean - value_ne)
    "value_control": (float, int, type(None)),  # the attack on clean images: its own damage
    "damage_db": (
        float,
        int,
        type(None),
    ),  # PSNR of clean images after the attack, dB; none: unchanged or of another size
    "reconstruction_db": (float, int, type(None)),  # PSNR of the attacked images against the clean ones, dB
    "seconds": (float, int),  # the attack itself, all parameters
    "by": (str,),  # who measured it: "ne_jax", or whoever sends a stronger one
}
METRICS = ("accuracy", "agreement", "feature_cosine")


def checked(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The record if it keeps to SCHEMA. Raises UserError that names `place`, the field and what is wrong."""
    missing, surplus = sorted(SCHEMA.keys() - record.keys()), sorted(record.keys() - SCHEMA.keys())
    if missing or surplus:
        raise UserError(
            f"{place}: {f'{missing[0]} is missing' if missing else f'{surplus[0]} is no field'}; see SCHEMA"
        )
    for name, kinds in SCHEMA.items():
        value = record[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise UserError(f"{place}: {name} is {value!r}; give {' or '.join(kind.__name__ for kind in kinds)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{place}: {name} is {value}; give a finite number or null")
    if record["metric"] not in METRICS or not 1 <= record["tier"] <= 5 or record["n"] < 1:
        raise UserError(f"{place}: metric, tier (1 to 5) or n (1 or more) is out of range")
    low, high = record["ci95"] if len(record["ci95"]) == 2 else (1.0, 0.0)
    if not low <= record["value"] + 1e-4 or not record["value"] - 1e-4 <= high:
        raise UserError(f"{place}: ci95 {record['ci95']} does not hold value {record['value']}")
    return dict(record)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Records of a JSON-lines file, each checked. Raises UserError for the first line that is wrong."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {number}: no JSON ({error.msg})") from error
        if not isinstance(record, dict):
            raise UserError(f"{path} line {number}: not an object")
        found.append(checked(record, f"{path} line {number}"))
    return found


def strongest(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The record with the highest value for each (release, reader, attack): an outsider's stronger one takes the place of ours."""
    best: dict[tuple[str, str, str], dict[str, Any]] = {}
    for record in records:
        key = (record["release_format"], record["reader"], record["attack"])
        if key not in best or record["value"] > best[key]["value"]:
            best[key] = dict(record)
    return best
