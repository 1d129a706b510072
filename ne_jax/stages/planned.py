"""Which designs would give themselves away in a release of so many files, before there is one.

As many NEs are made of the source's pictures, under secrets that nobody keeps, and attacked as a release of them would be: by what learns
from all files and needs no pair. Where more files are planned than there are pictures, pictures come again under new noise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from ne_jax.attacks.attack import Knowledge
from ne_jax.attacks.moments import Moments, growing
from ne_jax.attacks.registry import BY_NAME
from ne_jax.attacks.run_one import Pool, Target, Tried, attack_images, best, measured, target
from ne_jax.core.pixels import Images, float_pixels, from_bytes
from ne_jax.data import sources
from ne_jax.errors import UserError
from ne_jax.files import Record
from ne_jax.measure.answers import interval
from ne_jax.measure.records import Count, Interval, Metric, lost
from ne_jax.recoding.design import Design
from ne_jax.recoding.designs import DESIGNS
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.noise_keys import noise_keys
from ne_jax.stages.artefact import artefact, context, recipe
from ne_jax.stages.attack_scene import MEMORY, public_images, unit_of
from ne_jax.stages.evaluate import has_labels, truths
from ne_jax.stages.job import Job

# What learns from all files and needs no pair.
_ATTACKS = ("equal_eigenvalues", "shared_by_neighbours", "differs_by_place", "gevd_inpainting", "third_moments")
_COSTLY = 64  # files that are made, at most, where each takes many passes of networks
_AWAY = 0.5  # of what a reader lost: who gets as much back has the release


class Planned(Record, kw_only=True):
    """What a reader would have of a release by a design, after the attack that serves it best. `files` were made: as many as planned, or
    fewer where the design runs networks."""

    release_format: str
    design: str
    files: Count
    reader: str
    attack: str
    metric: Metric
    value: float
    n: Count  # images
    ci95: Interval
    value_ne: float  # of the files as they are
    value_clean: float
    gives_away: bool  # half of what the reader lost, or more, is back


class _Batch(NamedTuple):
    """NEs beside their clean pixels, and the places of these in the source."""

    indices: np.ndarray
    clean: UInt8[np.ndarray, "n height width channels"]
    stored: Images


def planned(job: Job) -> list[Planned]:
    """A row for each format of the job, design that is possible, and reader that loses something by it. Raises UserError where pictures or
    files are fewer than 6."""
    found = []
    for release_format in job.config.release.formats:
        for other in (_with_design(job, design) for design in DESIGNS.values()):
            if other is not None:
                found += _tried(other, release_format)
    return found


def _with_design(job: Job, design: Design) -> Job | None:
    """The job with another design; None where no release of it could be made, or only a marked one: for want of surrogates or of patches,
    or because of the format's numbers."""
    if design.warning or (design.needs_surrogates and not job.surrogates):
        return None
    mine, recode = design.settings, job.config.recode
    with contextlib.suppress(UserError):
        changed = dataclasses.replace(
            recode, design=design.name, replace=recode.replace and "replace" in mine,
            jpeg_quality=recode.jpeg_quality if "jpeg_quality" in mine else 0,
        )  # fmt: skip
        other = job._replace(config=dataclasses.replace(job.config, recode=changed))
        design.directions(context(other, job.config.release.formats[0]))
        return other
    return None


def _tried(job: Job, release_format: str) -> list[Planned]:
    """Rows of the job's design; none, and nothing is made, where nobody but the authorized model reads."""
    readers = [reader for reader in job.readers() if reader.name != job.authorized.name]
    if not readers:
        return []
    planned_files, settings = job.config.inspect.planned_files, job.config.attack
    design = job.design(release_format)
    files = min(planned_files, _COSTLY) if design.runs_networks else planned_files
    moments, released, shown = _made(job, release_format, files, settings.images + settings.own_images)
    total = len(shown.indices)
    if total < 6:
        raise UserError(f"inspect.planned_files: attacks need 6 or more pictures and files, and there are {total}")
    cut = total * settings.images // (settings.images + settings.own_images)
    labels = truths(job, readers, shown.indices)
    reported, own = (
        Pool(shown.stored[rows], from_bytes(shown.clean[rows]), None if labels is None else labels[rows])
        for rows in (slice(cut), slice(cut, None))
    )
    knowledge = Knowledge(patch=unit_of(job), public=public_images(job, total), moments=moments, released=released)
    targets = [target(reader, has_labels(job, reader), reported, own) for reader in readers]
    found: dict[str, list[tuple[str, Tried]]] = {reader.name: [] for reader in readers}
    for attack in (BY_NAME[name] for name in _ATTACKS):
        with contextlib.suppress(UserError):  # it has no meaning for these images
            for reader, tried in attack_images(attack, knowledge, own, reported, targets, quick=True)[0].items():
                found[reader].append((attack.name, best(tried)))
    head = {"release_format": release_format, "design": design.name, "files": files}
    return [row for each in targets for row in _rows(head, each, reported, found[each.reader.name])]


def _made(job: Job, release_format: str, files: int, shown: int) -> tuple[Moments, Images, _Batch]:
    """Second moments of so many NEs, as many of them as attackers hold, and the first `shown`."""
    kept: list[_Batch] = []
    held: list[Images] = []
    with tqdm(total=files, desc=f"planned {job.design(release_format).name}, {release_format}", unit="image") as bar:

        def told() -> Iterator[Images]:
            for batch in _recoded(job, release_format, files):
                if sum(len(each.indices) for each in kept) < shown:
                    kept.append(batch)
                if sum(each.nbytes for each in held) < MEMORY:
                    held.append(batch.stored)
                yield batch.stored
                bar.update(len(batch.indices))

        (moments,) = growing(told(), unit_of(job), [files])
    return (
        moments,
        np.concatenate(held),
        _Batch(*(np.concatenate(column)[:shown] for column in zip(*kept, strict=True))),
    )


def _recoded(job: Job, release_format: str, files: int) -> Iterator[_Batch]:
    """So many NEs, over all pictures of the source, again and again under another secret."""
    left, again, how = files, 0, recipe(job, release_format)
    while left:
        secret = hashlib.sha256(job.secret() + f"planned {again}".encode()).digest()
        before, indices = left, range(min(left, len(job.source.names)))
        for batch in sources.batches(
            job.source, job.authorized.preprocess, job.config.batch_size, indices, lambda *_: None
        ):
            clean = batch.pixels[batch.mask]
            keys = noise_keys(secret, artefact(job, release_format), clean)
            stored = float_pixels(np.asarray(encode_batch(keys, clean, how).stored))
            yield _Batch(batch.indices[batch.mask], clean, stored)
            left -= len(clean)
        if left == before:
            raise UserError("data: no picture of the source can be read")
        again += 1


def _rows(head: dict, each: Target, reported: Pool, found: list[tuple[str, Tried]]) -> list[Planned]:
    """What the best attack gives a reader; no row for a reader that lost nothing, or where no attack has a meaning."""
    labels = reported.labels if each.labelled else None
    plain, clean = (float(measured(answers, each.clean, labels)[1].mean()) for answers in (each.plain, each.clean))
    if not found or not lost(plain, clean):
        return []
    attack, tried = max(found, key=lambda pair: float(pair[1].reported.mean()))
    value, (low, high) = float(tried.reported.mean()), interval(tried.reported)
    return [
        Planned(
            **head, reader=each.reader.name, attack=attack, metric=tried.metric, value=value, n=len(tried.reported),
            ci95=(float(low), float(high)), value_ne=plain, value_clean=clean,
            gives_away=value - plain >= _AWAY * (clean - plain),
        )
    ]  # fmt: skip
