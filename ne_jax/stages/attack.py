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
from typing import Any, TypeVar

import msgspec
import numpy as np
from absl import logging
from msgspec.structs import replace
from tqdm import tqdm

import ne_jax
from ne_jax import files
from ne_jax.attacks.attack import Attack
from ne_jax.attacks.curves import curves
from ne_jax.attacks.registry import ATTACKS
from ne_jax.attacks.run_one import Target, Tried, attack_images, attack_reader, best, psnr, row, target
from ne_jax.errors import UserError
from ne_jax.files import Record
from ne_jax.measure.records import Attacked, Attacks, Growth, Head, NotRun, joined
from ne_jax.models.model import Model
from ne_jax.release import manifest
from ne_jax.stages.attack_scene import Scene, scene_of
from ne_jax.stages.evaluate import has_labels
from ne_jax.stages.job import Job

RESULTS = "attacks.jsonl"  # a record for each (release, reader, attack)
PREPROCESSING = "preprocessing.jsonl"  # tier 1, a record for each set of parameters
NOT_RUN = "attacks_not_run.json"  # what has no meaning here, and why
CURVES = "attack_curves.jsonl"  # what more NEs, pairs or labels give an attacker
_CURVES = "curves"  # in attack.only: these
Made = TypeVar("Made")


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
    grown, settings = _CURVES in (job.config.attack.only or [_CURVES]), dataclasses.asdict(job.config.attack)
    scene = scene_of(job, release_format, readers, grown)
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
    if grown:
        make = functools.partial(curves, scene.knowledge, scene.more, scene.reported, targets, job.authorized.name)
        lines = _kept(job, release_format, _CURVES, settings, list[Growth], make)
        found.append(Attacks(growth=[replace(line, **head.to_json()) for line in lines]))
    return joined(found)


def _wanted(job: Job) -> list[Attack]:
    return wanted(job.config.attack.only)


def wanted(only: Sequence[str]) -> list[Attack]:
    """The attacks of these names, beside "curves"; all of them for none. Raises UserError for a name that no attack has."""
    unknown = sorted(set(only) - {attack.name for attack in ATTACKS} - {_CURVES})
    if unknown:
        raise UserError(f"attack.only names {unknown[0]}, which is no attack; ne_jax/attacks has them, such as jpeg")
    return [attack for attack in ATTACKS if not only or attack.name in only]


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
