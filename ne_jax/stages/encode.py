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
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Array, Key
from tqdm import tqdm

from ne_jax.core.pixels import psnr_db, to_float
from ne_jax.data import sources
from ne_jax.data.images import BrokenImage
from ne_jax.errors import UserError
from ne_jax.files import finite, read_json, write_json
from ne_jax.recoding.design import Design
from ne_jax.recoding.encode_batch import Encoded, encode_batch, encode_calls
from ne_jax.recoding.noise_keys import noise_keys
from ne_jax.recoding.subspace_noise import white_noise
from ne_jax.release import manifest
from ne_jax.release.formats import FORMATS
from ne_jax.release.writing import check_finite, estimate, free_bytes, to_stored, write_shard
from ne_jax.stages import multihost
from ne_jax.stages.cost import cost
from ne_jax.stages.finish_release import ShardRecord, publish
from ne_jax.stages.job import Job

# A boxed sample that stays this much weaker than asked, in dB, says that the strength does not fit.
_REACH_DB = 0.1
_WARN_SHARE = 0.95  # of the free space
FEW = 4  # images that are looked at ahead where each takes many passes of networks


def recode_job(
    job: Job, release_format: str, keys: Key[Array, " batch"], pixels: np.ndarray, **changes: Any
) -> np.ndarray:
    """The NEs of clean `pixels` as `release_format` stores them, by the job's recipe with `changes`, such as another psnr_db."""
    return np.asarray(encode_batch(keys, pixels, dataclasses.replace(job.recipe(release_format), **changes)).stored)


def realised_psnr_db(clean: Array | np.ndarray, stored: Array | np.ndarray) -> np.ndarray:
    """PSNR in dB of each stored image (floating point or uint8) against its clean uint8 pixels."""
    return np.asarray(jax.vmap(psnr_db)(to_float(stored) - to_float(clean)))


def run(job: Job) -> int:
    """Write every release of the config; returns the number of source images that could not be read."""
    todo = [name for name in job.config.release.formats if not (job.release_dir(name) / manifest.MANIFEST).is_file()]
    for name in set(job.config.release.formats) - set(todo):
        print(f"{job.release_dir(name)} is complete; nothing to encode")
    if todo:
        for mark in {job.design(name).warning for name in todo} - {""}:
            logging.warning("%s", mark)
        if multihost.first():
            _look_ahead(job, todo)
        _encode_shards(job, todo)
    with multihost.one_at_a_time(job.workdir):
        for name in todo:
            publish(job, name)
        problems = {why for name in job.config.release.formats for why in _problems(job, name)}
        write_json(job.workdir / "problems.json", sorted(problems))
    for why in sorted(problems):
        logging.error("skipped %s", why)
    if len(problems) == len(job.source.names):
        raise UserError(f"none of the {len(problems)} images could be read; the first: {min(problems)}")
    return len(problems)


def _problems(job: Job, release_format: str) -> Iterator[str]:
    paths = (job.record(release_format, number) for number in range(job.num_shards))
    for path in filter(pathlib.Path.is_file, paths):
        yield from read_json(path, ShardRecord).problems


def _look_ahead(job: Job, formats: list[str]) -> None:
    """Tell how large the releases get and what strength fits, from a sample. Raises UserError if the strength asked does not."""
    passes = cost(job)
    if passes:
        print(f"{job.config.recode.design}: {passes:.0f} forward passes of {job.authorized.name} an image")
    clean = job.sample_pixels()[: FEW if passes else None]
    keys = noise_keys(job.secret(), clean)
    shape, needed = job.authorized.preprocess.image_shape, 0
    for name in formats:
        design = job.design(name)
        stored = (_white_noise if design.runs_networks else recode_job)(job, name, keys, clean)
        check_finite(stored, name)
        if "fit" in design.settings and not job.config.recode.fit:
            _check_reach(job, realised_psnr_db(clean, stored))
        size = estimate(name, shape, len(job.source.names), stored)
        needed += size
        print(f"{name}: about {_told(size)} for {len(job.source.names):,} images")
    free = free_bytes(job.workdir)
    if needed > free * _WARN_SHARE:
        logging.warning(
            "%s free in %s, about %s needed: it may fill up; what is written then is kept",
            _told(free), job.workdir, _told(needed),
        )  # fmt: skip


def _white_noise(job: Job, release_format: str, keys: Key[Array, " n"], clean: np.ndarray) -> np.ndarray:
    """Stored images that take about as many bytes as NEs of the strength asked, where these take many passes of networks each."""
    box = FORMATS[release_format].dtype == np.uint8
    noisy = jax.vmap(lambda key, image: white_noise(key, image, job.config.recode.psnr_db, box=box))(
        keys, to_float(clean)
    )
    return to_stored(np.asarray(noisy), release_format)


def _told(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _check_reach(job: Job, realised: np.ndarray) -> None:
    """Raise UserError if `recode.psnr_db` does not fit into [0, 1]."""
    asked = job.config.recode.psnr_db
    if np.median(realised) > asked + _REACH_DB:
        raise UserError(
            f"recode.psnr_db={asked:g} cannot be reached inside [0, 1]: the strongest that fits is {np.median(realised):.1f} dB "
            f"(median of {len(realised)} images, {realised.min():.1f} to {realised.max():.1f}); ask for {np.ceil(realised.max()):g} "
            "or more, set recode.fit=True to take the strongest of each image, or release float32 only"
        )


Kind = tuple[Design, type]  # design and dtype: what decides the pixels


@dataclasses.dataclass
class _Shard:
    """A shard on its way. formats: that miss it. left: source images that have not come. names, metadata: of those that have and
    are whole; by kind the first rows of `images` are theirs, and `measured` has PSNR and edge share of each."""

    number: int
    formats: list[str]
    size: int
    left: int
    names: list[str] = dataclasses.field(default_factory=list)
    metadata: list[dict[str, bytes]] = dataclasses.field(default_factory=list)
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
        missing = [name for name in formats if not job.record(name, number).is_file()]
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


def _write_shard(job: Job, shard: _Shard, pool: ThreadPoolExecutor) -> None:
    shape, count = job.authorized.preprocess.image_shape, len(shard.names)
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
            images=count, problems=shard.problems, psnr_db=finite(strength), edge_share=list(edge), files=files
        )
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


Rows = list[tuple[int, sources.Decoded | BrokenImage]]


def _launched(
    job: Job, todo: list[int], shards: dict[int, _Shard], pool: ThreadPoolExecutor
) -> Iterator[tuple[Rows, dict[Kind, list[Future[Encoded]]]]]:
    """Batches, and by kind what the devices make of their whole images, in order."""
    secret, formats = job.secret(), {name for shard in shards.values() for name in shard.formats}
    recipes = {_kind(job, name): job.recipe(name) for name in formats}
    size, compiled = job.config.batch_size, set()
    stream = sources.decoded(job.source, job.authorized.preprocess, todo, job.config.data.workers, ahead=size)
    for rows in _grouped(stream, size):
        whole = [image.pixels for _, image in rows if not isinstance(image, BrokenImage)]
        encoded = {}
        if whole:
            pixels = np.stack(whole)
            keys = noise_keys(secret, pixels)
            kinds = {_kind(job, name) for index, _ in rows for name in shards[job.shard_of(index)].formats}
            for kind in kinds:
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
