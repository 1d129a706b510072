"""What was released before, and what is nearly the same in a release: two recodings of a picture give noise away, then the picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ne_jax.data.near_copies import near_copies
from ne_jax.data.sources import Decoded
from ne_jax.errors import UserError
from ne_jax.release import ledger, owner_files
from ne_jax.release.manifest import MANIFEST, Facts, read_manifest
from ne_jax.stages.artefact import artefact
from ne_jax.stages.job import Job

NEAR_COPIES = "near_copies.jsonl"


class Picture(NamedTuple):
    """What a picture is known by: as it was decoded, and as the authorized model's preprocessing left it. look: see `near_copies`."""

    content: bytes
    pixels: bytes
    look: bytes


def picture(image: Decoded) -> Picture:
    """What an image that was decoded as known is known by."""
    shape = repr(image.pixels.shape).encode()
    return Picture(image.known.content, hashlib.sha256(shape + image.pixels.tobytes()).digest(), image.known.look)


def _digests(job: Job, pictures: Iterable[Picture]) -> list[tuple[bytes, bytes]]:
    secret = job.secret()
    return [tuple(ledger.image_digest(secret, each) for each in (one.content, one.pixels)) for one in pictures]


def _artefacts(job: Job, formats: Iterable[str]) -> set[bytes]:
    secret = job.secret()
    return {ledger.artefact_digest(secret, artefact(job, name)) for name in formats}


def _refusal(name: str) -> UserError:
    return UserError(
        f"{name} was released before under this secret, in another artefact: for another model or subspace, by another design, strength or "
        "number format. Whoever has both can compute the noise, and then the picture. Release that artefact in further formats, or "
        "accept it with release.again=True, which the manifest tells"
    )


def refuse(job: Job, formats: Collection[str], rows: Sequence[tuple[int, Decoded]]) -> None:
    """Raise UserError, before any work is done on them, if one of these source images may not be released in these formats."""
    if not job.config.release.again:
        images = _digests(job, (picture(image) for _, image in rows))
        others = ledger.elsewhere(job.ledger, images, _artefacts(job, formats))
        for (index, _), count in zip(rows, others, strict=True):
            if count:
                raise _refusal(job.source.names[index])


def claim(job: Job, formats: Collection[str], pictures: Sequence[Picture], names: Sequence[str]) -> list[int]:
    """Note in the ledger that images are released, before they are; in how many other artefacts each is. Raises UserError if one may
    not be."""
    images, artefacts = _digests(job, pictures), _artefacts(job, formats)
    others = ledger.claim(job.ledger, images, artefacts, job.config.release.again)
    if others is None:
        counts = ledger.elsewhere(job.ledger, images, artefacts)
        raise _refusal(next(name for name, count in zip(names, counts, strict=True) if count))
    return others


def keyed(job: Job, pictures: Iterable[Picture]) -> list[str]:
    """What a progress record may hold of pictures: equal for equal ones, and no more without the secret. Hexadecimal."""
    return [content.hex() for content, _ in _digests(job, pictures)]


def write_near_copies(job: Job, names: Sequence[str], looks: Sequence[str], contents: Sequence[str]) -> int:
    """Write pairs of names that are nearly the same picture into the owner's private folder; how many images are in one."""
    pairs = near_copies([bytes.fromhex(look) for look in looks], [bytes.fromhex(content) for content in contents])
    owner_files.write_lines(
        job.private_dir / NEAR_COPIES, (json.dumps([names[one], names[other]]) for one, other in pairs)
    )
    return len(np.unique(pairs))


def risks_of(job: Job) -> list[str]:
    """`risks` of the job's complete releases, each once."""
    folders = [job.release_dir(name) for name in job.config.release.formats]
    whole = [folder for folder in folders if (folder / MANIFEST).is_file()]
    return sorted({risk for folder in whole for risk in risks(read_manifest(folder))})


def risks(facts: Facts) -> list[str]:
    """What the owner, and whoever reads the report, is told of a release in which pictures are recoded more than once."""
    told = []
    if facts.released_again:
        told.append(
            f"{facts.released_again:,} of {facts.images:,} images were released in another artefact too (release.again=True): whoever has "
            "both files of a picture can compute the noise, and then the picture."
        )
    if facts.near_copies:
        told.append(
            f"{facts.near_copies:,} of {facts.images:,} images are nearly the same picture as another one (private/{NEAR_COPIES} has the "
            "pairs): the difference of two such files is noise and little else, which gives the directions away. Release one of each."
        )
    return told
