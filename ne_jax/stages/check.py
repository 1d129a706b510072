"""Stage check: certificates of the stored files, image by image, and of the set."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Array, Float32
from msgspec import UNSET
from tqdm import tqdm

from ne_jax import files
from ne_jax.core import bounds
from ne_jax.core.pixels import from_bytes
from ne_jax.errors import UserError
from ne_jax.models.model import Model
from ne_jax.release import manifest, owner_files
from ne_jax.release.certificates import (
    SMALL_CHANGE,
    AlsoAuthorized,
    ImageCertificate,
    ReaderDeviation,
    SetCertificate,
    digests,
    stored_statistics,
)  # fmt: skip
from ne_jax.release.signature import SIGNATURE
from ne_jax.stages.job import Job
from ne_jax.stages.pairs import Pairs, pairs

SUMMARY = "check.json"
_TAIL_T = 3.0  # each Laurent-Massart limit may fail with probability exp(-3) = 5 %


Columns = dict[str, np.ndarray]  # figures by name, an entry an image


def run(job: Job) -> dict[str, SetCertificate]:
    """Certify every release; writes private/certificates.jsonl (a line an image) and check.json, and each manifest's summary."""
    readers = [reader for reader in job.readers() if reader.name != job.authorized.name]
    readers = [reader for reader in readers if bounds.same_patches(reader.first_layer, job.space)]
    _check_signed(job)
    lines: list[str] = []
    summary = {}
    for name in job.config.release.formats:
        column, others, energies = _certify_release(job, name, readers)
        lines += [json.dumps(row.to_json(), allow_nan=False) for row in _rows(name, column)]
        summary[name] = _summary(column, others, _deviation(job, energies, readers))
        manifest.add_certificate(job.release_dir(name), summary[name], job.config.release.signing_key)
    owner_files.write_lines(job.private_dir / owner_files.CERTIFICATES, lines)
    files.write_json(job.workdir / SUMMARY, summary)
    return summary


def _check_signed(job: Job) -> None:
    """Raise UserError where a release is signed and would not be afterwards: check changes its manifest."""
    for name in job.config.release.formats:
        path = job.release_dir(name) / SIGNATURE
        if not job.config.release.signing_key and path.exists():
            raise UserError(
                f"{path}: the release is signed, and --stage=check writes its manifest anew; give --config.release.signing_key, or remove "
                "this file"
            )


def _certify_release(
    job: Job, release_format: str, readers: list[Model]
) -> tuple[Columns, dict[str, AlsoAuthorized], dict[str, np.ndarray]]:
    """What is certified of each image; the set's certificate of every model that is authorized beside the first; and for each reader
    the energy of each image's noise at its first layer, per noise variance."""
    columns: list[Columns] = []
    others: dict[str, list[Columns]] = {model.name: [] for model in job.also}
    energies: dict[str, list[np.ndarray]] = {reader.name: [] for reader in readers}
    with tqdm(total=len(job.source.names), desc=f"check {release_format}", unit="image") as bar:
        for pair in pairs(job, release_format):
            found = bounds.certify(job.authorized.first_layer, job.space, pair.clean, pair.stored)._asdict()
            found |= _execution(job.authorized, pair) | {"pixels_sha256": digests(pair.stored)}
            columns.append(_kept_rows(found, pair) | {"image": np.array(pair.names)})
            for model in job.also:
                bound = bounds.certify(model.first_layer, job.space, pair.clean, pair.stored)
                others[model.name].append(_kept_rows({"holds": bound.holds} | _execution(model, pair), pair))
            noise = _noise(job, pair)
            variance = np.sum(noise**2, axis=(1, 2, 3)) / (job.space.num_patches * job.space.num_directions)
            for reader in readers:
                energy = np.asarray(bounds.noise_energy(reader.first_layer, noise))
                energies[reader.name].append((energy / np.maximum(variance, 1e-30))[: pair.kept])
            bar.update(pair.kept)
    if not columns:
        raise UserError(
            f"{job.release_dir(release_format)} holds no image, so there is nothing to certify; {job.workdir / 'problems.json'} says why"
        )
    joined = {name: np.concatenate(parts) for name, parts in energies.items()}
    return _joined(columns), {name: _also(_joined(parts)) for name, parts in others.items()}, joined


def _kept_rows(found: dict[str, Array | np.ndarray], pair: Pairs) -> Columns:
    return {key: np.asarray(column)[: pair.kept] for key, column in found.items()}


def _joined(parts: list[Columns]) -> Columns:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _rows(release_format: str, column: Columns) -> Iterator[ImageCertificate]:
    """A certificate an image."""
    values = {key: entries.tolist() for key, entries in column.items()} | {"psnr_db": files.finite(column["psnr_db"])}
    for row in zip(*values.values(), strict=True):
        yield ImageCertificate(release_format=release_format, **dict(zip(values, row, strict=True)))


def _also(column: Columns) -> AlsoAuthorized:
    return AlsoAuthorized(
        n=len(column["holds"]),
        bound_holds=int(column["holds"].sum()),
        utility_kept=int(column["utility_kept"].sum()),
        **_kept(column),
        feature_cosine_min=float(column["feature_cosine"].min()),
    )


def _execution(model: Model, pair: Pairs) -> dict[str, Array | np.ndarray]:
    """What running the authorized model on the clean and on the stored images shows, image by image."""
    before, after = model(pair.clean), model(pair.stored)
    clean, features = np.asarray(before.features), np.asarray(after.features)
    found = {
        "feature_cosine": bounds.row_cosines(clean, features),
        "feature_norm": np.linalg.norm(features, axis=1),
    }
    if before.logits is None:
        change = np.linalg.norm(features - clean, axis=1)
        return found | {"utility_kept": change <= SMALL_CHANGE * np.linalg.norm(clean, axis=1)}
    said = bounds.compare_logits(before.logits, after.logits)
    return said._asdict() | found | {"utility_kept": said.kept}


def _noise(job: Job, pair: Pairs) -> Float32[np.ndarray, "batch height width channels"]:
    """The change without the removal of the image's own part."""
    clean = from_bytes(pair.clean)
    removed = np.asarray(jax.vmap(job.space.project)(clean)) if job.config.recode.replace else 0
    return pair.stored - clean + removed


def _summary(
    column: Columns, others: dict[str, AlsoAuthorized], deviation: dict[str, ReaderDeviation]
) -> SetCertificate:
    wide = {
        key: entries.astype(np.float64) if entries.dtype == np.float32 else entries for key, entries in column.items()
    }
    median = {key: float(np.median(entries)) for key, entries in wide.items() if entries.dtype == np.float64}
    moved = wide["feature_gap"] > 0
    return SetCertificate(
        n=len(wide["holds"]),
        bound_holds=int(wide["holds"].sum()),
        utility_kept=int(wide["utility_kept"].sum()),
        **_kept(wide),
        feature_cosine_median=median["feature_cosine"],
        feature_cosine_min=float(wide["feature_cosine"].min()),
        psnr_db_median=files.finite([median["psnr_db"]])[0],
        feature_gap_median=median["feature_gap"],
        feature_gap_expected=median["expected_gap"],
        relative_gap_median=median["relative_gap"],
        relative_gap_max=float(wide["relative_gap"].max()),
        bound_median=median["bound"],
        bound_over_gap_median=float(np.median(wide["bound"][moved] / wide["feature_gap"][moved]))
        if moved.any()
        else UNSET,
        stored=stored_statistics(wide),
        deviation=deviation,
        also_authorized=others or UNSET,
    )


def _kept(column: Columns) -> dict[str, int | float]:
    """The set's predictions; nothing for a network without a head."""
    if "kept" not in column:
        return {}
    n, failures = len(column["kept"]), int((~column["kept"]).sum())
    return {
        "prediction_kept": n - failures,
        "prediction_lost_at_most": bounds.failure_upper_bound(failures, n),
        "margin_min": float(column["margin"].min()),
        "logit_gap_median": float(np.median(column["logit_gap"])),
        "logit_gap_max": float(column["logit_gap"].max()),
    }


def _deviation(job: Job, energies: dict[str, np.ndarray], readers: list[Model]) -> dict[str, ReaderDeviation]:
    """For each reader with the same patches: measured energy against P s^2 trace(V_N^T G V_N) and its tails, image by image."""
    own = job.spectrum.singular_values
    found = {}
    for reader in readers:
        unit = bounds.reader_deviation(reader.first_layer, job.space, 1.0, _TAIL_T)
        ratio = energies[reader.name]
        values = np.linalg.svd(np.asarray(reader.first_layer.matrix), compute_uv=False)
        values = np.pad(values, (0, len(own)))[: len(own)]
        found[reader.name] = ReaderDeviation(
            measured_over_predicted=float(ratio.mean() / unit.mean),
            relative_gain=float(unit.relative_gain),
            below_lower_limit=float(np.mean(ratio < unit.lower)),
            above_upper_limit=float(np.mean(ratio > unit.upper)),
            limit_allows=float(np.exp(-_TAIL_T)),
            spectral_gap_not_sufficient=float(bounds.spectral_gap(own, values)),
        )
    return found
