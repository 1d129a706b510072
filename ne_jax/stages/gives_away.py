"""At how many files a design would give itself away: attacks on a whole release, told from simulated second moments.

The same pictures are recoded again and again, each time under fresh keys, until there are as many files as planned; nothing is written.
So attacks that learn what noise is like see what they would see in a release of that size. Attacks that look at what pictures have in
common see fewer different ones than they would. Of guided and deep recoding nothing is simulated: an image takes too long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ne_jax.attacks.giveaway import (
    Attackable,
    agreement,
    at_files,
    first_to_give_away,
    foretold,
    most_regained,
)
from ne_jax.attacks.moments import counts
from ne_jax.attacks.registry import BY_NAME
from ne_jax.core.pixels import Images, from_bytes
from ne_jax.errors import UserError
from ne_jax.measure.answers import Answers, read
from ne_jax.measure.giveaway import AtFiles, Giveaway, GivenAway, NotSimulated
from ne_jax.models.model import Model
from ne_jax.recoding.design import Design, Recipe
from ne_jax.recoding.designs import DESIGNS
from ne_jax.release.formats import FORMATS
from ne_jax.stages.artefact import realised_psnr_db
from ne_jax.stages.job import Job, load_named
from ne_jax.stages.more_files import Pictures, affordable, moments_of_more, pictures_for, recoded, unit_of

_ATTACKED = 64  # pictures that are attacked and given to readers
_PUBLIC = 64  # others, that the attacker has clean
# Most files that are simulated, and most products that their moments take: half a minute on two cores.
_FILES, _PRODUCTS = 4096, 2.5e11
_SLOW = "networks run for every image, which takes too long here; README has figures of attacks on them"


class Sample(NamedTuple):
    """What every design is tried on. pictures: clean, recoded again and again; the first of them are attacked. clean: these. public: other
    clean ones. readers: that have a head and are not authorized, with their answers to `clean`."""

    pictures: Pictures
    clean: Images
    public: Images
    readers: list[tuple[Model, Answers]]


def foresee(job: Job) -> Giveaway:
    """What every noise design would give away at `inspect.planned_files` files, in the number formats of the job; and why others were
    not looked at."""
    sample, found, left = _sample(job), [], []
    for name in {FORMATS[name].dtype: name for name in reversed(job.config.release.formats)}.values():
        for design in _of_noise(name):
            try:
                found.append(_given_away(job, name, _recipe(job, design, name), sample))
            except UserError as error:
                left.append(NotSimulated(design=design.name, release_format=name, why=str(error)))
    slow = [design.name for design in DESIGNS.values() if design.runs_networks]
    left += [NotSimulated(design=name, release_format=None, why=_SLOW) for name in slow]
    return Giveaway(designs=found, not_simulated=left)


def _of_noise(release_format: str) -> Iterator[Design]:
    """Designs that draw their noise in the subspace and whose pixels the format can hold."""
    box = FORMATS[release_format].dtype == np.uint8
    for design in DESIGNS.values():
        if design.inside and not design.runs_networks and not (box and design.leaves_box):
            yield design


def _sample(job: Job) -> Sample:
    found = pictures_for(job, max(_most(job), _ATTACKED) + _PUBLIC)
    pixels = np.random.default_rng(0).permutation(found)  # sources may be sorted by class
    apart = min(_PUBLIC, len(pixels) // 4)
    pictures, public = pixels[apart:], pixels[:apart] if apart else pixels
    clean, own = np.asarray(from_bytes(pictures[:_ATTACKED])), {model.name for model in (job.authorized, *job.also)}
    answers = [(reader, read(reader, clean)) for reader in job.readers() if reader.name not in own]
    readers = [(reader, found) for reader, found in answers if found.said is not None]
    return Sample(pictures, clean, np.asarray(from_bytes(public)), readers)


def _most(job: Job) -> int:
    """Files that are simulated."""
    return min(job.config.inspect.planned_files, _FILES, affordable(job.space, _PRODUCTS))


def _recipe(job: Job, design: Design, release_format: str) -> Recipe:
    """How the job would recode by another design. Raises UserError for one that has no meaning here."""
    settings = job.config.recode
    if design.needs_surrogates and not settings.surrogates:
        raise UserError("needs recode.surrogates")
    if design.needs_surrogates and not job.surrogates:
        job = job._replace(surrogates=tuple(load_named(job.config, name) for name in settings.surrogates))
    replace = settings.replace and "replace" in design.settings
    dtype, directions = FORMATS[release_format].dtype, design.directions(job.context)
    return Recipe(design, directions, settings.psnr_db, dtype, replace, settings.rounds)


def _given_away(job: Job, release_format: str, recipe: Recipe, sample: Sample) -> GivenAway:
    planned, most, attacked = job.config.inspect.planned_files, _most(job), sample.pictures[:_ATTACKED]
    stored = np.concatenate(list(recoded(job, recipe, attacked, len(attacked))))
    scene = Attackable(stored, sample.clean, sample.public, sample.readers, unit_of(job.space))
    as_it_is = {reader.name: agreement(reader, stored, clean) for reader, clean in sample.readers}
    moments = moments_of_more(job, recipe, sample.pictures, counts(most), release_format)
    with tqdm(desc=f"attacks at more files, {recipe.design.name} {release_format}", unit="look") as bar:

        def look(place: int):
            bar.update()
            return at_files(scene, moments[place])

        away, points = first_to_give_away(len(moments), look, as_it_is, least=1 if most == planned else 3)
    return GivenAway(
        design=recipe.design.name,
        release_format=release_format,
        psnr_db=float(np.median(realised_psnr_db(attacked, stored))),
        planned=planned,
        simulated=most,
        pictures=min(most, len(sample.pictures)),
        n=len(attacked),
        files=away.files if away else None,
        agreement_ne=as_it_is,
        points=points,
        at_planned=foretold(points, as_it_is, planned, len(attacked)),
    )


def told(found: Giveaway) -> list[str]:
    """Lines for a terminal: one for each design that was simulated, and one for the others."""
    if not found.designs:
        return _others(found)
    first = found.designs[0]
    head = (
        f"A design gives itself away when an attack on all files gives a reader half of what it lost back ({first.n} pictures read; "
        f"{first.pictures:,} different ones recoded under fresh keys until there were {first.simulated:,} files):"
    )
    return [head, *(f"  {_line(each)}" for each in found.designs), *_others(found)]


def _line(found: GivenAway) -> str:
    name = f"{found.design} ({found.release_format}, {found.psnr_db:z.1f} dB)"
    if found.files is None:
        shown, words = found.points[-1], f"does not give itself away up to {found.simulated:,} files"
    else:
        shown = next(point for point in found.points if point.files == found.files)
        words = f"gives itself away at {found.files:,} files or fewer"
    return f"{name}: {words}: {_at(found, shown)}; {_at_planned(found)}."


def _at(found: GivenAway, point: AtFiles) -> str:
    """What the attack does that gives most back."""
    name = most_regained(found.agreement_ne, {name: each.agreement for name, each in point.readers.items()})
    if name is None:
        rebuilt = "-" if point.rebuilt_db is None else f"{point.rebuilt_db:z.1f}"
        attack = "no attack" if point.attack is None else BY_NAME[point.attack].title
        return f"{attack} rebuilds pictures to {rebuilt} dB, {point.share:.0%} of their variance"
    regained = point.readers[name]
    title, plain = BY_NAME[regained.attack].title, found.agreement_ne[name]
    return f"{title}: {name} agrees on {regained.agreement:.0%} (as it is {plain:.0%})"


def _at_planned(found: GivenAway) -> str:
    name = most_regained(found.agreement_ne, {name: each.value for name, each in found.at_planned.items()})
    if name is None:
        return f"of your {found.planned:,} files {found.simulated:,} were simulated"
    value = found.at_planned[name]
    low, high = value.ci95
    how = "" if value.how == "simulated" else f" by extrapolation from {found.simulated:,}"
    return f"at your {found.planned:,} files {name} {value.value:.0%} [{low:.0%}, {high:.0%}]{how}"


def _others(found: Giveaway) -> list[str]:
    whys: dict[str, list[str]] = {}
    for each in found.not_simulated:
        whys.setdefault(each.why, []).append(each.design)
    parts = [f"{', '.join(dict.fromkeys(names))} ({why})" for why, names in whys.items()]
    return [f"Not simulated: {'; '.join(parts)}."] if parts else []
