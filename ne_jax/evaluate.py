"""Stage evaluate: who can read the release. Every reader is given the same files, each with its own preprocessing."""

from __future__ import annotations

import json

import jax
import numpy as np
import scipy.stats
from absl import logging
from jaxtyping import Float32, Int
from tqdm import tqdm

from ne_jax import attacks, release
from ne_jax.check import Pairs, pairs
from ne_jax.encode import realised_psnr_db, recode_job
from ne_jax.job import Job, load_named
from ne_jax.models.registry import Model
from ne_jax.noise_keys import noise_keys
from ne_jax.preprocess import adapt
from ne_jax.recode import isotropic

RESULTS = "results.jsonl"
CURVE = "curve.jsonl"
# Conditions: the clean image; the stored NE; white noise of the NE's own PSNR in the same number format (not written to disk);
# and the NE after an attack.
CONDITIONS = ("clean", "ne", "gaussian")
ATTACKS = ("ne_mean_filter", "ne_projection")


def predict(model: Model, images: Float32[np.ndarray, "batch height width channels"]) -> Int[np.ndarray, " batch"]:
    """What the model says of images in pixel units, after its own preprocessing."""
    return np.asarray(model.apply(adapt(images, model.preprocess)).argmax(-1))


def record(
    job: Job, reader: str, condition: str, release_format: str, psnr: float | None, metric: str, hits: np.ndarray
) -> dict:
    """One line of results.jsonl; `ci95` is Wilson's interval."""
    n, good = len(hits), int(hits.sum())
    interval = scipy.stats.binomtest(good, n).proportion_ci(0.95, method="wilson")
    return {
        "authorized": job.authorized.name,
        "reader": reader,
        "condition": condition,
        "release_format": release_format,
        "psnr_db": None if psnr is None or not np.isfinite(psnr) else round(psnr, 3),
        "metric": metric,
        "value": good / n,
        "n": n,
        "ci95": [round(interval.low, 5), round(interval.high, 5)],
    }


def run(job: Job) -> list[dict]:
    """Evaluate every reader on every release; writes results.jsonl and curve.jsonl, returns the records of the former."""
    readers = [load_named(job.config, name) for name in job.config.readers]
    warn_of_labels(job, readers)
    records: list[dict] = []
    clean: dict[tuple[str, int], np.ndarray] = {}
    for name in job.config.release.formats:
        records += _evaluate_release(job, name, readers, clean)
    _write(job, RESULTS, records)
    _write(job, CURVE, _curve(job, readers))
    return records


def _write(job: Job, name: str, records: list[dict]) -> None:
    release.write_atomic(job.workdir / name, "".join(json.dumps(row) + "\n" for row in records))


def has_labels(job: Job, reader: Model) -> bool:
    """Whether the source's labels can be the reader's classes: there are labels, and as many classes."""
    return bool(len(job.source.classes)) and len(job.source.classes) == reader.num_classes


def _evaluate_release(
    job: Job, release_format: str, readers: list[Model], clean: dict[tuple[str, int], np.ndarray]
) -> list[dict]:
    """Records of one release. `clean` keeps what readers say of clean batches from one release to the next."""
    predicted: dict[tuple[str, str], list[np.ndarray]] = {}
    strengths: dict[str, list[np.ndarray]] = {}
    indices: list[np.ndarray] = []
    with tqdm(total=len(job.source.names), desc=f"evaluate {release_format}", unit="image") as bar:
        for pair in pairs(job, release_format):
            seen = sum(map(len, indices))
            for condition, view in _views(job, release_format, pair, seen).items():
                for reader in readers:
                    key = (reader.name, int(pair.indices[0]))
                    said = clean.get(key) if condition == "clean" else None
                    said = predict(reader, view)[: pair.kept] if said is None else said
                    predicted.setdefault((reader.name, condition), []).append(said)
                    if condition == "clean":
                        clean[key] = said
                if condition != "clean":
                    strengths.setdefault(condition, []).append(realised_psnr_db(pair.clean, view)[: pair.kept])
            indices.append(pair.indices)
            bar.update(pair.kept)
    labels = job.source.labels[np.concatenate(indices)]
    return _records(job, release_format, readers, predicted, strengths, labels)


def _views(job: Job, release_format: str, pair: Pairs, seen: int) -> dict[str, np.ndarray]:
    """What readers are given: clean pixels, the stored NE, its control, and on the first images the attacked NE."""
    clean = pair.clean.astype(np.float32) / 255
    keys = noise_keys(job.secret(), pair.clean)
    psnr = realised_psnr_db(pair.clean, pair.stored)
    views = {"clean": clean, "ne": pair.stored, "gaussian": control(keys, clean, psnr, release_format)}
    if seen < job.config.evaluate.attack_images:
        views["ne_mean_filter"] = np.asarray(attacks.mean_filter(pair.stored))
        views["ne_projection"] = np.asarray(attacks.remove_subspace(pair.stored, job.space))
    return views


def _records(job: Job, release_format: str, readers, predicted, strengths, labels) -> list[dict]:
    records = []
    for condition in (*CONDITIONS, *ATTACKS):
        psnr = None if condition == "clean" else float(np.median(np.concatenate(strengths[condition])))
        for reader in readers:
            said = np.concatenate(predicted[reader.name, condition])
            if condition in ATTACKS:
                said = said[: job.config.evaluate.attack_images]
            if has_labels(job, reader):
                hits = said == labels[: len(said)]
                records.append(record(job, reader.name, condition, release_format, psnr, "accuracy", hits))
            hits = said == np.concatenate(predicted[reader.name, "clean"])[: len(said)]
            records.append(record(job, reader.name, condition, release_format, psnr, "agreement", hits))
    return records


def control(keys, clean: np.ndarray, psnr: np.ndarray, release_format: str) -> np.ndarray:
    """White noise of each image's own PSNR (dB), from a key of its own, in the number format of the release."""
    apart = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    finite = np.where(np.isfinite(psnr), psnr, 100.0)  # padding has no change and any strength will do
    box = release_format == "png8"
    noisy = jax.vmap(lambda key, image, db: isotropic(key, image, db, box=box))(apart, clean, finite)
    return np.asarray(noisy)


def _curve(job: Job, readers: list[Model]) -> list[dict]:
    """Strength against accuracy (agreement where there are no labels) on the first images of each release's source: encoded anew at
    each strength in the release's number format, by noise alone (no `replace`), not written to disk. A strength that does not
    fit appears where it landed."""
    settings = job.config.evaluate
    records: list[dict] = []
    total = len(settings.curve_psnr_db) * len(job.config.release.formats)
    with tqdm(total=total, desc="strength curve", unit="point") as bar:
        for name in job.config.release.formats if total else ():
            batches = [(pair.indices, pair.clean, pair.kept) for pair in pairs(job, name, limit=settings.curve_images)]
            for asked in settings.curve_psnr_db:
                records += _curve_point(job, name, readers, batches, asked)
                bar.update(1)
    return records


def _curve_point(job: Job, release_format: str, readers: list[Model], batches, asked: float) -> list[dict]:
    secret = job.secret()
    hits: dict[tuple[str, str], list[np.ndarray]] = {}
    realised: list[np.ndarray] = []
    for indices, clean, kept in batches:
        keys = noise_keys(secret, clean)
        stored = recode_job(job, release_format, keys, clean, asked, replace=False)
        stored = stored.astype(np.float32) / 255 if stored.dtype == np.uint8 else stored
        psnr = realised_psnr_db(clean, stored)
        views = {"ne": stored, "gaussian": control(keys, clean.astype(np.float32) / 255, psnr, release_format)}
        realised.append(psnr[:kept])
        for reader in readers:
            truth = (
                job.source.labels[indices]
                if has_labels(job, reader)
                else predict(reader, clean.astype(np.float32) / 255)[:kept]
            )
            for condition, view in views.items():
                hits.setdefault((reader.name, condition), []).append(predict(reader, view)[:kept] == truth)
    psnr = float(np.median(np.concatenate(realised)))
    metric = {reader.name: "accuracy" if has_labels(job, reader) else "agreement" for reader in readers}
    return [
        record(job, reader, condition, release_format, psnr, metric[reader], np.concatenate(parts))
        | {"psnr_db_asked": asked}
        for (reader, condition), parts in hits.items()
    ]


def warn_of_labels(job: Job, readers: list[Model]) -> None:
    """Say why a reader has no accuracy row."""
    for reader in readers:
        if not has_labels(job, reader):
            logging.warning(
                "%s has %d classes, the data %d: agreement only",
                reader.name,
                reader.num_classes,
                len(job.source.classes),
            )
