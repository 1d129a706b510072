"""What stages evaluate and attack write, a class a kind of line: the one schema of each file, for writing and for reading.

Values are of one metric, as a share (accuracy, agreement) or a cosine; `ci95` is the 95 % interval that holds the value. PSNR is in dB,
null where nothing changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

from msgspec import UNSET, Meta, UnsetType

from ne_jax.errors import UserError
from ne_jax.files import Record

# Most telling first: accuracy where there are labels, else agreement with the clean image; feature_cosine needs no head.
Metric = Literal["accuracy", "agreement", "feature_cosine"]
METRICS: tuple[str, ...] = get_args(Metric)
_SLACK = 1e-4  # ends of intervals are rounded
RELEASED = "NEs released"  # what a line of attack_curves.jsonl counts, where it counts all files

Count = Annotated[int, Meta(ge=1)]
Tier = Annotated[int, Meta(ge=1, le=5)]
Interval = tuple[float, float]

# Of what a reader reads of clean images: whoever lost less by the release has nothing that an attack could give back.
LOST = 0.1


def lost(value_ne: float, value_clean: float) -> bool:
    """Whether a release took something from a reader, by what it reads of the files as they are and of clean images: relatives of the
    authorized model read the files as they are."""
    return value_clean - value_ne >= LOST * value_clean


class Result(Record, kw_only=True):
    """A line of results.jsonl and of curve.jsonl: what a reader makes of a release, or of what the release is compared with."""

    authorized: str  # the model that the release is for
    reader: str
    condition: str  # see measure/answers.py
    release_format: str
    psnr_db: float | None  # median of the images
    metric: Metric
    value: float  # mean over the images
    n: Count  # images
    ci95: Interval
    psnr_db_asked: float | UnsetType = UNSET  # curve.jsonl only; psnr_db is where that landed


class Head(Record, kw_only=True):
    """What all records of the attacks on one release share."""

    authorized: str  # the model that the release is for
    release_format: str
    psnr_db: float | None  # median of the stored images


class Attacked(Head, kw_only=True):
    """A line of attacks.jsonl and of preprocessing.jsonl: a reader after an attack. Outsiders write such lines too."""

    reader: str
    condition: str  # "attacked"
    metric: Metric
    value: float  # of the metric after the attack
    n: Count  # images
    ci95: Interval
    attack: str
    tier: Tier
    parameters: dict[str, Any]  # as chosen on the attacker's own images
    value_ne: float  # the reader on the files as they are
    value_clean: float  # on clean images
    recovery: float | None  # (value - value_ne) / (value_clean - value_ne)
    value_control: float | None  # the attack on clean images: its own damage
    damage_db: float | None  # PSNR of clean images after the attack; null: unchanged or of another size
    reconstruction_db: float | None  # PSNR of the attacked images against the clean ones
    seconds: float  # the attack itself, all parameters
    by: str  # who measured it: "ne_jax", or whoever sends a stronger one

    def __post_init__(self) -> None:
        low, high = self.ci95
        if not low - _SLACK <= self.value <= high + _SLACK:
            raise UserError(f"ci95 {list(self.ci95)} does not hold value {self.value}")


class Growth(Record, kw_only=True):
    """A line of attack_curves.jsonl: a reader after an attack with so many NEs, pairs or labels. `Head`'s fields are absent where
    lines of one release are kept."""

    authorized: str | UnsetType = UNSET
    release_format: str | UnsetType = UNSET
    psnr_db: float | None | UnsetType = UNSET
    attack: str
    tier: Tier
    of: str  # what is counted
    count: Count
    reader: str
    metric: Metric
    value: float
    n: Count  # images
    ci95: Interval
    reconstruction_db: float | None
    value_ne: float | UnsetType = UNSET  # the reader on the files as they are; absent in lines of older versions
    value_clean: float | UnsetType = UNSET  # on clean images


class NotRun(Record, kw_only=True):
    """An entry of attacks_not_run.json: an attack that has no meaning for a release."""

    release_format: str
    attack: str
    why: str


class Attacks(Record, kw_only=True):
    """What came of attacks."""

    records: list[Attacked] = []  # with the best parameters, for each reader
    grid: list[Attacked] = []  # tier 1 with every set of parameters
    growth: list[Growth] = []
    not_run: list[NotRun] = []


def joined(parts: Iterable[Attacks]) -> Attacks:
    """All of them as one."""
    parts = list(parts)
    return Attacks(
        **{name: [line for part in parts for line in getattr(part, name)] for name in Attacks.__struct_fields__}
    )


def strongest(records: Iterable[Attacked]) -> dict[tuple[str, str, str], Attacked]:
    """The record with the highest value for each (release, reader, attack): an outsider's stronger one takes the place of ours."""
    best: dict[tuple[str, str, str], Attacked] = {}
    for record in records:
        key = (record.release_format, record.reader, record.attack)
        if key not in best or record.value > best[key].value:
            best[key] = record
    return best
