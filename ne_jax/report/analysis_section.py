"""The report's section on why a release works: figures of stage analyse with their numbers in short tables."""

from __future__ import annotations

import pathlib

import numpy as np
from msgspec import UNSET

from ne_jax.measure.analysis_records import Analysis, Limits
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


def describe(found: Analysis) -> str:
    """Markdown for the report: each figure with what it says in words, and its numbers in a short table."""
    parts = (_spectra, _alignment, _pairs, _preparations, _describe_depths, _link)
    return "\n".join(["## Why it works\n", *(part(found) for part in parts)])


def _spectra(found: Analysis) -> str:
    rows = [
        [name, figures.UNITS[row.unit], f"{row.rank:,} of {row.directions:,}", f"{row.effective_rank:,.1f}"]
        + [f"{row.flatness:.3f}", f"{row.sigma_1:.3g}"]
        for name, row in found.spectra.items()
    ]
    return f"""### Spectra of first layers

![Singular values of every model's first layer relative to the largest, against the share of directions](figures/spectra.png)

Effective rank: exp(-sum p log p), p = sigma^2 / sum sigma^2. Flatness: geometric over arithmetic mean of sigma^2 without zeros; 1 is flat.
Where windows overlap the directions are those of an image that wraps around.

{table(["model", "directions of", "rank", "effective rank", "flatness", "sigma_1"], rows)}"""


def _range(limits: Limits) -> str:
    return f"{limits[0]:.1%} to {limits[1]:.1%}"


def _alignment(found: Analysis) -> str:
    rows = []
    for name, row in found.alignment.items():
        tenth = row.tenth
        cells = [f"{tenth.variance:.1%}", _range(tenth.random_variance), f"{tenth.most:.1%}"]
        cells += [f"{tenth.overlap:.1%}", _range(tenth.random_overlap)]
        rows.append([name, f"{tenth.directions} of {row.directions}", f"{row.windows:,}", *cells])
    head = ["model", "most sensitive", "windows", "variance in them", "by chance", "PCA", "PC overlap", "by chance"]
    bases = next(iter(found.alignment.values())).random.draws
    return f"""### First layers and the data

![Share of the data's variance, and overlap with its principal components, by direction rank, beside random bases](figures/alignment.png)

Right singular vectors of the first layer, in order, against the principal components of what its windows see of {found.images} clean
images, prepared as the model's own rule says. By chance: range of {bases} random orthonormal bases. PCA: the most there can be.

{table(head, rows)}"""


def _pairs(found: Analysis) -> str:
    rows = []
    for row in found.pairs:
        low, high = row.measured_ci95
        exact = "-" if row.relative_gain is None else f"{row.relative_gain:.3g}"
        angles = ["-" if share is UNSET else f"{share:.3g}" for share in (row.exposure, row.exposure_by_chance)]
        rows.append([row.noise_for, row.reader, f"{row.measured_gain:.3g} [{low:.3g}, {high:.3g}]", exact, *angles])
    without = "".join(f"\n- {name} has no subspace here: {why}" for name, why in found.without_subspace.items())
    head = ["noise for", "reader", "gain, measured [95 %]", "gain, exact", "exposure", "by chance"]
    draws = found.pairs[0].draws
    return f"""### Noise of one model at another's first layer

![Relative gain of every pair of models with 95 % intervals, and the principal angles of pairs of one geometry](figures/pairs.png)

Gain: energy of noise in the subspace over that of isotropic noise of the same norm, through the reader's own resize and crop and its first
layer ({draws} noise images each, bootstrap); 1 is no help from the subspace. Exact: (tr M / k) / (tr G / d), of images that wrap around
where windows overlap. Exposure: share of the noise among the reader's sensitive directions. Every model's subspace is chosen by the rule
{found.rule}, of a patch or, where windows overlap, of an image.
{without}

{table(head, rows)}"""


def _preparations(found: Analysis) -> str:
    rows = [
        [name, f"{row.total_variance:.3g}", f"{row.data_effective_rank:.1f}", f"{row.tenth.variance:.2%}"]
        + [f"{row.tenth.overlap:.2%}", f"{row.energy_in_subspace:.2%}"]
        for name, row in found.preparations.items()
    ]
    head = [
        "images",
        "variance of a window",
        "effective rank",
        "in the most sensitive tenth",
        "PC overlap",
        "energy in the subspace",
    ]
    return f"""### After image processing

![Principal components of the data, and its variance by the model's directions, after JPEG, resize and blur](figures/preparations.png)

The same {found.images} images through Pillow, against the first layer of {found.authorized}.

{table(head, rows)}"""


def _middle(values: list[float]) -> str:
    low, middle, high = np.percentile(values, (0, 50, 100))
    return f"{middle:.3g}" if len(values) == 1 else f"{middle:.3g} ({low:.3g} to {high:.3g})"


def _describe_depths(found: Analysis) -> str:
    if found.depths.left_out is not UNSET:
        return f"### Deeper layers\n\nNot measured: {found.depths.left_out}.\n"
    rows = [
        [row.name, f"{max(row.numbers - row.outputs, 0):,} of {row.numbers:,}"]
        + [
            _middle([values[0] for values in row.largest]),
            _middle([values[-1] / values[0] for values in row.largest]),
        ]
        + [_middle(row.stable_rank), _middle(row.subspace_gain), f"{row.residual:.1g}"]
        for row in found.depths.rows
    ]
    count = len(found.depths.rows[0].largest[0])
    head = [
        "output of",
        "exactly null, at least",
        "sigma_1",
        f"sigma_{count} / sigma_1",
        "stable rank",
        "gain of the noise",
        "residual",
    ]
    images = len(found.depths.rows[0].largest)
    return f"""### Deeper layers

![Largest singular values, stable rank and gain of noise in the subspace, by depth](figures/depths.png)

Jacobian of the network's output at a depth, with respect to pixels, at {images} image(s): median and range. Stable rank: norm(J)_F^2 /
sigma_1^2. Gain: of noise in the first layer's subspace, over isotropic noise. Residual: of the search, relative to sigma_1^2.

{table(head, rows)}"""


def told(row: Correlation) -> str:
    """A correlation with its interval."""
    if row.value is None:
        return "-"
    limits = "" if row.interval is None else f" [{row.interval[0]:.2f}, {row.interval[1]:.2f}]"
    return f"{row.value:.2f}{limits}"


def _link(found: Analysis) -> str:
    names = {"spectral_gap": "spectral gap", "exact_energy": "exact trace"}
    targets = {"measured_energy": "energy", "measured_gain": "gain"}
    rows = [
        [names[row.predictor], targets[row.target], row.pairs, str(row.pearson.n), told(row.pearson)]
        + [told(row.spearman)]
        for row in found.link.correlations
    ]
    return f"""### Does the gap of the spectra tell the deviation?

![Hoffman-Wielandt gap and exact trace prediction against the measured energy at the reader's first layer](figures/link.png)

The paper links sum (sigma_i(A) - sigma_i(B))^2 of two first layers, here of their maps of one image, to how far noise for one deviates in
the other. Energy: norm(T_u delta)^2 / norm(delta)^2, which grows with the reader's own scale, as the gap does; gain: the same over that
of isotropic noise, without the scale. Brackets: Fisher's 95 % interval. Pairs share models, so the true intervals are wider. The gap is
blind to directions: a rotated copy of a layer has gap 0 and may read nothing.

{table(["prediction", "of the", "pairs", "n", "Pearson", "Spearman"], rows)}"""
