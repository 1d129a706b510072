"""Stage check: certificates of the stored files, image by image, and of the set."""

from __future__ import annotations

import json

import jax
import numpy as np
from jaxtyping import Array, Float32
from tqdm import tqdm

from ne_jax import files
from ne_jax.core import bounds
from ne_jax.core.pixels import from_bytes
from ne_jax.models.model import Model
from ne_jax.release import manifest, owner_files
from ne_jax.release.certificates import digests, stored_statistics
from ne_jax.stages.job import Job, load_named
from ne_jax.stages.pairs import Pairs, pairs

SUMMARY = "check.json"
_TAIL_T = 3.0  # each Laurent-Massart limit may fail with probability exp(-3) = 5 %


def run(job: Job) -> dict:
    """Certify every release; writes private/certificates.jsonl (a line an image) and check.json, and each manifest's summary."""
    readers = [load_named(job.config, name) for name in job.config.readers if name != job.authorized.name]
    readers = [reader for reader in readers if bounds.same_patches(reader.first_layer, job.space)]
    lines: list[str] = []
    summary = {}
    for name in job.config.release.formats:
        rows, energies, others = _certify_release(job, name, readers)
        lines += [json.dumps({"release_format": name, **_as_json(row)}, allow_nan=False) for row in rows]
        summary[name] = _summary(rows) | {"deviation": _deviation(job, energies, readers)}
        if others:
            summary[name]["also_authorized"] = others
        manifest.add(job.release_dir(name), "certificate", _public(summary[name]))
    owner_files.write_lines(job.private_dir / owner_files.CERTIFICATES, lines)
    files.write_json(job.workdir / SUMMARY, summary)
    return summary


def _certify_release(
    job: Job, release_format: str, readers: list[Model]
) -> tuple[list[dict], dict[str, np.ndarray], dict[str, dict]]:
    """One row an image; for each reader the energy of each image's noise at its first layer, per noise variance; and the set's
    certificate of every model that is authorized beside the first."""
    rows: list[dict] = []
    others: dict[str, list[dict]] = {model.name: [] for model in job.also}
    energies: dict[str, list[np.ndarray]] = {reader.name: [] for reader in readers}
    with tqdm(total=len(job.source.names), desc=f"check {release_format}", unit="image") as bar:
        for pair in pairs(job, release_format):
            certificate = bounds.certify(job.authorized.first_layer, job.space, pair.clean, pair.stored)
            columns = {
                **certificate._asdict(),
                **_execution(job.authorized, pair),
                "pixels_sha256": digests(pair.stored),
            }
            columns = {key: np.asarray(value)[: pair.kept].tolist() for key, value in columns.items()}
            rows += [
                {"image": name, **dict(zip(columns, values, strict=True))}
                for name, values in zip(pair.names, zip(*columns.values(), strict=True), strict=True)
            ]
            for model in job.also:
                bound = bounds.certify(model.first_layer, job.space, pair.clean, pair.stored)
                seen = {"holds": bound.holds, **_execution(model, pair)}
                others[model.name].append({key: np.asarray(column)[: pair.kept] for key, column in seen.items()})
            noise = _noise(job, pair)
            variance = np.sum(noise**2, axis=(1, 2, 3)) / (job.space.num_patches * job.space.num_directions)
            for reader in readers:
                energy = np.asarray(bounds.noise_energy(reader.first_layer, noise))
                energies[reader.name].append((energy / np.maximum(variance, 1e-30))[: pair.kept])
            bar.update(pair.kept)
    joined = {name: np.concatenate(parts) for name, parts in energies.items()}
    return rows, joined, {name: _also(parts) for name, parts in others.items()}


def _also(parts: list[dict[str, np.ndarray]]) -> dict:
    column = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    cosine = {"feature_cosine_min": float(column["feature_cosine"].min())}
    return {"n": len(column["holds"]), "bound_holds": int(column["holds"].sum()), **_kept(column), **cosine}


def _execution(model: Model, pair: Pairs) -> dict[str, Array | np.ndarray]:
    """What running the authorized model on the clean and on the stored images shows, image by image."""
    before, after = model(pair.clean), model(pair.stored)
    features = np.asarray(after.features)
    found = {
        "feature_cosine": bounds.row_cosines(np.asarray(before.features), features),
        "feature_norm": np.linalg.norm(features, axis=1),
    }
    return found if before.logits is None else bounds.compare_logits(before.logits, after.logits)._asdict() | found


def _as_json(row: dict) -> dict:
    return {key: files.finite([value])[0] if isinstance(value, float) else value for key, value in row.items()}


def _noise(job: Job, pair: Pairs) -> Float32[np.ndarray, "batch height width channels"]:
    """The change without the removal of the image's own part."""
    clean = from_bytes(pair.clean)
    removed = np.asarray(jax.vmap(job.space.project)(clean)) if job.config.recode.replace else 0
    return pair.stored - clean + removed


def _summary(rows: list[dict]) -> dict:
    column = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    n, expected = len(rows), float(np.median(column["expected_gap"]))
    return {
        "n": n,
        "bound_holds": int(column["holds"].sum()),
        **_kept(column),
        "feature_cosine_median": float(np.median(column["feature_cosine"])),
        "feature_cosine_min": float(column["feature_cosine"].min()),
        "psnr_db_median": files.finite([np.median(column["psnr_db"])])[0],
        "feature_gap_median": float(np.median(column["feature_gap"])),
        "feature_gap_expected": expected,
        "relative_gap_median": float(np.median(column["relative_gap"])),
        "relative_gap_max": float(column["relative_gap"].max()),
        "bound_median": float(np.median(column["bound"])),
        "stored": stored_statistics(column),
    }


def _kept(column: dict[str, np.ndarray]) -> dict:
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


def _public(summary: dict) -> dict:
    """What of the summary stands in the public manifest."""
    return {key: value for key, value in summary.items() if key not in ("deviation", "margin_min", "logit_gap_max")}


def _deviation(job: Job, energies: dict[str, np.ndarray], readers: list[Model]) -> dict:
    """For each reader with the same patches: measured energy against P s^2 trace(V_N^T G V_N) and its tails, image by image."""
    own = job.spectrum.singular_values
    found = {}
    for reader in readers:
        unit = bounds.reader_deviation(reader.first_layer, job.space, 1.0, _TAIL_T)
        ratio = energies[reader.name]
        values = np.pad(np.linalg.svd(np.asarray(reader.first_layer.matrix), compute_uv=False), (0, len(own)))[
            : len(own)
        ]
        found[reader.name] = {
            "measured_over_predicted": float(ratio.mean() / unit.mean),
            "relative_gain": float(unit.relative_gain),
            "below_lower_limit": float(np.mean(ratio < unit.lower)),
            "above_upper_limit": float(np.mean(ratio > unit.upper)),
            "limit_allows": float(np.exp(-_TAIL_T)),
            "spectral_gap_not_sufficient": float(bounds.spectral_gap(own, values)),
        }
    return found
