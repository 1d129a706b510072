"""How an attack grows with what the attacker gets: NEs released, known pairs, labels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from ne_jax.attacks.attack import Attack, Knowledge, restricted
from ne_jax.attacks.moments import Moments, counts
from ne_jax.attacks.registry import BY_NAME
from ne_jax.attacks.run_one import Pool, Target, measured, psnr
from ne_jax.errors import UserError
from ne_jax.measure.answers import interval, read
from ne_jax.measure.records import RELEASED, Growth

# What is counted -> the attacks whose growth is shown.
COUNTED = {
    RELEASED: (
        "principal_components",
        "gevd_inpainting",
        "equal_eigenvalues",
        "shared_by_neighbours",
        "differs_by_place",
        "third_moments",
    ),
    "known pairs": ("difference_subspace", "ridge_decoder"),
    "labelled NEs": ("linear_adapter",),
}
_COUNTED_FIELDS = ("releases", "again", "originals", "labels")


def curves(
    knowledge: Knowledge, more: Sequence[Moments], reported: Pool, targets: Sequence[Target], authorized: str
) -> list[Growth]:
    """A line for each attack of COUNTED, count and reader; attacks that have no meaning here are left out. Attacks on readers are shown
    for the first reader that is not the authorized model. more: moments of more and more files, up to the whole release."""
    rows = []
    others = [each for each in targets if each.reader.name != authorized]
    for counted, names in COUNTED.items():
        for attack in (BY_NAME[name] for name in names):
            if any(getattr(knowledge, name) is None for name in attack.knows):
                continue
            for count, known in _growing(knowledge, more, counted):
                with contextlib.suppress(UserError):  # too few for this attack, or no meaning here
                    rows += _point(attack, counted, count, known, reported, others)
    return rows


def _growing(knowledge: Knowledge, more: Sequence[Moments], counted: str) -> Iterator[tuple[int, Knowledge]]:
    if counted == RELEASED:
        for moments in more:
            seen = None if knowledge.released is None else knowledge.released[: moments.images]
            yield moments.images, knowledge._replace(moments=moments, released=seen)
    else:
        for count in counts(len(knowledge.releases)):
            yield count, _first(knowledge, count)


def _first(knowledge: Knowledge, count: int) -> Knowledge:
    kept = {name: getattr(knowledge, name) for name in _COUNTED_FIELDS}
    return knowledge._replace(**{name: None if value is None else value[:count] for name, value in kept.items()})


def _point(
    attack: Attack, counted: str, count: int, knowledge: Knowledge, reported: Pool, others: Sequence[Target]
) -> list[Growth]:
    allowed, parameters = restricted(knowledge, attack), attack.quick[0]
    if attack.kind == "images":
        images = np.asarray(attack.run(reported.stored, allowed, **parameters), np.float32)
        seen = [(each, read(each.reader, images), psnr(images, reported.clean)) for each in others]
    else:
        changed = attack.run(others[0].reader, allowed, **parameters) if others else None
        seen = [(others[0], read(changed, reported.stored), None)] if others else []
    rows = []
    for each, answers, rebuilt in seen:
        labels = reported.labels if each.labelled else None
        metric, values = measured(answers, each.clean, labels)
        plain, clean = (float(measured(found, each.clean, labels)[1].mean()) for found in (each.plain, each.clean))
        low, high = map(float, interval(values))
        rows.append(
            Growth(
                attack=attack.name,
                tier=attack.tier,
                of=counted,
                count=count,
                reader=each.reader.name,
                metric=metric,
                value=float(values.mean()),
                n=len(values),
                ci95=(low, high),
                reconstruction_db=rebuilt,
                value_ne=plain,
                value_clean=clean,
            )  # fmt: skip
        )
    return rows
