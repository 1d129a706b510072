"""The report's sections on attacks: what anyone can do with a release, by what they know."""

from __future__ import annotations

from typing import Any

from ne_jax.attacks.registry import BY_NAME
from ne_jax.measure.attack_records import strongest
from ne_jax.report.result_tables import formats, table, told

TIERS = {
    1: "image processing, knows nothing",
    2: "NEs alone and public images",
    3: "pairs of clean image and NE",
    4: "the authorized model's first layer, or a sibling's",
    5: "labels: trains on NEs",
}
Record = dict[str, Any]


def worst(records: list[Record], release_format: str, tiers: tuple[int, ...], twice: bool = False) -> Record | None:
    """The record of these tiers that gives most back to a reader other than the authorized model; of attacks that need a picture released
    twice, which one secret prevents, if `twice`, else of the others."""
    return max(
        (
            row
            for row in records
            if row["release_format"] == release_format
            and row["tier"] in tiers
            and _other(row)
            and twice == (row["attack"] in BY_NAME and "again" in BY_NAME[row["attack"]].knows)
        ),
        key=_gain,
        default=None,
    )


def _gain(row: Record) -> float:
    """What an attack gives a reader: relatives of the authorized model read the files as they are."""
    return row["value"] - row["value_ne"]


def _other(row: Record) -> bool:
    return row["reader"] != row["authorized"] and row["metric"] != "feature_cosine"


def title(name: str) -> str:
    """An attack's title; its name if others sent it."""
    return BY_NAME[name].title if name in BY_NAME else name


def headline(records: list[Record], release_format: str) -> str:
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
            parts.append(f"{words} {row['value']:.1%} ({row['reader']}, {title(row['attack'])})")
    return f" Attacked: {'; '.join(parts)}." if parts else ""


def text(records: list[Record]) -> str:
    """The worst rows, for a terminal."""
    if not records:
        return 'attack.suite is "none": nothing attacked'
    lines = [f"{name}:{headline(records, name) or ' no reader but the authorized model'}" for name in formats(records)]
    return "\n".join([*lines, order_text(records).strip()])


def section(records: list[Record], not_run: list[dict], curve: list[dict], pictures: bool) -> str:
    """The threat table and what belongs to it."""
    if not records:
        return ""
    best = list(strongest(records).values())
    parts = [
        """## Attacks

For each attack the reader that it helps most, not counting the authorized model; its parameters were chosen on images of the
attacker's own, not on those that are counted. "As it is": that reader on the stored files. Recovery: share of what the reader lost that
the attack gives back. Control: the same attack on clean images, whose PSNR afterwards is its damage. Rebuilt: PSNR of the attacked NEs
against the clean images (medians, dB). **Bold: the worst row of the release**, which is what its protection is worth.
"""
    ]
    for name in formats(best):
        rows = [row for row in best if row["release_format"] == name]
        parts.append(_threats(rows, name))
    if pictures:
        parts.append(
            "![Rows: images. Columns: clean, NE, and after the best attacks of each kind](figures/attacks.png)\n"
        )
    parts.append(order_text(best))
    if curve:
        alt = "Value of each reader against the number of NEs, pairs or labels that an attacker has"
        parts.append(f"![{alt}](figures/attack_curves.png)\n")
        parts.append("What each number of NEs, pairs or labels gives back, by the quick suite. Bars: 95 % intervals.\n")
    if not_run:
        lines = sorted({f"- {row['release_format']}, {title(row['attack'])}: {row['why']}" for row in not_run})
        parts.append("Not run, and why:\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _threats(rows: list[Record], release_format: str) -> str:
    head = [
        "tier", "attack", "after it", "as it is", "clean", "recovery", "reader", "control", "damage, dB", "rebuilt, dB",
    ]  # fmt: skip
    by_attack: dict[str, list[Record]] = {}
    for row in rows:
        if _other(row):
            by_attack.setdefault(row["attack"], []).append(row)
    shown = [max(found, key=_gain) for found in by_attack.values()]
    shown.sort(key=lambda row: (row["tier"], -_gain(row)))
    most = max((_gain(row) for row in shown), default=None)
    cells = [[f"**{cell}**" if _gain(row) == most else cell for cell in _cells(row)] for row in shown]
    strength = "" if rows[0]["psnr_db"] is None else f" at {rows[0]['psnr_db']:z.1f} dB"
    n = shown[0]["n"] if shown else 0
    return f"**{release_format}**{strength}, n = {n}, {len(by_attack)} attacks:\n\n" + table(head, cells)


def _what(row: Record) -> str:
    """Attack, parameters, and who measured it, if not we."""
    settings = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row["parameters"].items()
    ]
    by = "" if row["by"] == "ne_jax" else f" (by {row['by']})"
    return title(row["attack"]) + (f": {', '.join(settings)}" if settings else "") + by


def _cells(row: Record) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        str(row["tier"]), _what(row), told(row), f"{row['value_ne']:.1%}", f"{row['value_clean']:.1%}",
        number(row["recovery"], ".0%"), row["reader"], number(row["value_control"], ".1%"), number(row["damage_db"], "z.1f"),
        number(row["reconstruction_db"], "z.1f"),
    ]  # fmt: skip


def order(records: list[Record]) -> tuple[int, int]:
    """Cells in which white-box >= known-plaintext >= ciphertext-only, and all cells: a cell is a release with what one of its readers
    reads after the best attack of tiers 4, 3 and 2, or with the best PSNR that these rebuild, to .1 dB. A sanity check of the attacks."""
    cells: dict[tuple, dict[int, float]] = {}
    for row in records:
        if row["tier"] not in (2, 3, 4):
            continue
        rebuilt = row["reconstruction_db"]
        found = [((row["release_format"], "rebuilt"), None if rebuilt is None else round(rebuilt, 1))]
        if _other(row):
            found.append(((row["release_format"], row["reader"]), row["value"]))
        for cell, value in found:
            if value is not None:
                best = cells.setdefault(cell, {})
                best[row["tier"]] = max(value, best.get(row["tier"], value))
    whole = [best for best in cells.values() if len(best) == 3]
    return sum(best[4] >= best[3] >= best[2] for best in whole), len(whole)


def order_text(records: list[Record]) -> str:
    """The sanity check in words."""
    good, total = order(records)
    return (
        f"Check of the attacks: tier 4 >= tier 3 >= tier 2 in {good} of {total} cells (readers and rebuilt PSNR), as it should be "
        "where changes lie in one subspace; those of `deep` do not.\n"
    )


def robustness(grid: list[Record]) -> str:
    """Tier 1 with every parameter: what it does to the authorized model, and to the others: robustness and attack in one table."""
    if not grid:
        return ""
    parts = [
        """## Image processing: the authorized model and the others

Each line is one way to process the stored files. The authorized model should stay, the others should not come back.
"""
    ]
    for name in formats(grid):
        rows = [row for row in grid if row["release_format"] == name]
        parts.append(table(*_robust(rows, name)))
    return "\n".join(parts)


def _robust(rows: list[Record], release_format: str) -> tuple[list[str], list[list[str]]]:
    lines: dict[tuple[str, str], list[Record]] = {}
    for row in rows:
        lines.setdefault((row["attack"], str(row["parameters"])), []).append(row)
    first = rows[0]
    own_name, own_as_is = first["authorized"], next(r for r in rows if r["reader"] == first["authorized"])
    head = [
        release_format, f"{own_name} (authorized; {own_as_is['metric']}, as it is {told_value(own_as_is, 'value_ne')})",
        "its clean images so processed", "best other reader", f"n = {first['n']}: what it reads",
    ]  # fmt: skip
    body = []
    for found in lines.values():
        own = next(row for row in found if row["reader"] == own_name)
        others = [row for row in found if _other(row)]
        best = max(others, key=lambda row: row["value"], default=None)
        body.append(
            [
                _what(found[0]),
                told(own),
                told_value(own, "value_control"),
                best["reader"] if best else "-",
                told(best) if best else "-",
            ]
        )
    return head, body


def told_value(row: Record, field: str) -> str:
    """One of a record's values, in its metric's own form."""
    if row[field] is None:
        return "-"
    return f"{row[field]:.4f}" if row["metric"] == "feature_cosine" else f"{row[field]:.1%}"
