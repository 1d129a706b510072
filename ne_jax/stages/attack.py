"""Stage attack: every attack of the registry on every release of a job. Killed and started again it goes on where it was."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from types import GenericAlias
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from absl import logging
from msgspec.structs import replace
from tqdm import tqdm

import ne_jax
from ne_jax import files
from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.attacks.curves import curves
from ne_jax.attacks.registry import ATTACKS
from ne_jax.attacks.run_one import Pool, Target, Tried, attack_images, attack_reader, best, psnr, row, target
from ne_jax.core.bounds import same_patches
from ne_jax.core.pixels import Images, float_pixels, from_bytes
from ne_jax.core.rules import low_sensitivity
from ne_jax.core.spectrum import spectrum
from ne_jax.core.subspace import PatchSubspace, Subspace
from ne_jax.data import sources
from ne_jax.errors import UserError
from ne_jax.files import Record
from ne_jax.measure.records import Attacked, Attacks, Growth, Head, NotRun, joined
from ne_jax.models.model import Model
from ne_jax.recoding.noise_keys import noise_keys
from ne_jax.release import manifest
from ne_jax.stages.encode import recode_job
from ne_jax.stages.evaluate import has_labels, truths
from ne_jax.stages.job import Job
from ne_jax.stages.pairs import pairs

RESULTS = "attacks.jsonl"  # a record for each (release, reader, attack)
PREPROCESSING = "preprocessing.jsonl"  # tier 1, a record for each set of parameters
NOT_RUN = "attacks_not_run.json"  # what has no meaning here, and why
CURVES = "attack_curves.jsonl"  # what more NEs, pairs or labels give an attacker
_WITHOUT_WINDOWS = (8, 8)  # patches for attacks, where the authorized model's windows overlap
Made = TypeVar("Made")


class Scene(NamedTuple):
    """A release as an attacker finds it: what is attacked and reported, the attacker's own images to choose parameters on, and the
    rest of what an attacker may know."""

    reported: Pool
    own: Pool
    knowledge: Knowledge


class Kept(Record, kw_only=True):
    """What an attack, or "curves", gave; `key` stands for everything that it hangs on."""

    key: str
    made: Any  # of another class, and another version of it, where the key is another


def run(job: Job) -> list[Attacked]:
    """Attack every release; writes RESULTS, PREPROCESSING, CURVES and NOT_RUN, returns the first. Nothing for attack.suite "none"."""
    if job.config.attack.suite == "none":
        return []
    readers = list({model.name: model for model in (job.authorized, *job.readers())}.values())
    found = joined(_attack_release(job, name, readers) for name in job.config.release.formats)
    for file, lines in ((RESULTS, found.records), (PREPROCESSING, found.grid), (CURVES, found.growth)):
        files.write_json_lines(job.workdir / file, lines)
    files.write_json(job.workdir / NOT_RUN, found.not_run)
    return found.records


def _attack_release(job: Job, release_format: str, readers: Sequence[Model]) -> Attacks:
    scene, settings = _scene(job, release_format, readers), dataclasses.asdict(job.config.attack)
    del settings["only"], settings["external"]  # what was kept does not hang on them
    targets = [target(reader, has_labels(job, reader), scene.reported, scene.own) for reader in readers]
    head = Head(
        authorized=job.authorized.name,
        release_format=release_format,
        psnr_db=psnr(scene.reported.stored, scene.reported.clean),
    )
    found = []
    with tqdm(_wanted(job), desc=f"attack {release_format}", unit="attack") as bar:
        for attack in bar:
            bar.set_postfix_str(attack.name)
            make = functools.partial(_attacked, job, attack, scene, targets, head)
            found.append(_kept(job, release_format, attack.name, (settings, attack.grid, attack.quick), Attacks, make))
    if not job.config.attack.only:
        make = functools.partial(curves, scene.knowledge, scene.reported, targets, job.authorized.name)
        grown = _kept(job, release_format, "curves", settings, list[Growth], make)
        found.append(Attacks(growth=[replace(line, **head.to_json()) for line in grown]))
    return joined(found)


def _wanted(job: Job) -> list[Attack]:
    return wanted(job.config.attack.only)


def wanted(only: Sequence[str]) -> list[Attack]:
    """The attacks of these names; all of them for none. Raises UserError for a name that no attack has."""
    unknown = sorted(set(only) - {attack.name for attack in ATTACKS})
    if unknown:
        raise UserError(f"attack.only names {unknown[0]}, which is no attack; ne_jax/attacks has them, such as jpeg")
    return [attack for attack in ATTACKS if not only or attack.name in only]


def _scene(job: Job, release_format: str, readers: Sequence[Model]) -> Scene:
    settings = job.config.attack
    wanted = np.array([settings.images, settings.own_images, settings.releases])
    total = sum(pair.kept for pair in pairs(job, release_format, limit=int(wanted.sum())))
    if total < 6:
        raise UserError(f"{job.release_dir(release_format)} has {total} images; attacks need 6 or more")
    counts = np.maximum(wanted * min(total, wanted.sum()) // wanted.sum(), 2)
    reported, own, known = _pools(job, release_format, readers, counts)
    space, layer = job.space, job.authorized.first_layer
    window = space.window if isinstance(space, PatchSubspace) else (*_WITHOUT_WINDOWS, space.window[2])
    knowledge = Knowledge(
        patch=window, public=_public(job, total), releases=known.stored, again=_again(job, release_format, known),
        originals=known.clean, labels=known.labels, layer=layer, space=space, model=job.authorized,
        sibling=_sibling(job, readers),
    )  # fmt: skip
    return Scene(reported, own, knowledge)


def _pools(job: Job, release_format: str, readers: Sequence[Model], counts: np.ndarray) -> list[Pool]:
    """The first images of the release cut into pools of these sizes."""
    parts = list(pairs(job, release_format, limit=int(counts.sum())))
    stored = np.concatenate([part.stored[: part.kept] for part in parts])
    clean = np.concatenate([from_bytes(part.clean[: part.kept]) for part in parts])
    labels = truths(job, list(readers), np.concatenate([part.indices for part in parts]))
    ends = np.cumsum(counts)
    places = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return [Pool(stored[rows], clean[rows], None if labels is None else labels[rows]) for rows in places]


def _public(job: Job, start: int) -> Images:
    """Clean images of the same source, which is the best that an attacker can hope for: behind those of the release that are attacked,
    or the last ones."""
    count, total = job.config.attack.public, len(job.source.names)
    indices = np.arange(total)[start : start + count] if total >= start + count else np.arange(total)[-count:]
    broken: list[str] = []
    batches = sources.batches(
        job.source, job.authorized.preprocess, len(indices), indices.tolist(), lambda _, why: broken.append(why)
    )
    found = [from_bytes(batch.pixels[batch.mask]) for batch in batches]
    if not found or not len(found[0]):
        raise UserError(f"data: none of {len(indices)} public images can be read; the first: {broken[0]}")
    return np.concatenate(found)


def _again(job: Job, release_format: str, known: Pool) -> Images | None:
    """`known` released a second time under another secret; None where recoding runs networks, which takes too long."""
    if job.design(release_format).runs_networks:
        return None
    pixels = np.round(known.clean * 255).astype(np.uint8)
    keys = noise_keys(hashlib.sha256(job.secret() + b"again").digest(), pixels)
    return float_pixels(recode_job(job, release_format, keys, pixels))


def _sibling(job: Job, readers: Sequence[Model]) -> Subspace | None:
    """Of the readers with the same patches, the low-sensitivity subspace that has most in common with the authorized model's."""
    if not isinstance(job.space, PatchSubspace):
        return None
    shape, spaces = job.authorized.preprocess.image_shape, []
    for reader in readers:
        if reader.name != job.authorized.name and same_patches(reader.first_layer, job.space):
            values = spectrum(reader.first_layer, shape)
            spaces.append(low_sensitivity(values, "count", job.space.num_directions))
    common = [float(np.sum((np.asarray(space.basis).T @ np.asarray(job.space.basis)) ** 2)) for space in spaces]
    return spaces[int(np.argmax(common))] if spaces else None


def _kept(
    job: Job, release_format: str, name: str, settings: Any, kind: type[Made] | GenericAlias, make: Callable[[], Made]
) -> Made:
    """What `make` gives, of the type `kind`, or gave in this workdir under the same settings on the same release."""
    made = (job.release_dir(release_format) / manifest.MANIFEST).read_bytes()
    settings = [settings, list(job.config.readers), list(job.config.models), ne_jax.__version__]
    key = hashlib.sha256(made + json.dumps(settings, sort_keys=True, default=repr).encode()).hexdigest()
    path = job.workdir / "progress" / "attack" / release_format / f"{name}.json"
    if path.is_file() and (kept := files.read_json(path, Kept)).key == key:
        return msgspec.convert(kept.made, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = make()
    files.write_json(path, Kept(key=key, made=found))
    return found


def pictures_of(job: Job, release_format: str, attack: str) -> pathlib.Path:
    """Where the first attacked images lie, if the attack gives images of their size."""
    return job.workdir / "progress" / "attack" / release_format / f"{attack}.npy"


def _attacked(job: Job, attack: Attack, scene: Scene, targets: Sequence[Target], head: Head) -> Attacks:
    missing = [name for name in sorted(attack.knows) if getattr(scene.knowledge, name) is None]
    if missing:
        return Attacks(not_run=[_not_run(head, attack, f"this release offers no {', '.join(missing)}")])
    quick, found = job.config.attack.suite == "quick", Attacks()
    try:
        for each, tried, seconds in _tries(job, attack, scene, targets, quick):
            chosen = best(tried)
            found.records.append(row(attack, each, chosen, scene.reported, seconds, head))
            if chosen.pictures is not None and each.reader.name != job.authorized.name:
                buffer = io.BytesIO()
                np.save(buffer, chosen.pictures, allow_pickle=False)
                files.write_atomic(pictures_of(job, head.release_format, attack.name), buffer.getvalue())
            if attack.tier == 1:
                found.grid.extend(row(attack, each, one, scene.reported, seconds, head) for one in tried)
    except UserError as error:
        logging.info("%s: %s", attack.name, error)
        found.not_run.append(_not_run(head, attack, str(error)))
    return found


def _not_run(head: Head, attack: Attack, why: str) -> NotRun:
    return NotRun(release_format=head.release_format, attack=attack.name, why=why)


def _tries(
    job: Job, attack: Attack, scene: Scene, targets: Sequence[Target], quick: bool
) -> Iterator[tuple[Target, list[Tried], float]]:
    others = [each for each in targets if each.reader.name != job.authorized.name]
    if attack.kind == "images":
        # What the authorized model makes of it is a figure of robustness in tier 1; beyond, it takes time and tells nothing.
        asked = targets if attack.tier == 1 or not others else others
        tried, seconds = attack_images(attack, scene.knowledge, scene.own, scene.reported, asked, quick)
        for each in asked:
            yield each, tried[each.reader.name], seconds
        return
    refused: list[UserError] = []
    for each in others:  # each reader is trained for itself; the quick suite takes the first that can be
        try:
            tried, seconds = attack_reader(attack, scene.knowledge, scene.own, scene.reported, each, quick)
        except UserError as error:
            refused.append(error)
            continue
        yield each, tried, seconds
        if quick:
            return
    if refused and len(refused) == len(others):
        raise refused[0]
