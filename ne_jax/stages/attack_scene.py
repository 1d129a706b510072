"""What an attacker of a release finds and may know, gathered from a job: the whole release, and what each tier has beside it."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ne_jax.attacks.attack import Knowledge
from ne_jax.attacks.moments import Moments, counts, growing
from ne_jax.attacks.run_one import Pool
from ne_jax.core.bounds import same_patches
from ne_jax.core.linear_estimate import Unit
from ne_jax.core.pixels import Images, float_pixels, from_bytes
from ne_jax.core.rules import low_sensitivity
from ne_jax.core.spectrum import spectrum
from ne_jax.core.subspace import PatchSubspace, Subspace
from ne_jax.data import sources
from ne_jax.errors import UserError
from ne_jax.models.model import Model
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.noise_keys import noise_keys
from ne_jax.release import manifest, reading
from ne_jax.release.formats import FORMATS
from ne_jax.stages.artefact import artefact, recipe
from ne_jax.stages.evaluate import truths
from ne_jax.stages.job import Job
from ne_jax.stages.pairs import pairs
from ne_jax.stages.released import NEAR_COPIES

_WITHOUT_WINDOWS = (8, 8)  # patches for attacks, where the authorized model's windows overlap
MEMORY = 1 << 30  # bytes of stored images that an attack that learns from the files themselves holds


class Scene(NamedTuple):
    """A release as an attacker finds it: what is attacked and reported, the attacker's own images to choose parameters on, and the
    rest of what an attacker may know. more: moments of 1, 4, 16, ... and all files; of all alone where no curve is wanted."""

    reported: Pool
    own: Pool
    knowledge: Knowledge
    more: list[Moments]


def scene_of(job: Job, release_format: str, readers: Sequence[Model], curves: bool = True) -> Scene:
    """What an attacker finds and may know. curves: whether moments of fewer files are wanted too. Raises UserError for a release of fewer
    than 6 images."""
    settings = job.config.attack
    wanted = np.array([settings.images, settings.own_images, settings.releases])
    total = sum(pair.kept for pair in pairs(job, release_format, limit=int(wanted.sum())))
    if total < 6:
        raise UserError(f"{job.release_dir(release_format)} has {total} images; attacks need 6 or more")
    counts = np.maximum(wanted * min(total, wanted.sum()) // wanted.sum(), 2)
    (reported, own, known), names = _pools(job, release_format, readers, counts)
    space, layer, window = job.space, job.authorized.first_layer, unit_of(job)
    more, (all_names, released) = _moments(job, release_format, window, curves), _released(job, release_format)
    attacked = names[: counts[:2].sum()]
    found = _in_other(job, release_format, all_names, attacked)
    knowledge = Knowledge(
        patch=window, public=public_images(job, total), releases=known.stored, again=_again(job, release_format, known),
        originals=known.clean, labels=known.labels, layer=layer, space=space, model=job.authorized,
        sibling=_sibling(job, readers), artefact=artefact(job, release_format), moments=more[-1],
        released=released, other=None if found is None else _twice(released, all_names, found),
        beside=None if found is None else np.stack([found[name] for name in attacked]), copies=_copies(job, release_format),
    )  # fmt: skip
    return Scene(reported, own, knowledge, more)


def unit_of(job: Job) -> Unit:
    """(height, width, channels) of the patches that attacks go by."""
    space = job.space
    return space.window if isinstance(space, PatchSubspace) else (*_WITHOUT_WINDOWS, space.window[2])


def _moments(job: Job, release_format: str, unit: Unit, curves: bool) -> list[Moments]:
    folder = job.release_dir(release_format)
    total = manifest.read_manifest(folder).images
    with tqdm(total=total, desc=f"moments {release_format}", unit="image") as bar:

        def told() -> Iterator[Images]:
            for names, images in reading.read_release(folder, job.config.batch_size):
                yield images
                bar.update(len(names))

        return growing(told(), unit, counts(total), last=not curves)


def _released(job: Job, release_format: str) -> tuple[list[str], Images]:
    """All files of the release, or as many of them, evenly spread, as MEMORY holds; and their names."""
    folder = job.release_dir(release_format)
    facts = manifest.read_manifest(folder)
    step = -(-facts.images * 4 * int(np.prod(facts.image_shape)) // MEMORY)
    kept, kept_names, seen = [], [], 0
    for names, images in reading.read_release(folder, job.config.batch_size):
        kept.append(images[-seen % step :: step])
        kept_names += names[-seen % step :: step]
        seen += len(names)
    return kept_names, np.concatenate(kept)


def _other_artefact(job: Job, release_format: str) -> pathlib.Path | None:
    """The release of attack.other, else of a format of this job with other numbers; None where there is none."""
    if job.config.attack.other:
        return pathlib.Path(job.config.attack.other)
    dtype = FORMATS[release_format].dtype
    return next((job.release_dir(each) for each in job.config.release.formats if FORMATS[each].dtype != dtype), None)


def _in_other(
    job: Job, release_format: str, names: Sequence[str], attacked: Sequence[str]
) -> dict[str, np.ndarray] | None:
    """The images `names` and `attacked` in another artefact, those that it holds; None where there is none. Raises UserError if one that is
    attacked is missing there or has another size."""
    folder = _other_artefact(job, release_format)
    if folder is None:
        return None
    found, shape = _named(job, folder, {*names, *attacked}), job.authorized.preprocess.image_shape
    missing = [name for name in attacked if name not in found or found[name].shape != shape]
    if missing:
        raise UserError(
            f"attack.other {folder}: has no {missing[0]} of {shape}; give a release of the same pictures, or nothing"
        )
    return found


def _twice(released: Images, names: Sequence[str], found: dict[str, np.ndarray]) -> tuple[Images, Images]:
    """Released images that another artefact holds too, and them in it."""
    both = [place for place, name in enumerate(names) if name in found]
    return released[both], np.stack([found[names[place]] for place in both])


def _copies(job: Job, release_format: str) -> tuple[Images, Images] | None:
    """At most attack.releases pairs of files of the release whose pictures are nearly the same; None where there are none."""
    path = job.private_dir / NEAR_COPIES
    pairs = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if not pairs:
        return None
    pairs = pairs[: job.config.attack.releases]
    found = _named(job, job.release_dir(release_format), {name for pair in pairs for name in pair})
    whole = [pair for pair in pairs if found.keys() >= set(pair)]
    return tuple(np.stack([found[pair[side]] for pair in whole]) for side in (0, 1)) if whole else None


def _named(job: Job, folder: pathlib.Path, names: Set[str]) -> dict[str, np.ndarray]:
    """The images of a release that have one of these names."""
    found: dict[str, np.ndarray] = {}
    for some, images in reading.read_release(folder, job.config.batch_size):
        found |= {name: image for name, image in zip(some, images, strict=True) if name in names}
        if len(found) == len(names):
            break
    return found


def _pools(job: Job, release_format: str, readers: Sequence[Model], counts: np.ndarray) -> tuple[list[Pool], list[str]]:
    """The first images of the release cut into pools of these sizes, and the names of all of them."""
    parts = list(pairs(job, release_format, limit=int(counts.sum())))
    stored = np.concatenate([part.stored[: part.kept] for part in parts])
    clean = np.concatenate([from_bytes(part.clean[: part.kept]) for part in parts])
    labels = truths(job, list(readers), np.concatenate([part.indices for part in parts]))
    ends = np.cumsum(counts)
    places = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    pools = [Pool(stored[rows], clean[rows], None if labels is None else labels[rows]) for rows in places]
    return pools, [name for part in parts for name in part.names]


def public_images(job: Job, start: int) -> Images:
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
    keys = noise_keys(hashlib.sha256(job.secret() + b"again").digest(), artefact(job, release_format), pixels)
    return float_pixels(np.asarray(encode_batch(keys, pixels, recipe(job, release_format)).stored))


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
