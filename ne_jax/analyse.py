"""Stage analyse: why the release works, or does not: spectra of first layers and of data, and how they lie to each other.

What the paper on non-transferable examples explains them by, measured on the job's models and images with baselines, and its link
from spectra to deviation put to the test.
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float32

from ne_jax import analysis_figures as figures
from ne_jax import analysis_items as items
from ne_jax import release, spectral
from ne_jax.analysis_items import Pixels, Subject
from ne_jax.errors import UserError
from ne_jax.job import Job, load_named
from ne_jax.models.model import Model
from ne_jax.pixels import from_bytes, to_float
from ne_jax.preprocess import adapt
from ne_jax.spectrum import spectrum
from ne_jax.subspace import low_sensitivity
from ne_jax.tables import table

ANALYSIS = "analysis.json"
_LARGE = 50_000  # numbers of an image above which a Jacobian's products are worth saving


def run(
    job: Job,
    *,
    images: int = 64,
    bases: int = 8,
    draws: int = 32,
    depths: int = 3,
    jacobian_images: int = 2,
    directions: int = 8,
) -> dict:
    """Write analysis.json and the figures, and return what was found.

    images: of the source, at most 64. bases: random orthonormal bases that alignment is compared with. draws: noise images that a gain
    is measured on. depths: how many, from the first layer to the last block, on `jacobian_images` images with `directions` singular
    values each; one image and two values where images are large.
    """
    clean = job.sample_pixels()[:images]
    subjects = _subjects(job, clean)
    folder = job.workdir / "figures"
    rows = items.pair_rows(subjects, draws)
    found = {
        "authorized": job.authorized.name,
        "rule": f"{job.config.subspace.rule} {job.config.subspace.value:g}",
        "images": len(clean),
        "without_subspace": {each.model.name: each.reason for each in subjects if each.reason},
        "spectra": {each.model.name: items.spectrum_row(each) for each in subjects},
        "alignment": {each.model.name: items.alignment_row(each.model, from_bytes(clean), bases) for each in subjects},
        "pairs": rows,
        "preparations": items.preparation_rows(job.authorized, job.space, clean),
        "depths": _depths(job, clean, depths, jacobian_images, directions),
        "link": items.link_rows(subjects, rows),
    }
    release.write_json(job.workdir / ANALYSIS, found)
    figures.spectra(folder / "spectra.png", found["spectra"])
    figures.alignment(folder / "alignment.png", found["alignment"])
    figures.pairs(folder / "pairs.png", rows)
    figures.preparations(folder / "preparations.png", found["preparations"])
    if "rows" in found["depths"]:
        figures.depths(folder / "depths.png", found["depths"]["rows"])
    figures.link(folder / "link.png", found["link"])
    return found


def _subjects(job: Job, clean: Pixels) -> list[Subject]:
    """The authorized models first, then the readers, each once."""
    models = {model.name: model for model in (job.authorized, *job.also)}
    for name in job.config.readers:
        if name not in models:
            models[name] = load_named(job.config, name)
    return [_subject(job, model, from_bytes(clean)) for model in models.values()]


def _subject(job: Job, model: Model, images: Float32[np.ndarray, "n height width channels"]) -> Subject:
    rule, layer, found = job.config.subspace, model.first_layer, None
    try:
        found = spectrum(layer, model.preprocess.image_shape)
        if model.name == job.authorized.name:
            return Subject(model, found, job.space)
        seen = jax.vmap(layer.response)(adapt(images, model.preprocess))
        norm = float(np.median(np.linalg.norm(np.asarray(seen).reshape(len(seen), -1), axis=1)))
        space = low_sensitivity(found, rule.rule, rule.value, psnr_db=job.config.recode.psnr_db, feature_norm=norm)
    except UserError as error:
        return Subject(model, found, None, str(error))
    return Subject(model, found, space)


def _depths(job: Job, clean: Pixels, depths: int, images: int, directions: int) -> dict:
    large = clean[0].size > _LARGE
    images, directions = (1, min(directions, 2)) if large else (images, directions)
    try:
        outputs = spectral.outputs_by_depth(job.authorized)
    except UserError as error:
        return {"left_out": str(error)}
    chosen = to_float(clean[:images])
    return {"rows": items.depth_rows(outputs, chosen, job.space, depths, directions, 24 if large else 48)}


def describe(found: dict) -> str:
    """Markdown for the report: each figure with what it says in words, and its numbers in a short table."""
    parts = (_spectra, _alignment, _pairs, _preparations, _describe_depths, _link)
    return "\n".join(["## Why it works\n", *(part(found) for part in parts)])


def _spectra(found: dict) -> str:
    rows = [
        [name, figures.UNITS[row["unit"]], f"{row['rank']:,} of {row['directions']:,}", f"{row['effective_rank']:,.1f}"]
        + [f"{row['flatness']:.3f}", f"{row['sigma_1']:.3g}"]
        for name, row in found["spectra"].items()
    ]
    return f"""### Spectra of first layers

![Singular values of every model's first layer relative to the largest, against the share of directions](figures/spectra.png)

Effective rank: exp(-sum p log p), p = sigma^2 / sum sigma^2. Flatness: geometric over arithmetic mean of sigma^2 without zeros; 1 is flat.
Where windows overlap the directions are those of an image that wraps around.

{table(["model", "directions of", "rank", "effective rank", "flatness", "sigma_1"], rows)}"""


def _range(limits: list[float]) -> str:
    return f"{limits[0]:.1%} to {limits[1]:.1%}"


def _alignment(found: dict) -> str:
    rows = []
    for name, row in found["alignment"].items():
        tenth, chance = row["tenth"], [_range(row["tenth"][f"random_{key}"]) for key in ("variance", "overlap")]
        cells = [f"{tenth['variance']:.1%}", chance[0], f"{tenth['most']:.1%}", f"{tenth['overlap']:.1%}", chance[1]]
        rows.append([name, f"{tenth['directions']} of {row['directions']}", f"{row['windows']:,}", *cells])
    head = ["model", "most sensitive", "windows", "variance in them", "by chance", "PCA", "PC overlap", "by chance"]
    bases = next(iter(found["alignment"].values()))["random"]["draws"]
    return f"""### First layers and the data

![Share of the data's variance, and overlap with its principal components, by direction rank, beside random bases](figures/alignment.png)

Right singular vectors of the first layer, in order, against the principal components of what its windows see of {found["images"]} clean
images, prepared as the model's own rule says. By chance: range of {bases} random orthonormal bases. PCA: the most there can be.

{table(head, rows)}"""


def _pairs(found: dict) -> str:
    rows = []
    for row in found["pairs"]:
        low, high = row["measured_ci95"]
        exact = "-" if row["relative_gain"] is None else f"{row['relative_gain']:.3g}"
        angles = [f"{row[key]:.3g}" if key in row else "-" for key in ("exposure", "exposure_by_chance")]
        rows.append(
            [row["noise_for"], row["reader"], f"{row['measured_gain']:.3g} [{low:.3g}, {high:.3g}]", exact, *angles]
        )
    without = "".join(f"\n- {name} has no subspace here: {why}" for name, why in found["without_subspace"].items())
    head = ["noise for", "reader", "gain, measured [95 %]", "gain, exact", "exposure", "by chance"]
    draws = found["pairs"][0]["draws"]
    return f"""### Noise of one model at another's first layer

![Relative gain of every pair of models with 95 % intervals, and the principal angles of pairs of one geometry](figures/pairs.png)

Gain: energy of noise in the subspace over that of isotropic noise of the same norm, through the reader's own resize and crop and its first
layer ({draws} noise images each, bootstrap); 1 is no help from the subspace. Exact: (tr M / k) / (tr G / d), of images that wrap around
where windows overlap. Exposure: share of the noise among the reader's sensitive directions. Every model's subspace is chosen by the rule
{found["rule"]}, of a patch or, where windows overlap, of an image.
{without}

{table(head, rows)}"""


def _preparations(found: dict) -> str:
    rows = [
        [name, f"{row['total_variance']:.3g}", f"{row['data_effective_rank']:.1f}", f"{row['tenth']['variance']:.2%}"]
        + [f"{row['tenth']['overlap']:.2%}", f"{row['energy_in_subspace']:.2%}"]
        for name, row in found["preparations"].items()
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

The same {found["images"]} images through Pillow, against the first layer of {found["authorized"]}.

{table(head, rows)}"""


def _middle(values: list[float]) -> str:
    low, middle, high = np.percentile(values, (0, 50, 100))
    return f"{middle:.3g}" if len(values) == 1 else f"{middle:.3g} ({low:.3g} to {high:.3g})"


def _describe_depths(found: dict) -> str:
    if "left_out" in found["depths"]:
        return f"### Deeper layers\n\nNot measured: {found['depths']['left_out']}.\n"
    rows = [
        [row["name"], f"{max(row['numbers'] - row['outputs'], 0):,} of {row['numbers']:,}"]
        + [
            _middle([values[0] for values in row["largest"]]),
            _middle([values[-1] / values[0] for values in row["largest"]]),
        ]
        + [_middle(row["stable_rank"]), _middle(row["subspace_gain"]), f"{row['residual']:.1g}"]
        for row in found["depths"]["rows"]
    ]
    count = len(found["depths"]["rows"][0]["largest"][0])
    head = [
        "output of",
        "exactly null, at least",
        "sigma_1",
        f"sigma_{count} / sigma_1",
        "stable rank",
        "gain of the noise",
        "residual",
    ]
    images = len(found["depths"]["rows"][0]["largest"])
    return f"""### Deeper layers

![Largest singular values, stable rank and gain of noise in the subspace, by depth](figures/depths.png)

Jacobian of the network's output at a depth, with respect to pixels, at {images} image(s): median and range. Stable rank: norm(J)_F^2 /
sigma_1^2. Gain: of noise in the first layer's subspace, over isotropic noise. Residual: of the search, relative to sigma_1^2.

{table(head, rows)}"""


def told(row: dict) -> str:
    """A correlation with its interval."""
    if row["value"] is None:
        return "-"
    limits = "" if row["interval"] is None else f" [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]"
    return f"{row['value']:.2f}{limits}"


def _link(found: dict) -> str:
    names = {"spectral_gap": "spectral gap", "exact_energy": "exact trace"}
    targets = {"measured_energy": "energy", "measured_gain": "gain"}
    rows = [
        [names[row["predictor"]], targets[row["target"]], row["pairs"], str(row["pearson"]["n"]), told(row["pearson"])]
        + [told(row["spearman"])]
        for row in found["link"]["correlations"]
    ]
    return f"""### Does the gap of the spectra tell the deviation?

![Hoffman-Wielandt gap and exact trace prediction against the measured energy at the reader's first layer](figures/link.png)

The paper links sum (sigma_i(A) - sigma_i(B))^2 of two first layers, here of their maps of one image, to how far noise for one deviates in
the other. Energy: norm(T_u delta)^2 / norm(delta)^2, which grows with the reader's own scale, as the gap does; gain: the same over that
of isotropic noise, without the scale. Brackets: Fisher's 95 % interval. Pairs share models, so the true intervals are wider. The gap is
blind to directions: a rotated copy of a layer has gap 0 and may read nothing.

{table(["prediction", "of the", "pairs", "n", "Pearson", "Spearman"], rows)}"""
