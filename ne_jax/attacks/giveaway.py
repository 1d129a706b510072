"""From how many files on a release gives itself away: attacks on the whole of it, at more and more files."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ne_jax.attacks.attack import Knowledge, restricted
from ne_jax.attacks.curves import WHOLE_RELEASE
from ne_jax.attacks.moments import Moments
from ne_jax.attacks.registry import BY_NAME
from ne_jax.attacks.run_one import psnr
from ne_jax.core.linear_estimate import Unit
from ne_jax.core.pixels import Images
from ne_jax.errors import UserError
from ne_jax.measure.answers import Answers, interval, read
from ne_jax.measure.forecast import Point, reached
from ne_jax.measure.giveaway import AtFiles, Regained
from ne_jax.measure.records import LOST, Foretold
from ne_jax.models.model import Model

_HALF = 0.5  # of what a reader lost, or of the pictures' variance: from there on a release gives itself away


class Attackable(NamedTuple):
    """Stored pictures under attack, clean ones beside them, and other clean ones that the attacker has. readers: each with its answers
    to the clean pictures; they have a head. unit: what attacks cut images into."""

    stored: Images
    clean: Images
    public: Images
    readers: Sequence[tuple[Model, Answers]]
    unit: Unit


def agreement(reader: Model, images: Images, clean: Answers) -> float:
    """Share of images on which a reader says what it says of the clean ones."""
    return float(np.mean(read(reader, images).said == clean.said))


def at_files(scene: Attackable, moments: Moments) -> AtFiles:
    """The best that attacks do with these moments, over their quick parameters, for each reader and for the pictures."""
    best, nearest = {}, (0.0, None, None)
    spread = float(np.mean((scene.clean - scene.public.mean(0)) ** 2))
    for name, images in _attacked(scene, moments):
        share = 1 - float(np.mean((images - scene.clean) ** 2)) / spread
        nearest = max(nearest, (share, psnr(images, scene.clean), name), key=lambda found: found[0])
        for reader, clean in scene.readers:
            found = Regained(agreement=agreement(reader, images, clean), attack=name)
            best[reader.name] = max(best.get(reader.name, found), found, key=lambda regained: regained.agreement)
    share, rebuilt, name = nearest
    return AtFiles(files=moments.images, readers=best, rebuilt_db=rebuilt, share=share, attack=name)


def _attacked(scene: Attackable, moments: Moments) -> Iterator[tuple[str, Images]]:
    """Name and images of every attack that finds something."""
    knowledge = Knowledge(patch=scene.unit, public=scene.public, moments=moments)
    for attack in (BY_NAME[name] for name in WHOLE_RELEASE):
        for parameters in attack.quick:
            with contextlib.suppress(UserError):  # too few files for this attack
                yield attack.name, np.asarray(attack.run(scene.stored, restricted(knowledge, attack), **parameters))


def regained(agreement_ne: float, after: float) -> float | None:
    """Share of what a reader lost that an attack gives back; None for one that lost next to nothing."""
    return (after - agreement_ne) / (1 - agreement_ne) if 1 - agreement_ne >= LOST else None


def most_regained(as_it_is: Mapping[str, float], after: Mapping[str, float]) -> str | None:
    """The reader that has most of what it lost back; None where none lost anything."""
    shares = {name: regained(as_it_is[name], value) for name, value in after.items()}
    return max((name for name, share in shares.items() if share is not None), key=shares.__getitem__, default=None)


def gives_away(point: AtFiles, as_it_is: Mapping[str, float]) -> bool:
    """Whether any reader has half of what it lost back; where no reader lost anything, whether half of the pictures' variance is."""
    name = most_regained(as_it_is, {name: found.agreement for name, found in point.readers.items()})
    share = point.share if name is None else regained(as_it_is[name], point.readers[name].agreement)
    return share >= _HALF


def first_to_give_away(
    count: int, look: Callable[[int], AtFiles], as_it_is: Mapping[str, float], least: int = 1
) -> tuple[AtFiles | None, list[AtFiles]]:
    """Of `count` points with more and more files, which `look` takes a while for, the first that gives the release away, None if not even
    the last does; and those that were looked at, ascending, the last `least` among them. More files give no less away, so half of the
    points can be left out at each look."""
    seen = functools.cache(look)
    low, high = 0, count - 1
    asked = set(range(max(0, count - least), count))
    away = gives_away(seen(high), as_it_is)
    while away and low < high:
        middle = (low + high) // 2
        asked.add(middle)
        low, high = (low, middle) if gives_away(seen(middle), as_it_is) else (middle + 1, high)
    return seen(high) if away else None, [seen(place) for place in sorted(asked)]


def foretold(points: Sequence[AtFiles], as_it_is: Mapping[str, float], files: int, n: int) -> dict[str, Foretold]:
    """The agreement of each reader after the attack that helps it most, at so many files: of the last point where that has them, else
    by carrying the points on. n: images that were read."""
    found = {}
    for name, plain in as_it_is.items():
        seen = [(point.files, point.readers[name].agreement) for point in points if name in point.readers]
        lines = [Point(count, value, interval(np.arange(n) < round(value * n))) for count, value in seen]
        if lines:
            found[name] = reached(lines, plain, 1.0, files)
    return found
