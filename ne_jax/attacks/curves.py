"""How an attack grows with what the attacker gets: NEs released, known pairs, labels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from ne_jax.attacks import whole_release
from ne_jax.attacks.attack import Attack, Knowledge, restricted
from ne_jax.attacks.moments import Moments, counts
from ne_jax.attacks.registry import BY_NAME
from ne_jax.attacks.run_one import Pool, Target, measured, psnr, reads
from ne_jax.errors import UserError
from ne_jax.measure.answers import Answers, interval, read
from ne_jax.measure.forecast import Point, reached
from ne_jax.measure.records import Attacked, Growth, lost

RELEASED = "NEs released"
# Blind attacks that learn from the second moments of the whole release, and rebuild pictures.
WHOLE_RELEASE = ("gevd_inpainting", *(attack.name for attack in whole_release.ATTACKS))
# What is counted -> the attacks whose growth is shown.
COUNTED = {
    RELEASED: ("principal_components", *WHOLE_RELEASE),
    "known pairs": ("difference_subspace", "ridge_decoder"),
    "labelled NEs": ("linear_adapter",),
}
DRAWN = frozenset(name for names in COUNTED.values() for name in names)
FACTOR = 10  # as many files more are told of
_COUNTED_FIELDS = ("releases", "again", "originals", "labels")


class Scale(NamedTuple):
    """Second moments of a release as it grows. more: of more and more of its files, up to all. simulated: of more files than it has."""

    more: Sequence[Moments]
    simulated: Sequence[Moments] = ()


def curves(
    knowledge: Knowledge,
    scale: Scale,
    own: Pool,
    reported: Pool,
    targets: Sequence[Target],
    authorized: str,
    only: Sequence[str] = (),
) -> list[Growth]:
    """A line for each attack of COUNTED, count and reader; attacks that have no meaning here are left out. Attacks on readers are shown
    for the first reader that is not the authorized model. own: images that the attacker chooses parameters on. only: names; empty: all."""
    rows = []
    others = [each for each in targets if each.reader.name != authorized]
    for counted, names in COUNTED.items():
        for attack in (BY_NAME[name] for name in names if not only or name in only):
            if any(getattr(knowledge, name) is None for name in attack.knows):
                continue
            for count, known, simulated in _growing(knowledge, scale, counted):
                with contextlib.suppress(UserError):  # too few for this attack, or no meaning here
                    found = (_chosen if counted == RELEASED else _point)(attack, known, own, reported, others)
                    rows += [_line(attack, counted, count, simulated, reported, each) for each in found]
    return rows


def _growing(knowledge: Knowledge, scale: Scale, counted: str) -> Iterator[tuple[int, Knowledge, bool]]:
    """Count, what is known then, and whether it was simulated."""
    if counted == RELEASED:
        for moments, simulated in [
            *((each, False) for each in scale.more),
            *((each, True) for each in scale.simulated),
        ]:
            yield moments.images, knowledge._replace(moments=moments), simulated
    else:
        for count in counts(len(knowledge.releases)):
            yield count, _first(knowledge, count), False


def _first(knowledge: Knowledge, count: int) -> Knowledge:
    kept = {name: getattr(knowledge, name) for name in _COUNTED_FIELDS}
    return knowledge._replace(**{name: None if value is None else value[:count] for name, value in kept.items()})


class _Seen(NamedTuple):
    """A reader, what it says then, and the PSNR of the images against the clean ones."""

    each: Target
    answers: Answers
    rebuilt_db: float | None


def _chosen(
    attack: Attack, knowledge: Knowledge, own: Pool, reported: Pool, others: Sequence[Target]
) -> Iterator[_Seen]:
    """After an attack with the parameters of its quick suite that serve each reader best on the attacker's own images."""
    allowed, count = restricted(knowledge, attack), len(reported.stored)
    joint, tried = np.concatenate([reported.stored, own.stored]), []
    for parameters in attack.quick:
        with contextlib.suppress(UserError):
            tried.append(np.asarray(attack.run(joint, allowed, **parameters), np.float32))
    for each in others if tried else ():
        values = [reads(each, each.reader, images[count:], own, each.own)[1].mean() for images in tried]
        images = tried[int(np.argmax(values))][:count]
        yield _Seen(each, read(each.reader, images), psnr(images, reported.clean))


def _point(
    attack: Attack, knowledge: Knowledge, own: Pool, reported: Pool, others: Sequence[Target]
) -> Iterator[_Seen]:
    """After an attack with the first parameters of its quick suite."""
    allowed, parameters = restricted(knowledge, attack), attack.quick[0]
    if attack.kind == "images":
        images = np.asarray(attack.run(reported.stored, allowed, **parameters), np.float32)
        for each in others:
            yield _Seen(each, read(each.reader, images), psnr(images, reported.clean))
    elif others:
        changed = attack.run(others[0].reader, allowed, **parameters)
        yield _Seen(others[0], read(changed, reported.stored), None)


def _line(attack: Attack, counted: str, count: int, simulated: bool, reported: Pool, seen: _Seen) -> Growth:
    metric, values = measured(seen.answers, seen.each.clean, reported.labels if seen.each.labelled else None)
    low, high = map(float, interval(values))
    return Growth(
        attack=attack.name,
        tier=attack.tier,
        of=counted,
        count=count,
        reader=seen.each.reader.name,
        metric=metric,
        value=float(values.mean()),
        n=len(values),
        ci95=(low, high),
        reconstruction_db=seen.rebuilt_db,
        simulated=True if simulated else UNSET,
    )


def with_more(records: Sequence[Attacked], growth: Sequence[Growth], files: int) -> list[Attacked]:
    """The records; of attacks that learn from all `files` files of a release, and of readers that lost something by it, with what they
    would read at FACTOR times as many."""
    return [replace(row, **_more(row, growth, files)) if lost(row) else row for row in records]


def _more(row: Attacked, growth: Sequence[Growth], files: int) -> dict[str, Any]:
    lines = [
        Point(line.count, line.value, line.ci95)
        for line in growth
        if (line.of, line.attack, line.reader) == (RELEASED, row.attack, row.reader)
    ]
    if not lines or row.attack not in WHOLE_RELEASE:
        return {}
    ceiling = row.value_clean if row.value_control is None else row.value_control
    return {"files": files, "more": reached(lines, row.value_ne, ceiling, FACTOR * files)}
