"""Stage check: certificates of the stored files, image by image, and of the set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float32, Int, UInt8
from tqdm import tqdm

from ne_jax import bounds, data, manifest, private, release
from ne_jax.errors import UserError
from ne_jax.job import Job, load_named
from ne_jax.models.model import Model
from ne_jax.pixels import from_bytes

SUMMARY = "check.json"
_TAIL_T = 3.0  # each Laurent-Massart limit may fail with probability exp(-3) = 5 %


class Pairs(NamedTuple):
    """Stored images beside their clean pixels, both padded to the batch size; `kept` rows are real."""

    names: list[str]
    indices: Int[np.ndarray, " kept"]
    clean: UInt8[np.ndarray, "batch height width channels"]
    stored: Float32[np.ndarray, "batch height width channels"]
    kept: int


def pairs(job: Job, release_format: str, limit: int = 0) -> Iterator[Pairs]:
    """The release, read from its files, with the source's clean pixels, in padded batches; the first `limit` images (0: all)."""
    place = {name: index for index, name in enumerate(job.source.names)}
    size, seen = job.config.batch_size, 0
    for names, stored in release.read_release(job.release_dir(release_format), size):
        names = names[: limit - seen] if limit else names
        strangers = [name for name in names if name not in place]
        if strangers:
            raise UserError(
                f"the release holds {strangers[0]}, which the data source no longer has; restore the source"
            )
        kept, indices = len(names), np.array([place[name] for name in names])
        padded = np.zeros((size, *stored.shape[1:]), np.float32)
        padded[:kept] = stored[:kept]
        yield Pairs(names, indices, _clean(job, indices), padded, kept)
        seen += kept
        if limit and seen >= limit:
            return


def _clean(job: Job, indices: Int[np.ndarray, " kept"]) -> UInt8[np.ndarray, "batch height width channels"]:
    """Clean pixels of images that the release holds, padded. Raises UserError if one can no longer be read."""

    def broken(_: int, why: str) -> None:
        raise UserError(f"the source changed after the release was made: {why}; restore it")

    return next(
        data.batches(job.source, job.authorized.preprocess, job.config.batch_size, indices.tolist(), broken)
    ).pixels


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
    private.write_lines(job.private_dir / private.CERTIFICATES, lines)
    release.write_json(job.workdir / SUMMARY, summary)
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


def digests(stored: Float32[np.ndarray, "batch height width channels"]) -> np.ndarray:
    """SHA-256 of each image's numbers as `read_release` gives them: ties a certificate to what was certified, whatever the format."""
    return np.array([hashlib.sha256(np.ascontiguousarray(image)).hexdigest() for image in stored])


def _execution(model: Model, pair: Pairs) -> dict[str, Array | np.ndarray]:
    """What running the authorized model on the clean and on the stored images shows, image by image."""
    before, after = model(pair.clean), model(pair.stored)
    features = np.asarray(after.features)
    found = {
        "feature_cosine": bounds.cosine(np.asarray(before.features), features),
        "feature_norm": np.linalg.norm(features, axis=1),
    }
    return found if before.logits is None else bounds.compare_logits(before.logits, after.logits)._asdict() | found


def _as_json(row: dict) -> dict:
    return {key: release.finite([value])[0] if isinstance(value, float) else value for key, value in row.items()}


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
        "psnr_db_median": release.finite([np.median(column["psnr_db"])])[0],
        "feature_gap_median": float(np.median(column["feature_gap"])),
        "feature_gap_expected": expected,
        "relative_gap_median": float(np.median(column["relative_gap"])),
        "relative_gap_max": float(column["relative_gap"].max()),
        "bound_median": float(np.median(column["bound"])),
        "stored": stored_statistics(column),
    }


def stored_statistics(column: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """What the authorized model makes of the stored files, without the clean ones: the 5th, 50th and 95th percentile of the norm of
    its features and, with a head, of its margins. Whoever has the model can measure them again."""
    names = [name for name in ("margin", "feature_norm") if name in column]
    return {name: np.percentile(column[name], (5, 50, 95)).tolist() for name in names}


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
