"""Stage evaluate: who can read the release. Every reader is given the same files, each with its own preprocessing."""

from __future__ import annotations

import jax
import numpy as np
from absl import logging
from jaxtyping import Int
from msgspec import UNSET, UnsetType
from tqdm import tqdm

from ne_jax import files
from ne_jax.core.pixels import float_pixels, from_bytes
from ne_jax.errors import UserError
from ne_jax.measure.answers import BASELINES, Answers, answer, interval, scores
from ne_jax.measure.records import Result
from ne_jax.models.model import Model
from ne_jax.recoding.design import Recipe
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.guided import GUIDED, Guide
from ne_jax.recoding.subspace_noise import noise_for, white_noise
from ne_jax.release import formats
from ne_jax.stages.artefact import context, keys_of, realised_psnr_db, recode_job
from ne_jax.stages.job import Job
from ne_jax.stages.pairs import Pairs, pairs

RESULTS = "results.jsonl"
CURVE = "curve.jsonl"


def record(
    job: Job,
    reader: str,
    condition: str,
    release_format: str,
    psnr: float | None,
    metric: str,
    values: np.ndarray,
    asked: float | UnsetType = UNSET,
) -> Result:
    """One line of results.jsonl, or, with the PSNR that was asked for in dB, of curve.jsonl."""
    if not np.isfinite(values).all():
        raise UserError(
            f"readers: {reader} gives features that are not finite ({release_format}, {condition}); leave it out"
        )
    low, high = interval(values)
    return Result(
        authorized=job.authorized.name,
        reader=reader,
        condition=condition,
        release_format=release_format,
        psnr_db=None if psnr is None or not np.isfinite(psnr) else round(psnr, 3),
        metric=metric,
        value=float(values.mean()),
        n=len(values),
        ci95=(round(float(low), 5), round(float(high), 5)),
        psnr_db_asked=asked,
    )  # fmt: skip


def run(job: Job) -> list[Result]:
    """Evaluate every reader on every release; writes results.jsonl and curve.jsonl, returns the records of the former."""
    readers = list(job.readers())
    warn_of_labels(job, readers)
    if {reader.name for reader in readers} <= {model.name for model in (job.authorized, *job.also)}:
        logging.warning(
            "readers: nobody but whom the release is for; name models that should not read it, to see whether they do"
        )
    records: list[Result] = []
    clean: dict[tuple[str, int], Answers] = {}
    for name in job.config.release.formats:
        records += _evaluate_release(job, name, readers, clean)
    files.write_json_lines(job.workdir / RESULTS, records)
    files.write_json_lines(job.workdir / CURVE, _curve(job, readers))
    return records


def has_labels(job: Job, reader: Model) -> bool:
    """Whether the source's labels can be the reader's classes: there are labels, and as many classes."""
    return bool(len(job.source.classes)) and len(job.source.classes) == reader.num_classes


def truths(job: Job, readers: list[Model], indices: np.ndarray) -> Int[np.ndarray, " n"] | None:
    """The labels of source images, which may be slow to get, if they are the classes of any of the readers."""
    return job.source.labels()[indices] if any(has_labels(job, reader) for reader in readers) else None


def _evaluate_release(
    job: Job, release_format: str, readers: list[Model], clean: dict[tuple[str, int], Answers]
) -> list[Result]:
    """Records of one release. `clean` keeps what readers make of clean batches from one release to the next."""
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    strengths: dict[str, list[np.ndarray]] = {}
    indices: list[np.ndarray] = []
    with tqdm(total=len(job.source.names), desc=f"evaluate {release_format}", unit="image") as bar:
        for pair in pairs(job, release_format):
            seen = sum(map(len, indices))
            labels = truths(job, readers, pair.indices)
            for condition, view in _views(job, release_format, pair, seen).items():
                for reader in readers:
                    key = (reader.name, int(pair.indices[0]))
                    if key not in clean:  # the first condition
                        clean[key] = answer(reader, view).first(pair.kept)
                    answers = clean[key] if condition == "clean" else answer(reader, view).first(pair.kept)
                    truth = labels if has_labels(job, reader) else None
                    for metric, values in scores(answers, clean[key], truth).items():
                        found.setdefault((condition, reader.name, metric), []).append(values)
                if condition != "clean":
                    strengths.setdefault(condition, []).append(realised_psnr_db(pair.clean, view)[: pair.kept])
            indices.append(pair.indices)
            bar.update(pair.kept)
    return _records(job, release_format, found, strengths)


def _views(job: Job, release_format: str, pair: Pairs, seen: int) -> dict[str, np.ndarray]:
    """What readers are given: clean pixels, the stored NE, its control, and on the first images what designs that run networks
    are compared with."""
    clean = from_bytes(pair.clean)
    keys = keys_of(job, release_format, pair.clean)
    psnr = realised_psnr_db(pair.clean, pair.stored)
    views = {"clean": clean, "ne": pair.stored, "gaussian": control(keys, clean, psnr, release_format)}
    if seen < job.config.evaluate.baseline_images and job.design(release_format).runs_networks:
        views |= _baselines(job, release_format, keys, pair.clean)
    return views


def _baselines(job: Job, release_format: str, keys, clean: np.ndarray) -> dict[str, np.ndarray]:
    """The images of BASELINES, float32 in pixel units."""
    settings, dtype = job.config.recode, formats.FORMATS[release_format].dtype
    guide = Guide(None, context(job, release_format).surrogates(), settings.steps)
    made = {
        "subspace_noise": Recipe(noise_for(dtype), job.space, settings.psnr_db, dtype),
        "unconstrained": Recipe(GUIDED, guide, settings.psnr_db, dtype),
    }
    return {name: float_pixels(np.asarray(encode_batch(keys, clean, recipe).stored)) for name, recipe in made.items()}


def _records(job: Job, release_format: str, found, strengths) -> list[Result]:
    records = []
    for (condition, reader, metric), parts in found.items():
        psnr = None if condition == "clean" else float(np.median(np.concatenate(strengths[condition])))
        values = np.concatenate(parts)
        if condition in BASELINES:
            values = values[: job.config.evaluate.baseline_images]
        records.append(record(job, reader, condition, release_format, psnr, metric, values))
    return records


def control(keys, clean: np.ndarray, psnr: np.ndarray, release_format: str) -> np.ndarray:
    """White noise of each image's own PSNR (dB), from a key of its own, in the number format of the release."""
    apart = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    finite = np.where(np.isfinite(psnr), psnr, 100.0)  # padding has no change and any strength will do
    box = formats.FORMATS[release_format].dtype == np.uint8
    noisy = jax.vmap(lambda key, image, db: white_noise(key, image, db, box=box))(apart, clean, finite)
    return np.asarray(noisy)


def _curve(job: Job, readers: list[Model]) -> list[Result]:
    """Strength against accuracy (without labels agreement, without a head feature_cosine) on the first images of each release's
    source: encoded anew at each strength in the release's number format, by noise alone (no `replace`), not written to disk. A
    strength that does not fit appears where it landed."""
    settings = job.config.evaluate
    records: list[Result] = []
    total = len(settings.curve_psnr_db) * len(job.config.release.formats)
    with tqdm(total=total, desc="strength curve", unit="point") as bar:
        for name in job.config.release.formats if total else ():
            batches = [(pair.indices, pair.clean, pair.kept) for pair in pairs(job, name, limit=settings.curve_images)]
            for asked in settings.curve_psnr_db:
                records += _curve_point(job, name, readers, batches, asked)
                bar.update(1)
    return records


def _curve_point(job: Job, release_format: str, readers: list[Model], batches, asked: float) -> list[Result]:
    hits: dict[tuple[str, str, str], list[np.ndarray]] = {}
    realised: list[np.ndarray] = []
    for indices, clean, kept in batches:
        keys = keys_of(job, release_format, clean, psnr_db=asked, replace=False)
        stored = recode_job(job, release_format, clean, psnr_db=asked, replace=False)
        stored = float_pixels(stored)
        psnr = realised_psnr_db(clean, stored)
        views = {"ne": stored, "gaussian": control(keys, from_bytes(clean), psnr, release_format)}
        realised.append(psnr[:kept])
        for reader in readers:
            before = answer(reader, from_bytes(clean)).first(kept)
            truth = truths(job, [reader], indices)
            for condition, view in views.items():
                measured = scores(answer(reader, view).first(kept), before, truth)
                metric = next(iter(measured))  # the most telling one comes first
                hits.setdefault((reader.name, condition, metric), []).append(measured[metric])
    psnr = float(np.median(np.concatenate(realised)))
    return [
        record(job, reader, condition, release_format, psnr, metric, np.concatenate(parts), asked)
        for (reader, condition, metric), parts in hits.items()
    ]


def warn_of_labels(job: Job, readers: list[Model]) -> None:
    """Say why a reader has no accuracy row, or no agreement row."""
    for reader in readers:
        if not reader.num_classes:
            logging.warning("%s has no head: feature_cosine only", reader.name)
        elif not has_labels(job, reader):
            classes = len(job.source.classes)
            logging.warning("%s has %d classes, the data %d: no accuracy", reader.name, reader.num_classes, classes)
