"""Stage encode: source -> releases. Goes on after a kill, and the files do not depend on where it stopped.

Threads decode, the devices recode a batch while the next is decoded, threads compress and write a shard while the next is recoded.
A shard's record in WORKDIR/progress is written last and marks it done. Several processes share the shards, and the one that finishes
the last of them writes the manifest.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import jax
import numpy as np
from absl import logging
from msgspec import UNSET
from tqdm import tqdm

from ne_jax.data import sources
from ne_jax.data.images import BrokenImage
from ne_jax.errors import UserError
from ne_jax.files import finite, read_json, write_json
from ne_jax.recoding.design import Design
from ne_jax.recoding.encode_batch import Encoded, encode_calls
from ne_jax.release import manifest
from ne_jax.release.formats import FORMATS
from ne_jax.release.writing import check_finite, write_shard
from ne_jax.stages import multihost, released
from ne_jax.stages.artefact import keys_of, recipe
from ne_jax.stages.finish_release import ShardRecord, publish
from ne_jax.stages.job import Job
from ne_jax.stages.look_ahead import look_ahead


def run(job: Job) -> int:
    """Write every release of the config; returns the number of source images that could not be read."""
    todo = [name for name in job.config.release.formats if not (job.release_dir(name) / manifest.MANIFEST).is_file()]
    for name in set(job.config.release.formats) - set(todo):
        print(f"{job.release_dir(name)} is complete; nothing to encode")
    if todo:
        for mark in {job.design(name).warning for name in todo} - {""}:
            logging.warning("%s", mark)
        if multihost.first():
            look_ahead(job, todo)
        _encode_shards(job, todo)
    with multihost.one_at_a_time(job.workdir):
        for name in job.config.release.formats:
            publish(job, name)
        problems = {why for name in job.config.release.formats for why in _problems(job, name)}
        write_json(job.workdir / "problems.json", sorted(problems))
    for why in sorted(problems):
        logging.error("skipped %s", why)
    for risk in released.risks_of(job):
        logging.warning("%s", risk)
    if len(problems) == len(job.source.names):
        raise UserError(f"none of the {len(problems)} images could be read; the first: {min(problems)}")
    return len(problems)


def _problems(job: Job, release_format: str) -> Iterator[str]:
    paths = (job.record(release_format, number) for number in range(job.num_shards))
    for path in filter(pathlib.Path.is_file, paths):
        yield from read_json(path, ShardRecord).problems


Kind = tuple[Design, type]  # design and dtype: what decides the pixels


@dataclasses.dataclass
class _Shard:
    """A shard on its way. formats: that miss it. left: source images that have not come. names, metadata, pictures: of those that have
    and are whole; by kind the first rows of `images` are theirs, and `measured` has PSNR and edge share of each."""

    number: int
    formats: list[str]
    size: int
    left: int
    names: list[str] = dataclasses.field(default_factory=list)
    metadata: list[dict[str, bytes]] = dataclasses.field(default_factory=list)
    pictures: list[released.Picture] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    images: dict[Kind, np.ndarray] = dataclasses.field(default_factory=dict)
    measured: dict[Kind, list[tuple[float, float]]] = dataclasses.field(default_factory=dict)


def _kind(job: Job, release_format: str) -> Kind:
    return job.design(release_format), FORMATS[release_format].dtype


def _encode_shards(job: Job, formats: list[str]) -> None:
    """This process's share of the shards that are missing."""
    todo: list[int] = []
    shards: dict[int, _Shard] = {}
    share = 0
    for number in multihost.share(job.num_shards):
        indices = job.shard(number)
        share += len(indices)
        missing = [name for name in formats if not _written(job, name, number)]
        if missing:
            todo += indices
            shards[number] = _Shard(number, missing, len(indices), len(indices))
    who = f"encode, process {jax.process_index()} of {jax.process_count()}" if multihost.several() else "encode"
    with (
        tqdm(total=share, initial=share - len(todo), desc=who, unit="image") as bar,
        ThreadPoolExecutor(sources.num_workers(job.config.data.workers), "compress") as pool,
        ThreadPoolExecutor(1, "write") as writer,
        ThreadPoolExecutor(sources.num_workers(job.config.data.workers), "recode") as recoding,
    ):
        writing: Future | None = None
        for shard in _recoded(job, todo, shards, recoding, bar):
            if writing is not None:  # only one shard waits to be written while another is filled
                writing.result()
            writing = writer.submit(_write_shard, job, shard, pool)
        if writing is not None:
            writing.result()


def _written(job: Job, release_format: str, number: int) -> bool:
    """Whether the shard is there. Raises UserError for one of another version, with which no more of the release can be made."""
    path = job.record(release_format, number)
    if path.is_file() and read_json(path, ShardRecord).released_again is UNSET:
        raise UserError(
            f"{path} was written by version 0.1.0, which derived noise otherwise; finish this release with it, or give another --workdir"
        )
    return path.is_file()


def _write_shard(job: Job, shard: _Shard, pool: ThreadPoolExecutor) -> None:
    shape, count = job.authorized.preprocess.image_shape, len(shard.names)
    others = released.claim(job, shard.formats, shard.pictures, shard.names)
    for name in shard.formats:
        kind = _kind(job, name)
        images = shard.images.get(kind, np.empty((0, *shape), kind[1]))[:count]
        check_finite(images, name)
        metadata = shard.metadata if job.config.release.keep_metadata else None
        files = write_shard(
            job.release_dir(name), name, shard.number, job.num_shards, shard.names, images, metadata, pool
        )
        strength, edge = zip(*shard.measured[kind], strict=True) if count else ((), ())
        record = ShardRecord(
            images=count, problems=shard.problems, psnr_db=finite(strength), edge_share=list(edge), files=files,
            released_again=sum(map(bool, others)), names=shard.names, pictures=released.keyed(job, shard.pictures),
            looks=[picture.look.hex() for picture in shard.pictures],
        )  # fmt: skip
        write_json(job.record(name, shard.number), record)


def _recoded(
    job: Job, todo: list[int], shards: dict[int, _Shard], pool: ThreadPoolExecutor, bar: tqdm
) -> Iterator[_Shard]:
    """The shards, each when all of its images have come and are recoded."""
    for rows, encoded in _one_ahead(_launched(job, todo, shards, pool)):
        arrays = {kind: [step.result() for step in steps] for kind, steps in encoded.items()}
        place = 0
        for index, image in rows:
            shard = shards[job.shard_of(index)]
            if isinstance(image, BrokenImage):
                shard.problems.append(str(image))
            else:
                _keep(job, shard, index, image, place, arrays)
                place += 1
            shard.left -= 1
            if not shard.left:
                yield shards.pop(shard.number)
        bar.update(len(rows))


def _keep(job: Job, shard: _Shard, index: int, image: sources.Decoded, place: int, arrays: dict[Kind, list[Encoded]]):
    """Copy an image's results out of its batch, in which it is number `place`; one that its design could not
    protect is not released."""
    kinds = {_kind(job, name) for name in shard.formats}
    places = {kind: divmod(place, len(arrays[kind][0].stored)) for kind in kinds}
    unmet = [kind[0].unmet for kind, (step, row) in places.items() if not arrays[kind][step].met[row]]
    if unmet:
        shard.problems.append(f"{job.source.names[index]}: {unmet[0]}")
        return
    for kind, (step, row) in places.items():
        found = arrays[kind][step]
        if kind not in shard.images:
            shard.images[kind] = np.empty((shard.size, *found.stored.shape[1:]), found.stored.dtype)
        shard.images[kind][len(shard.names)] = found.stored[row]
        shard.measured.setdefault(kind, []).append((float(found.psnr_db[row]), float(found.edge_share[row])))
    shard.names.append(job.source.names[index])
    shard.metadata.append(image.metadata)
    shard.pictures.append(released.picture(image))


Rows = list[tuple[int, sources.Decoded | BrokenImage]]


def _launched(
    job: Job, todo: list[int], shards: dict[int, _Shard], pool: ThreadPoolExecutor
) -> Iterator[tuple[Rows, dict[Kind, list[Future[Encoded]]]]]:
    """Batches, and by kind what the devices make of their whole images, in order."""
    formats = {_kind(job, name): name for shard in shards.values() for name in shard.formats}
    recipes = {kind: recipe(job, name) for kind, name in formats.items()}
    size, compiled = job.config.batch_size, set()
    preprocess, workers = job.authorized.preprocess, job.config.data.workers
    stream = sources.decoded(job.source, preprocess, todo, workers, ahead=size, known=True)
    for rows in _grouped(stream, size):
        whole = [(index, image) for index, image in rows if not isinstance(image, BrokenImage)]
        encoded = {}
        if whole:
            pixels = np.stack([image.pixels for _, image in whole])
            released.refuse(job, formats.values(), whole)
            kinds = {_kind(job, name) for index, _ in rows for name in shards[job.shard_of(index)].formats}
            for kind in kinds:
                keys = keys_of(job, formats[kind], pixels)
                encoded[kind] = _submitted(pool, encode_calls(keys, pixels, recipes[kind]), kind not in compiled)
                compiled.add(kind)
        yield rows, encoded


def _submitted(pool: ThreadPoolExecutor, calls: list[Callable[[], Encoded]], alone: bool) -> list[Future[Encoded]]:
    """alone: the first call ends before the others begin, as it compiles what each of them would compile too."""
    first = [pool.submit(_fetch, call) for call in calls[:1]]
    if alone:
        wait(first)
    return first + [pool.submit(_fetch, call) for call in calls[1:]]


def _fetch(call: Callable[[], Encoded]) -> Encoded:
    return Encoded(*map(np.asarray, call()))


def _grouped(stream: Iterator, size: int) -> Iterator[list]:
    with contextlib.closing(stream):
        while group := list(itertools.islice(stream, size)):
            yield group


def _one_ahead(items: Iterator) -> Iterator:
    """The items, each when the next one has been asked for: what the devices were given last is not waited for."""
    waiting = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting
