"""The end of stage encode: when the last shard is written, the release's own files and its public manifest."""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from ne_jax import files
from ne_jax.core.leak_floor import leak_floor
from ne_jax.core.pixels import to_float
from ne_jax.models.model import Model
from ne_jax.recoding.design import Design
from ne_jax.release import manifest, signature, writing
from ne_jax.release.formats import write_index
from ne_jax.stages import released
from ne_jax.stages.artefact import context
from ne_jax.stages.job import Job
from ne_jax.stages.versions import versions

LIMITS = (
    "No encryption and no privacy: people may still see what an image shows.",
    "Whoever knows the authorized model's first layer can compute the directions and take the change out; if its weights are "
    "public, that is everybody.",
    "Models that are close relatives of the authorized one may read the images, and a model that is trained on them can learn to.",
    "A resize, crop, filter or lossy compression may break them for the authorized model.",
    "What was measured holds for the models and the date of the measurement.",
)
GEOMETRY = (
    "Feed the stored pixels as they are, at this size and place: a resize, or a crop off the patch grid, breaks the change for the "
    "authorized model too."
)


class ShardRecord(files.Record, kw_only=True):
    """What is noted when a shard is written, in WORKDIR/progress: marks it done.

    images: in it. problems: why others are not. psnr_db, edge_share: of each image; a PSNR of None for one that was left as it is.
    files: SHA-256 by relative path. released_again: images that are in another artefact too. names, pictures, looks: of each image,
    what `released` makes of it.
    """

    images: int
    problems: list[str]
    psnr_db: list[float | None]
    edge_share: list[float]
    files: dict[str, str]
    released_again: int | UnsetType = UNSET  # here and below: in every record, but for those of version 0.1.0
    names: list[str] | UnsetType = UNSET
    pictures: list[str] | UnsetType = UNSET
    looks: list[str] | UnsetType = UNSET


def publish(job: Job, release_format: str) -> None:
    """Write SHA256SUMS, what the format needs beside its shards, and last the manifest, if every shard is there and no other
    process has done so; one process at a time."""
    folder, paths = job.release_dir(release_format), [job.record(release_format, n) for n in range(job.num_shards)]
    if (folder / manifest.MANIFEST).is_file():
        signature.add(folder, job.config.release.signing_key)  # of a release that was finished without a key
        return
    if not all(path.is_file() for path in paths):
        return
    records = [files.read_json(path, ShardRecord) for path in paths]
    totals = _add_up(records)
    shape, counts = job.authorized.preprocess.image_shape, totals.counts
    known = (
        [value for record in records for value in getattr(record, name)] for name in ("names", "looks", "pictures")
    )
    facts = _facts(job, release_format, totals, released.write_near_copies(job, *known))
    facts = msgspec.structs.replace(facts, limits=[*LIMITS, *released.risks(facts)])
    index = write_index(folder, release_format, shape, counts, manifest.describe(facts))
    written = (record.files.items() for record in records)
    sums = writing.write_sums(folder, itertools.chain(index.items(), itertools.chain.from_iterable(written)))
    settings = {key: getattr(job.config.release, key) or None for key in ("license", "creator", "url")}
    manifest.write_manifest(folder, manifest.build(facts, *sums, **settings), job.config.release.signing_key)


class _Totals(NamedTuple):
    """What all shard records say together. counts: images of each shard."""

    counts: list[int]
    psnr_db: manifest.Strength
    left_unchanged: int
    edge_share: float | None
    released_again: int


def _add_up(records: list[ShardRecord]) -> _Totals:
    counts = [record.images for record in records]
    strength = [value for record in records for value in record.psnr_db]
    edge = [value for record in records for value in record.edge_share]
    changed = [value for value in strength if value is not None]
    least, median, most = np.percentile(changed, (0, 50, 100)).tolist() if changed else (None,) * 3
    spread = manifest.Strength(min=least, median=median, max=most)
    again = sum(record.released_again for record in records)
    return _Totals(counts, spread, len(strength) - len(changed), float(np.mean(edge)) if edge else None, again)


def _named(model: Model) -> manifest.Named:
    return manifest.Named(name=model.name, architecture=model.architecture, checkpoint_sha256=model.sha256)


def _leak(job: Job, design: Design) -> float | None | UnsetType:
    """What the best linear attack that knows the first layer rebuilds, in dB, whatever the noise; not for changes outside V_N."""
    if not design.inside:
        return UNSET
    floor = leak_floor(job.space, np.asarray(to_float(job.sample_pixels())))
    return round(floor, 1) if np.isfinite(floor) else None


def _facts(job: Job, release_format: str, totals: _Totals, near: int) -> manifest.Facts:
    """The manifest's block: what a reader must keep and what was done, nothing that gives the noise away."""
    model, settings, design = job.authorized, job.config.recode, job.design(release_format)
    space = design.subspace(context(job, release_format))
    return manifest.Facts(
        warning=design.warning or UNSET,
        format=release_format,
        images=sum(totals.counts),
        authorized=_named(model),
        also_authorized=[_named(other) for other in job.also] or UNSET,
        image_shape=model.preprocess.image_shape,
        geometry=GEOMETRY,
        window=model.first_layer.window,
        preprocess=dataclasses.asdict(model.preprocess),
        colour="pixels as decoded; ICC profiles are not applied; alpha is laid on white",
        rule=job.config.subspace.rule,
        threshold=job.config.subspace.value,
        directions=space.num_directions,
        sensitive_directions=space.total_directions - space.num_directions,
        design=design.name,
        settings={key: getattr(settings, key) for key in design.told},
        replace=settings.replace,
        noise="one key an image, HMAC-SHA256 of a secret, its pixels and all else that decides the stored ones; threefry",
        released_again=totals.released_again,
        near_copies=near,
        psnr_db_asked=settings.psnr_db,
        psnr_db_realised=totals.psnr_db,
        left_unchanged=totals.left_unchanged,
        edge_share=totals.edge_share,
        best_linear_white_box_reconstruction_db=_leak(job, design),
        versions=versions("ne_jax", "jax", "pillow", "numpy"),
    )
