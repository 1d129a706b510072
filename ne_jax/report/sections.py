"""The report's text: what each template is given, in the order of the page. Sections on attacks and analyses have files of their own."""

from __future__ import annotations

import sys
from typing import Any

import jax
from msgspec import UNSET

from ne_jax.config import leaves
from ne_jax.measure.records import METRICS, Result
from ne_jax.recoding.design import Design
from ne_jax.release.certificates import SetCertificate, decibels, kept_in_words
from ne_jax.release.manifest import read_manifest
from ne_jax.release.owner_files import CERTIFICATES
from ne_jax.report import analysis_section, attack_sections, page
from ne_jax.report.gathered import Gathered
from ne_jax.report.result_tables import formats, main_conditions, result_table, table
from ne_jax.stages import attack
from ne_jax.stages.check import SUMMARY
from ne_jax.stages.evaluate import CURVE, RESULTS
from ne_jax.stages.inspect_model import INSPECTION, Inspection
from ne_jax.stages.job import Job
from ne_jax.stages.released import risks_of
from ne_jax.stages.versions import versions

_VERSIONS = ("ne_jax", "jax", "flax", "numpy", "pillow")


def text(job: Job, found: Gathered, attack_pictures: bool) -> str:
    """The report in Markdown; `attack_pictures`: there are pictures of attacked images."""
    name, designs = job.authorized.name, {each: job.design(each) for each in job.config.release.formats}
    sections: dict[str, dict[str, Any] | None] = {
        "headline": _headline(name, designs, found, risks_of(job)),
        "attacks": attack_sections.section(found.attacked, found.not_run, found.growth, attack_pictures),
        "readers": _readers(found.records),
        "pictures": {"name": name},
        "certificates": _certificates(designs, found.summary),
        "spectrum": _spectrum(found.inspected),
        "curve": {"n": found.curve[0].n} if found.curve else None,
        "robustness": attack_sections.robustness(found.grid),
        "analysis": None if found.analysis is None else analysis_section.section(found.analysis),
        "limits": {"name": name, "attacked": bool(found.attacked)},
        "reproduce": _reproduce(job),
    }
    return "\n\n".join(page.render(name, values) for name, values in sections.items() if values is not None) + "\n"


def _headline(name: str, designs: dict[str, Design], found: Gathered, risks: list[str]) -> dict[str, Any]:
    """name: of the authorized model. designs: of every format. risks: of pictures that are recoded more than once."""
    metric = _metric(found.records)
    releases = []
    for release_format, certified in found.summary.items():
        key = (release_format, "ne", metric)
        rows = [row for row in found.records if (row.release_format, row.condition, row.metric) == key]
        releases.append(
            {
                "name": release_format,
                "psnr_db": decibels(certified.psnr_db_median),
                "n": f"{certified.n:,}",
                "kept": kept_in_words(certified),
                "others": ", ".join(f"{row.reader} {row.value:.1%}" for row in rows if row.reader != name),
                "attacked": attack_sections.headline(found.attacked, release_format)
                + attack_sections.by_files(found.growth, release_format),
            }
        )
    marks = sorted({design.warning for design in designs.values()} - {""}) + risks
    return {"name": name, "marks": marks, "metric": metric.capitalize(), "releases": releases}


def _metric(records: list[Result]) -> str:
    """What the headline counts: accuracy where there are labels."""
    return "accuracy" if any(row.metric == "accuracy" for row in records) else "agreement"


def _readers(records: list[Result]) -> dict[str, Any]:
    shown = main_conditions(records)
    tables = [result_table(records, name, shown, metric) for name in formats(records) for metric in METRICS]
    return {"tables": [each for each in tables if each]}


def _certificates(designs: dict[str, Design], summary: dict[str, SetCertificate]) -> dict[str, Any]:
    head = [
        "release",
        "bound holds for the gap",
        "utility kept",
        "prediction kept",
        "lost on at most (95 %)",
        "worst cosine",
        "gap",
    ]
    rows = [
        [
            name,
            f"{found.bound_holds:,} of {found.n:,}",
            f"{found.utility_kept:,} of {found.n:,}" if found.utility_kept is not UNSET else "not told",
            f"{found.prediction_kept:,} of {found.n:,}" if found.prediction_kept is not UNSET else "no head",
            f"{found.prediction_lost_at_most:.2%}" if found.prediction_kept is not UNSET else "-",
            f"{found.feature_cosine_min:.4f}",
            f"{found.feature_gap_median:.3g}",
            f"{found.bound_median:.3g}",
            f"{found.bound_over_gap_median:.3g}" if found.bound_over_gap_median is not UNSET else "-",
            f"{found.relative_gap_median:.2g}",
        ]
        for name, found in summary.items()
    ]
    certified = table([*head, "bound", "bound / gap", "gap / response"], rows)
    exact = {name: found for name, found in summary.items() if designs[name].gaussian}
    others = [
        {"name": name, "design": designs[name].name, "ratios": ", ".join(_ratios(found))}
        for name, found in summary.items()
        if name not in exact and found.deviation
    ]
    return {"file": CERTIFICATES, "table": certified, "deviations": _deviations(exact), "others": others}


def _ratios(found: SetCertificate) -> list[str]:
    return [f"{reader} {entry.measured_over_predicted:.3g}" for reader, entry in found.deviation.items()]


def _deviations(summary: dict[str, SetCertificate]) -> str:
    """Of releases of Gaussian noise, for which the prediction is made."""
    head = ["release", "reader", "measured / predicted", "below limit", "above limit", "gain over isotropic"]
    rows = [
        [
            name,
            reader,
            f"{entry.measured_over_predicted:.3f}",
            f"{entry.below_lower_limit:.2%}",
            f"{entry.above_upper_limit:.2%}",
            f"{entry.relative_gain:.3g}",
            f"{entry.spectral_gap_not_sufficient:.3g}",
        ]
        for name, found in summary.items()
        for reader, entry in found.deviation.items()
    ]
    return table([*head, "spectral gap"], rows) if rows else ""


def _spectrum(inspected: Inspection) -> dict[str, Any]:
    return {
        "directions": inspected.directions,
        "of": inspected.patch_numbers,
        "whole": inspected.whole,
        "null": inspected.exact_null_directions,
        "energy": f"{inspected.image_energy_in_subspace:.1%}",
    }


def _reproduce(job: Job) -> dict[str, Any]:
    records = (RESULTS, attack.RESULTS, f"private/{CERTIFICATES}", SUMMARY, CURVE, INSPECTION)
    return {
        "date": read_manifest(job.release_dir(job.config.release.formats[0])).date,
        "versions": ", ".join(f"{name} {version}" for name, version in versions(*_VERSIONS).items()),
        "python": sys.version.split()[0],
        "devices": f"{jax.device_count()} {jax.devices()[0].platform}",
        "architecture": job.authorized.architecture,
        "sha256": job.authorized.sha256,
        "files": ", ".join(records),
        "settings": "\n".join(f"{name} = {value}" for name, value in leaves(job.config).items()),
    }
