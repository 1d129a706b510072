"""The report's sections on attacks: what anyone can do with a release, by what they know."""

from __future__ import annotations

from typing import Any

from ne_jax.attacks.registry import BY_NAME
from ne_jax.measure.forecast import forecasts
from ne_jax.measure.records import LOST, Attacked, Growth, NotRun, lost, strongest
from ne_jax.report import page
from ne_jax.report.result_tables import formats, number, table, told


def worst(records: list[Attacked], release_format: str, tiers: tuple[int, ...], twice: bool = False) -> Attacked | None:
    """The record of these tiers that gives most back to a reader, other than the authorized model, that lost something; of attacks that
    need a picture released twice, which one secret prevents, if `twice`, else of the others."""
    return max(
        (
            row
            for row in records
            if row.release_format == release_format
            and row.tier in tiers
            and _lost(row)
            and twice == (row.attack in BY_NAME and "again" in BY_NAME[row.attack].knows)
        ),
        key=_gain,
        default=None,
    )


def _gain(row: Attacked) -> float:
    """What an attack gives a reader."""
    return row.value - row.value_ne


def _other(row: Attacked) -> bool:
    return row.reader != row.authorized and row.metric != "feature_cosine"


def _lost(row: Attacked) -> bool:
    """Whether it is of a reader, other than the authorized model, from which the release took something."""
    return _other(row) and lost(row.value_ne, row.value_clean)


def unharmed(records: list[Attacked], release_format: str) -> list[str]:
    """Readers, other than the authorized model, that lost nothing."""
    rows = [row for row in records if row.release_format == release_format and _other(row)]
    return sorted({row.reader for row in rows} - {row.reader for row in rows if _lost(row)})


def _unharmed_text(names: list[str]) -> str:
    """A sentence about them; empty for none."""
    if not names:
        return ""
    who = "1 reader" if len(names) == 1 else f"{len(names)} readers"
    return f"Left out: {who} ({', '.join(names)}) that lost less than {LOST:.0%} of what they read of clean images."


def title(name: str) -> str:
    """An attack's title; its name if others sent it."""
    return BY_NAME[name].title if name in BY_NAME else name


def headline(records: list[Attacked], release_format: str) -> str:
    """The worst figures of a release in a sentence; empty if nothing was attacked."""
    parts = []
    for words, tiers, twice in (
        ("best blind attack", (1, 2), False),
        ("on pictures released twice, which one secret prevents", (2,), True),
        ("with known pairs", (3,), False),
        ("white-box", (4,), False),
        ("with labels", (5,), False),
    ):
        row = worst(records, release_format, tiers, twice)
        if row:
            parts.append(f"{words} {row.value:.1%} ({row.reader}, {title(row.attack)})")
    attacked = f"Attacked: {'; '.join(parts)}." if parts else ""
    return "".join(f" {each}" for each in (attacked, _unharmed_text(unharmed(records, release_format))) if each)


def by_files(growth: list[Growth], release_format: str) -> str:
    """What a release gives away by its number of files, and would by ten times as many, in a sentence; empty where nothing tells."""
    for found in forecasts(row for row in growth if row.release_format == release_format):
        last, ends = found.last, f"[{found.then_low:.0%}, {found.then_high:.0%}]"
        return (
            f" By the number of files: {title(last.attack)}, with fixed parameters, gives {last.reader} {last.value:.1%} from all "
            f"{last.count:,}; {found.times:g} times as many would give about {found.then:.0%} {ends} by extrapolation, "
            "the most of such attacks."
        )
    return ""


def text(records: list[Attacked]) -> str:
    """The worst rows, for a terminal."""
    if not records:
        return 'nothing attacked: attack.suite is "none", or attack.only names curves alone'
    lines = [f"{name}:{headline(records, name) or ' no reader but the authorized model'}" for name in formats(records)]
    return "\n".join([*lines, _order_text(records)])


def section(
    records: list[Attacked], not_run: list[NotRun], growth: list[Growth], pictures: bool
) -> dict[str, Any] | None:
    """The threat tables and what belongs to them; None where nothing was attacked."""
    if not records:
        return None
    best = list(strongest(records).values())
    return {
        "releases": [_threats([row for row in best if row.release_format == name], name) for name in formats(best)],
        "pictures": pictures,
        "order": _order_text(best),
        "growth": bool(growth),
        "by_files": [f"{name}:{told}" for name in formats(best) if (told := by_files(growth, name))],
        "not_run": sorted({f"{row.release_format}, {title(row.attack)}: {row.why}" for row in not_run}),
    }


def _threats(rows: list[Attacked], release_format: str) -> dict[str, Any]:
    head = [
        "tier", "attack", "after it", "as it is", "clean", "recovery", "reader", "control", "damage, dB", "rebuilt, dB",
    ]  # fmt: skip
    by_attack: dict[str, list[Attacked]] = {}
    for row in rows:
        if _lost(row):
            by_attack.setdefault(row.attack, []).append(row)
    shown = [max(found, key=_gain) for found in by_attack.values()]
    shown.sort(key=lambda row: (row.tier, -_gain(row)))
    most = max((_gain(row) for row in shown), default=None)
    cells = [[f"**{cell}**" if _gain(row) == most else cell for cell in _cells(row)] for row in shown]
    return {
        "name": release_format,
        "strength": "" if rows[0].psnr_db is None else f" at {rows[0].psnr_db:z.1f} dB",
        "n": shown[0].n if shown else 0,
        "attacks": len(by_attack),
        "left_out": _unharmed_text(unharmed(rows, release_format)),
        "table": table(head, cells),
    }


def _what(row: Attacked) -> str:
    """Attack, parameters, and who measured it, if not we."""
    settings = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.parameters.items()
    ]
    by = "" if row.by == "ne_jax" else f" (by {row.by})"
    return title(row.attack) + (f": {', '.join(settings)}" if settings else "") + by


def _cells(row: Attacked) -> list[str]:
    def form(value: float | None, spec: str) -> str:
        return "-" if value is None else format(value, spec)

    return [
        str(row.tier), _what(row), told(row), f"{row.value_ne:.1%}", f"{row.value_clean:.1%}", form(row.recovery, ".0%"),
        row.reader, form(row.value_control, ".1%"), form(row.damage_db, "z.1f"), form(row.reconstruction_db, "z.1f"),
    ]  # fmt: skip


def order(records: list[Attacked]) -> tuple[int, int]:
    """Cells in which white-box >= known-plaintext >= ciphertext-only, and all cells: a cell is a release with what one of its readers
    reads after the best attack of tiers 4, 3 and 2, or with the best PSNR that these rebuild, to .1 dB. A sanity check of the attacks."""
    cells: dict[tuple, dict[int, float]] = {}
    for row in records:
        if row.tier not in (2, 3, 4):
            continue
        rebuilt = row.reconstruction_db
        found = [((row.release_format, "rebuilt"), None if rebuilt is None else round(rebuilt, 1))]
        if _other(row):
            found.append(((row.release_format, row.reader), row.value))
        for cell, value in found:
            if value is not None:
                best = cells.setdefault(cell, {})
                best[row.tier] = max(value, best.get(row.tier, value))
    whole = [best for best in cells.values() if len(best) == 3]
    return sum(best[4] >= best[3] >= best[2] for best in whole), len(whole)


def _order_text(records: list[Attacked]) -> str:
    """The sanity check in words."""
    good, cells = order(records)
    return page.render("order", {"good": good, "cells": cells})


def robustness(grid: list[Attacked]) -> dict[str, Any] | None:
    """Tier 1 with every parameter: what it does to the authorized model, and to the others: robustness and attack in one table.
    None where there is none."""
    tables = [table(*_robust([row for row in grid if row.release_format == name], name)) for name in formats(grid)]
    return {"tables": tables} if tables else None


def _robust(rows: list[Attacked], release_format: str) -> tuple[list[str], list[list[str]]]:
    lines: dict[tuple[str, str], list[Attacked]] = {}
    for row in rows:
        lines.setdefault((row.attack, str(row.parameters)), []).append(row)
    first = rows[0]
    own_name, own_as_is = first.authorized, next(r for r in rows if r.reader == first.authorized)
    head = [
        release_format, f"{own_name} (authorized; {own_as_is.metric}, as it is {number(own_as_is.value_ne, own_as_is.metric)})",
        "its clean images so processed", "best other reader", f"n = {first.n}: what it reads",
    ]  # fmt: skip
    body = []
    for found in lines.values():
        own = next(row for row in found if row.reader == own_name)
        others = [row for row in found if _lost(row)]
        best = max(others, key=lambda row: row.value, default=None)
        body.append(
            [
                _what(found[0]),
                told(own),
                number(own.value_control, own.metric),
                best.reader if best else "-",
                told(best) if best else "-",
            ]
        )
    return head, body
