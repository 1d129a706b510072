"""The report's section on why a release works: figures of stage analyse, and its numbers in short tables for the template."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from msgspec import UNSET

from ne_jax.measure.analysis_records import (
    AlignmentRow,
    Analysis,
    DepthRow,
    Depths,
    Limits,
    Link,
    PairRow,
    PreparationRow,
    SpectrumRow,
)
from ne_jax.measure.spectra_and_angles import Correlation
from ne_jax.report import analysis_figures as figures
from ne_jax.report.result_tables import table


def draw(folder: pathlib.Path, found: Analysis) -> None:
    """The section's figures."""
    figures.spectra(folder / "spectra.png", found.spectra)
    figures.alignment(folder / "alignment.png", found.alignment)
    figures.pairs(folder / "pairs.png", found.pairs)
    figures.preparations(folder / "preparations.png", found.preparations)
    if found.depths.rows is not UNSET:
        figures.depths(folder / "depths.png", found.depths.rows)
    figures.link(folder / "link.png", found.link)


def section(found: Analysis) -> dict[str, Any]:
    """The values of template analysis."""
    return {
        "authorized": found.authorized,
        "rule": found.rule,
        "images": found.images,
        "bases": next(iter(found.alignment.values())).random.draws,
        "draws": found.pairs[0].draws,
        "without_subspace": found.without_subspace,
        "spectra": _spectra(found.spectra),
        "alignment": _alignment(found.alignment),
        "pairs": _pairs(found.pairs),
        "preparations": _preparations(found.preparations),
        "link": _link(found.link),
    } | _deeper(found.depths)


def _spectra(found: dict[str, SpectrumRow]) -> str:
    head = ["model", "directions of", "rank", "effective rank", "flatness", "sigma_1"]
    rows = [
        [name, figures.UNITS[row.unit], f"{row.rank:,} of {row.directions:,}", f"{row.effective_rank:,.1f}"]
        + [f"{row.flatness:.3f}", f"{row.sigma_1:.3g}"]
        for name, row in found.items()
    ]
    return table(head, rows)


def _range(limits: Limits) -> str:
    return f"{limits[0]:.1%} to {limits[1]:.1%}"


def _alignment(found: dict[str, AlignmentRow]) -> str:
    head = ["model", "most sensitive", "windows", "variance in them", "by chance", "PCA", "PC overlap", "by chance"]
    rows = []
    for name, row in found.items():
        tenth = row.tenth
        cells = [f"{tenth.variance:.1%}", _range(tenth.random_variance), f"{tenth.most:.1%}"]
        cells += [f"{tenth.overlap:.1%}", _range(tenth.random_overlap)]
        rows.append([name, f"{tenth.directions} of {row.directions}", f"{row.windows:,}", *cells])
    return table(head, rows)


def _pairs(found: list[PairRow]) -> str:
    head = ["noise for", "reader", "gain, measured [95 %]", "gain, exact", "exposure", "by chance"]
    rows = []
    for row in found:
        low, high = row.measured_ci95
        exact = "-" if row.relative_gain is None else f"{row.relative_gain:.3g}"
        angles = ["-" if share is UNSET else f"{share:.3g}" for share in (row.exposure, row.exposure_by_chance)]
        rows.append([row.noise_for, row.reader, f"{row.measured_gain:.3g} [{low:.3g}, {high:.3g}]", exact, *angles])
    return table(head, rows)


def _preparations(found: dict[str, PreparationRow]) -> str:
    head = ["images", "variance of a window", "effective rank", "in the most sensitive tenth", "PC overlap"]
    rows = [
        [name, f"{row.total_variance:.3g}", f"{row.data_effective_rank:.1f}", f"{row.tenth.variance:.2%}"]
        + [f"{row.tenth.overlap:.2%}", f"{row.energy_in_subspace:.2%}"]
        for name, row in found.items()
    ]
    return table([*head, "energy in the subspace"], rows)


def _middle(values: list[float]) -> str:
    low, middle, high = np.percentile(values, (0, 50, 100))
    return f"{middle:.3g}" if len(values) == 1 else f"{middle:.3g} ({low:.3g} to {high:.3g})"


def _deeper(found: Depths) -> dict[str, Any]:
    """The template's values on deeper layers."""
    if found.left_out is not UNSET:
        return {"left_out": found.left_out}
    return {"left_out": "", "depth_images": len(found.rows[0].largest), "depths": _depths(found.rows)}


def _depths(found: list[DepthRow]) -> str:
    count = len(found[0].largest[0])
    head = ["output of", "exactly null, at least", "sigma_1", f"sigma_{count} / sigma_1", "stable rank"]
    rows = [
        [row.name, f"{max(row.numbers - row.outputs, 0):,} of {row.numbers:,}"]
        + [_middle([values[0] for values in row.largest]), _middle([values[-1] / values[0] for values in row.largest])]
        + [_middle(row.stable_rank), _middle(row.subspace_gain), f"{row.residual:.1g}"]
        for row in found
    ]
    return table([*head, "gain of the noise", "residual"], rows)


def told(row: Correlation) -> str:
    """A correlation with its interval."""
    if row.value is None:
        return "-"
    limits = "" if row.interval is None else f" [{row.interval[0]:.2f}, {row.interval[1]:.2f}]"
    return f"{row.value:.2f}{limits}"


def _link(found: Link) -> str:
    names = {"spectral_gap": "spectral gap", "exact_energy": "exact trace"}
    targets = {"measured_energy": "energy", "measured_gain": "gain"}
    rows = [
        [
            names[row.predictor],
            targets[row.target],
            row.pairs,
            str(row.pearson.n),
            told(row.pearson),
            told(row.spearman),
        ]
        for row in found.correlations
    ]
    return table(["prediction", "of the", "pairs", "n", "Pearson", "Spearman"], rows)
