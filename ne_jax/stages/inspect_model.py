"""Stage inspect: the first layer's spectrum, and what a release for this model would cost and stop, on a sample of the images."""

from __future__ import annotations

import jax
import numpy as np
from msgspec import UNSET, UnsetType

from ne_jax import files
from ne_jax.core import bounds
from ne_jax.core.leak_floor import leak_floor
from ne_jax.core.pixels import Images, to_float
from ne_jax.core.rules import strongest_psnr_db
from ne_jax.files import Record
from ne_jax.measure.answers import answer, scores
from ne_jax.models.model import Model
from ne_jax.recoding.designs import DESIGNS
from ne_jax.stages.artefact import keys_of, realised_psnr_db, recode_job
from ne_jax.stages.cost import cost
from ne_jax.stages.evaluate import control
from ne_jax.stages.job import Job
from ne_jax.stages.look_ahead import FEW
from ne_jax.stages.planned import Planned, planned

INSPECTION = "inspect.json"
_THRESHOLDS = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_LEAK = 0.1  # share of the images' energy in the subspace above which `replace` is worth a word
_DRAWN = 2000  # singular values that are kept for the picture, at most
_RECOMMENDED = {
    "guided": "For pictures with little noise: recode.design=guided with some recode.surrogates, as many directions are exactly null and "
    "changes in them cost the authorized model nothing. gaussian (float files) and boxed need no other model, and more noise.",
    "deep": "Recommended: recode.design=deep with some recode.surrogates, as no direction of the first layer is exactly null: noise "
    "alone would reach the authorized model before it stops others.",
}
_GAP = 0.01  # relative feature gap for which the largest safe strength is told


class ReaderRow(Record, kw_only=True):
    """What a reader makes of the sample in one format. The first two are absent where its images have another shape, and `agreement`
    where it has no head."""

    noise_to_signal: float | UnsetType = UNSET  # at its first layer, of norms
    gain_over_isotropic: float | UnsetType = UNSET  # of the noise's energy there, at the same PSNR
    agreement: float | UnsetType = UNSET  # share of images
    feature_cosine: float  # mean


class FormatRow(Record, kw_only=True):
    """What a format reaches on the sample. PSNR in dB."""

    design: str
    psnr_db_asked: float
    psnr_db_median: float
    psnr_db_strongest: float
    psnr_db_weakest: float
    readers: dict[str, ReaderRow]


class Inspection(Record, kw_only=True):
    """All of inspect.json."""

    authorized: str
    architecture: str
    checkpoint_sha256: str
    image_shape: tuple[int, int, int]
    window: tuple[int, int, int]
    whole: str  # what the directions are of: "a patch" or "an image"
    patch_numbers: int  # directions in all
    outputs: int
    exact_null_directions: int
    directions_by_threshold: dict[str, int]  # sigma / sigma_1 -> how many are not above it
    rule: str
    threshold: float
    directions: int  # in the subspace
    largest_relative_sigma: float  # sigma / sigma_1 there
    image_energy_in_subspace: float  # share
    best_linear_white_box_reconstruction_db: float | None  # None: nothing would be lost
    strongest_psnr_db_for_1_percent_gap: float | None  # None: any strength
    recommended_design: str
    sample: int  # images
    singular_value_places: list[int]  # which ones are kept, from 1
    singular_values: list[float]
    formats: dict[str, FormatRow]
    planned: list[Planned] | UnsetType = UNSET  # where inspect.planned_files is given


def run(job: Job) -> Inspection:
    """Write inspect.json and return it."""
    sample = job.sample_pixels()
    clean = sample[: FEW if cost(job) else None]
    floor = leak_floor(job.space, np.asarray(to_float(sample)))
    readers = list(job.readers())
    sigma = np.asarray(job.spectrum.singular_values, np.float64)
    null = int(np.sum(sigma <= np.prod(job.space.window) * np.finfo(np.float32).eps * sigma[0]))
    places = np.unique(np.linspace(0, len(sigma) - 1, _DRAWN).astype(int))
    allowed = strongest_psnr_db(job.space, _GAP, job.feature_norm)
    found = Inspection(
        authorized=job.authorized.name,
        architecture=job.authorized.architecture,
        checkpoint_sha256=job.authorized.sha256,
        image_shape=job.authorized.preprocess.image_shape,
        window=job.space.window,
        whole="a patch" if job.space.num_patches > 1 else "an image",
        patch_numbers=len(sigma),
        outputs=int(job.authorized.first_layer.kernel.shape[-1]),
        exact_null_directions=null,
        directions_by_threshold={f"{tau:g}": int(np.sum(sigma <= tau * sigma[0])) for tau in _THRESHOLDS},
        rule=job.config.subspace.rule,
        threshold=job.config.subspace.value,
        directions=job.space.num_directions,
        largest_relative_sigma=float(job.space.singular_values[0] / job.space.sigma_1),
        image_energy_in_subspace=_energy_share(job, clean),
        best_linear_white_box_reconstruction_db=floor if np.isfinite(floor) else None,
        strongest_psnr_db_for_1_percent_gap=allowed if np.isfinite(allowed) else None,
        recommended_design="guided" if job.space.num_patches > 1 and null else "deep",
        sample=len(clean),
        singular_value_places=(places + 1).tolist(),
        singular_values=sigma[places].tolist(),
        formats={name: _inspect_format(job, name, clean, readers) for name in job.config.release.formats},
        planned=planned(job) if job.config.inspect.planned_files else UNSET,
    )
    files.write_json(job.workdir / INSPECTION, found)
    return found


def _energy_share(job: Job, clean: np.ndarray) -> float:
    """Share of the images' energy around the model's mean pixel that lies in the subspace: what `replace` would remove."""
    centred = to_float(clean) - job.authorized.first_layer.mean
    inside = jax.vmap(job.space.project)(centred)
    return float((inside**2).sum() / (centred**2).sum())


def _inspect_format(job: Job, release_format: str, clean: np.ndarray, readers: list[Model]) -> FormatRow:
    """Strength that a format reaches on the sample, and what each reader makes of it."""
    stored = to_float(recode_job(job, release_format, clean))
    keys = keys_of(job, release_format, clean)
    psnr = realised_psnr_db(clean, stored)
    images = to_float(clean)
    noisy = control(keys, np.asarray(images), psnr, release_format)
    return FormatRow(
        design=job.design(release_format).name,
        psnr_db_asked=job.config.recode.psnr_db,
        psnr_db_median=float(np.median(psnr)),
        psnr_db_strongest=float(psnr.min()),
        psnr_db_weakest=float(psnr.max()),
        readers={reader.name: _reader_row(reader, images, stored, noisy) for reader in readers},
    )


def _reader_row(reader: Model, images: Images, stored: Images, noisy: Images) -> ReaderRow:
    """The noise at the reader's first layer, and the agreement that it keeps."""
    noise = {}
    if reader.preprocess.image_shape == images.shape[1:]:
        layer = reader.first_layer
        energy = bounds.noise_energy(layer, stored - images).mean()
        noise["noise_to_signal"] = float(np.sqrt(energy / bounds.noise_energy(layer, images - layer.mean).mean()))
        noise["gain_over_isotropic"] = float(energy / bounds.noise_energy(layer, noisy - images).mean())
    measured = scores(answer(reader, np.asarray(stored)), answer(reader, np.asarray(images)), None)
    return ReaderRow(**noise, **{metric: float(values.mean()) for metric, values in measured.items()})


def _removal(found: Inspection) -> str:
    """A word on `replace`, where much could leak and the design goes with it."""
    can = all("replace" in DESIGNS[entry.design].settings for entry in found.formats.values())
    return "; recode.replace=True removes it" if can and found.image_energy_in_subspace > _LEAK else ""


def describe(found: Inspection) -> str:
    """The inspection as a few lines of text."""
    lines = [
        f"{found.authorized}: first layer {list(found.window)} -> {found.outputs} outputs; {found.exact_null_directions} of "
        f"{found.patch_numbers} directions of {found.whole} are exactly null, {found.directions} are below the cut (largest sigma / "
        f"sigma_1 there: {found.largest_relative_sigma:.2g}).",
        f"They hold {found.image_energy_in_subspace:.1%} of the images' energy{_removal(found)}.",
    ]
    if found.best_linear_white_box_reconstruction_db is not None:
        lines.append(
            "Best linear white-box reconstruction: noise of any strength in these directions leaves "
            f"{found.best_linear_white_box_reconstruction_db:.1f} dB to whoever knows them and how images look."
        )
    if found.exact_null_directions == 0:
        lines.append("No direction is exactly null: the authorized model sees a little of every change.")
    for name, entry in found.formats.items():
        lines.append(
            f"{name} ({entry.design}): {entry.psnr_db_median:.1f} dB median on {found.sample} images (asked {entry.psnr_db_asked:g})"
        )
        lines += [f"  {reader}: {_seen(row)}{_kept(row)}" for reader, row in entry.readers.items()]
    lines += [] if found.planned is UNSET else _planned_lines(found.planned)
    lines.append(_RECOMMENDED[found.recommended_design])
    lines.append(
        f"Whoever has the first layer of {found.authorized} can compute this subspace and project it away. If the checkpoint is "
        "public, so is the subspace: then a release only keeps the images from models that are fed the files as they are."
    )
    return "\n".join(lines)


def _planned_lines(rows: list[Planned]) -> list[str]:
    """A line for each design and format: the reader that has most back by what learns from all files."""
    if not rows:
        return [
            "Planned files: no reader but the authorized model loses anything by these designs, so there is nothing to give away."
        ]
    best: dict[tuple[str, str], Planned] = {}
    for row in rows:
        before = best.setdefault((row.design, row.release_format), row)
        if row.value - row.value_ne > before.value - before.value_ne:
            best[row.design, row.release_format] = row
    return [
        f"{design}, {name}, {row.files:,} files: {'gives itself away' if row.gives_away else 'does not give itself away'} to what learns "
        f"from all files; {row.reader} reads {row.value:.0%} [{row.ci95[0]:.0%}, {row.ci95[1]:.0%}] after {row.attack} "
        f"(as they are {row.value_ne:.0%}, clean {row.value_clean:.0%}; n = {row.n})."
        for (design, name), row in best.items()
    ]


def _seen(row: ReaderRow) -> str:
    if row.noise_to_signal is UNSET:
        return ""
    return f"noise / signal at its first layer {row.noise_to_signal:.3g} ({row.gain_over_isotropic:.2g} of isotropic), "


def _kept(row: ReaderRow) -> str:
    agreement = "" if row.agreement is UNSET else f"agreement {row.agreement:.0%}, "
    return f"{agreement}cosine of features {row.feature_cosine:.3f}"
