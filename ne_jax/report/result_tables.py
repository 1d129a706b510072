"""Records and summaries as tables: Markdown, which a terminal shows well too."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET
from tabulate import tabulate

from ne_jax.measure.answers import BASELINES, CONDITIONS
from ne_jax.measure.records import METRICS, Attacked, Result
from ne_jax.release.certificates import SetCertificate, bound_in_words, decibels, kept_in_words, utility_in_words

NAMES = {
    "clean": "clean",
    "ne": "NE",
    "gaussian": "isotropic control",
    "subspace_noise": "noise in the subspace",
    "unconstrained": "surrogates led away, nobody authorized",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, with columns of one width; cells stay as they are."""
    return tabulate(rows, head, tablefmt="github", disable_numparse=True, preserve_whitespace=True)


def formats(records: Sequence[Result | Attacked]) -> list[str]:
    """Release formats in the records, in order."""
    return list(dict.fromkeys(row.release_format for row in records))


def number(value: float | None, metric: str) -> str:
    """A value in its metric's own form: a cosine as it is, a share in percent."""
    if value is None:
        return "-"
    return f"{value:.4f}" if metric == "feature_cosine" else f"{value:.1%}"


def told(row: Result | Attacked) -> str:
    """A record's value and its 95 % interval."""
    value, low, high = (number(each, row.metric) for each in (row.value, *row.ci95))
    return f"{value} [{low}, {high}]"


def result_table(records: list[Result], release_format: str, conditions: Sequence[str], metric: str) -> str:
    """Readers down, conditions across; each cell value [95 % interval]; PSNR and n in the head."""
    rows = {
        (row.reader, row.condition): row
        for row in records
        if (row.release_format, row.metric) == (release_format, metric)
    }
    readers = list(dict.fromkeys(reader for reader, _ in rows))
    if not readers:
        return ""
    heads = []
    for condition in conditions:
        row = rows[readers[0], condition]
        strength = "" if row.psnr_db is None else f", {row.psnr_db:z.1f} dB"
        heads.append(f"{NAMES[condition]}{strength}, n = {row.n:,}")
    cells = [[_bold(row_name, records), *(told(rows[row_name, c]) for c in conditions)] for row_name in readers]
    return table([f"{release_format}: {metric}", *heads], cells)


def _bold(reader: str, records: list[Result]) -> str:
    return f"**{reader}** (authorized)" if reader == records[0].authorized else reader


def main_conditions(records: list[Result]) -> list[str]:
    """Conditions of the main tables that the records have, in order."""
    present = {row.condition for row in records}
    return [condition for condition in (*CONDITIONS, *BASELINES) if condition in present]


def results_text(records: list[Result]) -> str:
    """The tables of evaluate, for a terminal."""
    shown = main_conditions(records)
    parts = [result_table(records, name, shown, metric) for name in formats(records) for metric in METRICS]
    return "\n\n".join(part for part in parts if part) + "\n"


def check_text(summary: dict[str, SetCertificate]) -> str:
    """The certificates of a check, for a terminal."""
    lines = []
    for name, found in summary.items():
        lines.append(
            f"{name}: {utility_in_words(found)}{kept_in_words(found)}; {bound_in_words(found)}; median feature gap "
            f"{found.relative_gap_median:.2g} of the layer's response, {decibels(found.psnr_db_median)} dB"
        )
        for other, row in (found.also_authorized or {}).items():
            lost = "" if row.prediction_kept is UNSET else f"; prediction kept on {row.prediction_kept:,}"
            lines.append(
                f"  {other}, authorized too: the bound holds for the gap on {row.bound_holds:,} of {row.n:,}{lost}"
            )
    return "\n".join(lines)
