"""At how many files a design would give itself away: attacks on a whole release, told from simulated second moments.

The same pictures are recoded again and again, each time under fresh keys, until there are as many files as planned; nothing is written.
So attacks that learn what noise is like see what they would see in a release of that size. Attacks that look at what pictures have in
common see fewer different ones than they would. Of guided and deep recoding nothing is simulated: an image takes too long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from ne_jax.attacks.giveaway import Attackable, agreement, at_files, first_to_give_away
from ne_jax.attacks.moments import Moments, counts, growing
from ne_jax.core.linear_estimate import Unit
from ne_jax.core.pixels import Images, float_pixels, from_bytes
from ne_jax.core.subspace import PatchSubspace, Subspace
from ne_jax.errors import UserError
from ne_jax.measure.answers import Answers, read
from ne_jax.measure.giveaway import Giveaway, GivenAway, NotSimulated
from ne_jax.models.model import Model
from ne_jax.recoding.design import Design, Recipe
from ne_jax.recoding.designs import DESIGNS
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.noise_keys import noise_keys
from ne_jax.release.formats import FORMATS
from ne_jax.stages.artefact import realised_psnr_db
from ne_jax.stages.job import Job, load_named

_BYTES = 1 << 27  # of pictures of the source that are recoded, again and again where a release has more
_ATTACKED = 64  # of them, that are attacked and given to readers
_PUBLIC = 64  # others, that the attacker has clean
_BATCH = 64
# Most files that are simulated, and most products that their moments take: half a minute on two cores.
_FILES, _PRODUCTS = 4096, 2.5e11
_WITHOUT_WINDOWS = (8, 8)  # patches for attacks, where the authorized model's windows overlap
_SLOW = "runs networks for every image, too slow to simulate; README's table of attacks has figures"


class Sample(NamedTuple):
    """What every design is tried on. pictures: clean, recoded again and again; the first of them are attacked. clean: these. public: other
    clean ones. readers: that have a head and are not authorized, with their answers to `clean`."""

    pictures: UInt8[np.ndarray, "n height width channels"]
    clean: Images
    public: Images
    readers: list[tuple[Model, Answers]]
    unit: Unit


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
    most = min(_FILES, job.config.inspect.planned_files, _BYTES // int(np.prod(job.space.image_shape)))
    pixels = job.sample_pixels(max(most, _ATTACKED) + _PUBLIC)
    apart = min(_PUBLIC, len(pixels) // 4)
    pictures, public = pixels[apart:], pixels[:apart] if apart else pixels
    clean, own = np.asarray(from_bytes(pictures[:_ATTACKED])), {model.name for model in (job.authorized, *job.also)}
    answers = [(reader, read(reader, clean)) for reader in job.readers() if reader.name not in own]
    readers = [(reader, found) for reader, found in answers if found.said is not None]
    return Sample(pictures, clean, np.asarray(from_bytes(public)), readers, _unit(job.space))


def _unit(space: Subspace) -> Unit:
    """What attacks cut images into."""
    return space.window if isinstance(space, PatchSubspace) else (*_WITHOUT_WINDOWS, space.image_shape[2])


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


def _most(planned: int, sample: Sample) -> int:
    """Files that are simulated."""
    height, width, _ = sample.pictures.shape[1:]
    rows, columns = height // sample.unit[0], width // sample.unit[1]
    products = (3 * rows * columns - rows - columns) * np.prod(sample.unit, dtype=float) ** 2
    return int(np.clip(_PRODUCTS // products, 1, min(planned, _FILES)))


def _files(
    job: Job, recipe: Recipe, pictures: UInt8[np.ndarray, "n height width channels"], count: int
) -> Iterator[Images]:
    """`count` files: the pictures as they would be stored, under fresh keys in every round."""
    secret = hashlib.sha256(job.secret() + b"inspect").digest()
    for start in range(0, count, len(pictures)):
        for place in range(0, min(len(pictures), count - start), _BATCH):
            pixels = pictures[place : place + _BATCH][: count - start - place]
            keys = noise_keys(secret, f"{recipe.design.name} {start}".encode(), pixels)
            yield float_pixels(np.asarray(encode_batch(keys, pixels, recipe).stored))


def _moments(job: Job, release_format: str, recipe: Recipe, sample: Sample) -> list[Moments]:
    """Of 1, 4, 16, ... files, up to as many as are simulated."""
    most = _most(job.config.inspect.planned_files, sample)
    with tqdm(total=most, desc=f"planned files, {recipe.design.name} {release_format}", unit="file") as bar:

        def told() -> Iterator[Images]:
            for images in _files(job, recipe, sample.pictures, most):
                yield images
                bar.update(len(images))

        return growing(told(), sample.unit, counts(most))


def _given_away(job: Job, release_format: str, recipe: Recipe, sample: Sample) -> GivenAway:
    attacked = sample.pictures[:_ATTACKED]
    stored = np.concatenate(list(_files(job, recipe, attacked, len(attacked))))
    scene = Attackable(stored, sample.clean, sample.public, sample.readers, sample.unit)
    as_it_is = {reader.name: agreement(reader, stored, clean) for reader, clean in sample.readers}
    moments = _moments(job, release_format, recipe, sample)
    with tqdm(
        total=1 + len(moments).bit_length(), desc=f"attacks, {recipe.design.name} {release_format}", unit="look"
    ) as bar:

        def look(place: int):
            bar.update()
            return at_files(scene, moments[place])

        away, points = first_to_give_away(len(moments), look, as_it_is)
    return GivenAway(
        design=recipe.design.name,
        release_format=release_format,
        psnr_db=float(np.median(realised_psnr_db(attacked, stored))),
        planned=job.config.inspect.planned_files,
        simulated=moments[-1].images,
        pictures=len(sample.pictures),
        n=len(attacked),
        files=away.files if away else None,
        agreement_ne=as_it_is,
        points=points,
    )
