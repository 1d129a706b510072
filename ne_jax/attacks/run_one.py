"""Runs attacks on a release: each with its best parameters, chosen on the attacker's own images, and what readers make of it then."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from ne_jax.attacks.attack import Attack, Knowledge, Parameters, restricted
from ne_jax.core.bounds import row_cosines
from ne_jax.core.pixels import Images
from ne_jax.errors import UserError
from ne_jax.measure.answers import Answers, interval, read
from ne_jax.measure.records import Attacked, Head
from ne_jax.models.model import Model

PICTURES = 6  # attacked images that are kept for the report, at most


class Pool(NamedTuple):
    """Stored images beside their clean ones. labels: None without."""

    stored: Images
    clean: Images
    labels: Int[np.ndarray, " n"] | None


class Target(NamedTuple):
    """A reader, and what it makes of the reported images, clean and as they are stored, and of the attacker's own, clean. labelled:
    whether the labels are its classes."""

    reader: Model
    labelled: bool
    clean: Answers
    plain: Answers
    own: Answers


class Tried(NamedTuple):
    """What an attack did with one set of parameters. values: the reader's metric on each image: on the attacker's own images (None if
    there was nothing to choose), on the images that are reported, and after the attack on clean images. pictures: the first attacked
    images as 8 bits; None if their size is another."""

    parameters: Parameters
    metric: str
    own: Shaped[np.ndarray, " own"] | None
    reported: Shaped[np.ndarray, " n"]
    control: Shaped[np.ndarray, " n"]
    damage_db: float | None
    reconstruction_db: float | None
    pictures: UInt8[np.ndarray, "shown height width channels"] | None = None


def target(reader: Model, labelled: bool, reported: Pool, own: Pool) -> Target:
    """The reader with its answers on both pools."""
    return Target(
        reader, labelled, read(reader, reported.clean), read(reader, reported.stored), read(reader, own.clean)
    )


def measured(answers: Answers, clean: Answers, labels) -> tuple[str, Shaped[np.ndarray, " n"]]:
    """The most telling metric, and its value on each image: accuracy, or agreement, or the cosine of features, which a changed reader
    may have others of. Raises UserError for features that are not finite."""
    if answers.said is None:
        if not np.isfinite(cosines := row_cosines(answers.features, clean.features)).all():
            raise UserError("the reader's features are not finite")
        return "feature_cosine", cosines
    return ("agreement", answers.said == clean.said) if labels is None else ("accuracy", answers.said == labels)


def reads(
    each: Target, model: Model, images: Images, pool: Pool, clean: Answers
) -> tuple[str, Shaped[np.ndarray, " n"]]:
    """`measured` of what a model, the target's reader or what an attack made of it, says of images of a pool."""
    return measured(read(model, images), clean, pool.labels if each.labelled else None)


def psnr(images: Images, clean: Images) -> float | None:
    """Median PSNR in dB; None for images of another size, or where there is no change at all."""
    if images.shape != clean.shape:
        return None
    error = np.mean((images.astype(np.float64) - clean) ** 2, axis=(1, 2, 3))
    found = float(np.median(-10 * np.log10(np.maximum(error, 1e-30))))
    return found if found < 200 else None


def attack_images(
    attack: Attack, knowledge: Knowledge, own: Pool, reported: Pool, targets: Sequence[Target], quick: bool
) -> tuple[dict[str, list[Tried]], float]:
    """Reader -> what came of every set of parameters; and the seconds that the attack itself took.

    What an attack learns beside `knowledge` it may learn from the images under attack; so clean images, its control, are attacked
    apart. Both come first in their call, so that what is random in an attack is the same for them.
    Raises UserError where it has no meaning.
    """
    tried: dict[str, list[Tried]] = {each.reader.name: [] for each in targets}
    choices, seconds = (attack.quick if quick else attack.grid), 0.0
    allowed, count = restricted(knowledge, attack), len(reported.stored)
    joint = np.concatenate([reported.stored, own.stored])
    for parameters in choices:
        start = time.perf_counter()
        images = np.asarray(attack.run(joint, allowed, **parameters), np.float32)
        seconds += time.perf_counter() - start
        unharmed = np.asarray(attack.run(reported.clean, allowed, **parameters), np.float32)
        if not (np.isfinite(images).all() and np.isfinite(unharmed).all()):
            raise UserError(f"{attack.name} gives numbers that are not finite, with {dict(parameters)}")
        damage, rebuilt = psnr(unharmed, reported.clean), psnr(images[:count], reported.clean)
        shown = None if rebuilt is None else _bytes(images[: min(count, PICTURES)])
        for each in targets:
            metric, values = reads(each, each.reader, images[:count], reported, each.clean)
            control = reads(each, each.reader, unharmed, reported, each.clean)[1]
            chosen = reads(each, each.reader, images[count:], own, each.own)[1] if len(choices) > 1 else None
            tried[each.reader.name].append(Tried(parameters, metric, chosen, values, control, damage, rebuilt, shown))
    return tried, seconds


def _bytes(images: Images) -> UInt8[np.ndarray, "shown height width channels"]:
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


def attack_reader(
    attack: Attack, knowledge: Knowledge, own: Pool, reported: Pool, each: Target, quick: bool
) -> tuple[list[Tried], float]:
    """The same for an attack that changes the reader and not the images. Its control is the changed reader on clean images."""
    tried, choices, seconds = [], (attack.quick if quick else attack.grid), 0.0
    allowed = restricted(knowledge, attack)
    for parameters in choices:
        start = time.perf_counter()
        changed = attack.run(each.reader, allowed, **parameters)
        seconds += time.perf_counter() - start
        metric, values = reads(each, changed, reported.stored, reported, each.clean)
        control = reads(each, changed, reported.clean, reported, each.clean)[1]
        chosen = reads(each, changed, own.stored, own, each.own)[1] if len(choices) > 1 else None
        tried.append(Tried(parameters, metric, chosen, values, control, None, None))
    return tried, seconds


def best(tried: Sequence[Tried]) -> Tried:
    """The parameters that serve the attacker best on the attacker's own images."""
    return max(tried, key=lambda one: 0.0 if one.own is None else float(one.own.mean()))


def row(attack: Attack, each: Target, one: Tried, reported: Pool, seconds: float, head: Head) -> Attacked:
    """The record of what an attack did; `head` has the fields that all records of a release share."""
    labels = reported.labels if each.labelled else None
    plain, clean = (float(measured(found, each.clean, labels)[1].mean()) for found in (each.plain, each.clean))
    value, (low, high) = float(one.reported.mean()), interval(one.reported)
    room = clean - plain
    return Attacked(
        **head.to_json(),
        reader=each.reader.name,
        condition="attacked",
        metric=one.metric,
        value=value,
        n=len(one.reported),
        ci95=(round(float(low), 5), round(float(high), 5)),
        attack=attack.name,
        tier=attack.tier,
        parameters=dict(one.parameters),
        value_ne=plain,
        value_clean=clean,
        recovery=(value - plain) / room if room > 0 else None,
        value_control=float(one.control.mean()),
        damage_db=one.damage_db,
        reconstruction_db=one.reconstruction_db,
        seconds=round(seconds, 2),
        by="ne_jax",
    )
