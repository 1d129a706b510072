"""The public manifest of a release: Croissant metadata, which dataset tools read, with everything about the NEs in the block "ne".

The block is a JSON literal of the JSON-LD: readers of Croissant pass over it, and everybody else finds it under one key.
"""

from __future__ import annotations

import datetime
import math
import os
import pathlib
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from ne_jax.errors import UserError
from ne_jax.files import Record, json_text, line, told, write_atomic
from ne_jax.release import confined, signature, strict_json
from ne_jax.release.array_record import TFDS_NAME, TFDS_VERSION
from ne_jax.release.certificates import SetCertificate
from ne_jax.release.confined import Limits
from ne_jax.release.facts import Facts
from ne_jax.release.facts import Named as Named
from ne_jax.release.facts import Strength as Strength
from ne_jax.release.formats import FORMATS
from ne_jax.release.reasons import Reason, Unreadable, words
from ne_jax.release.signature import MANIFEST

SUMS = "SHA256SUMS"
_PAPER = 'Wang et al., "Catch-Only-One: Non-Transferable Examples for Model-Specific Authorization", arXiv:2510.10982'
_TERMS = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject", "fileProperty",
    "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
    "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
# As Croissant 1.1 prescribes it; "ne" is ours.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _TERMS},
    "ne": {"@id": "https://arxiv.org/abs/2510.10982#release", "@type": "@json"},
}


def describe(facts: Facts) -> str:
    """What the images are, for whom, and what they do not protect, in plain words."""
    height, width, _ = facts.image_shape
    return (
        f"{facts.images} images for one model, {facts.authorized.name}: non-transferable examples (arXiv:2510.10982). They were "
        "changed along directions that the first layer of this model hardly reacts to, so that it answers on them as on the "
        f"originals, while many other models fail. Each file holds {FORMATS[facts.format].contents}. Feed the pixels as they are, "
        f"{width} x {height}: a resize, a crop, a filter or another compression may break them for the authorized model as well. "
        "What they do not protect: they are no encryption. People may still see what they show; whoever knows the model's first "
        "layer, as everybody does if its weights are public, can take much of the change out; and a model that is trained on such "
        'images can learn to read them. Figures and limits stand in the block "ne".'
    )


def build(
    facts: Facts,
    sums_sha256: str,
    sums_size: int,
    *,
    version: str = TFDS_VERSION,
    license: str | None = None,
    creator: str | None = None,
    url: str | None = None,
) -> dict[str, Any]:
    """The manifest of a release, for `write_json`.

    sums_sha256, sums_size: of SHA256SUMS, in bytes. license, url: URLs. creator: an organisation or a group.
    The date is now, or SOURCE_DATE_EPOCH (seconds since 1970, from the environment), which makes two runs the same.
    """
    date = _date()
    known = {"license": license, "url": url, "creator": creator and {"@type": "sc:Organization", "name": creator}}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": TFDS_NAME,
        "description": describe(facts),
        "version": version,
        "datePublished": date,
        "citeAs": _PAPER,
        **{key: value for key, value in known.items() if value},
        "ne": msgspec.structs.replace(facts, date=date).to_json(),
        "distribution": [_sums_object(sums_sha256, sums_size), _file_set(facts.format)],
        **({"recordSet": [_png_records()]} if facts.format == "png8" else {}),
    }


def _date() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is not None and not epoch.isdecimal():
        raise UserError(f"SOURCE_DATE_EPOCH is {epoch!r}; give whole seconds since 1970, or unset it")
    now = datetime.datetime.now(datetime.UTC)
    return (datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else now).isoformat(timespec="seconds")


def _sums_object(sums_sha256: str, sums_size: int) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": SUMS,
        "name": SUMS,
        "description": f"SHA-256 of every other file; `sha256sum -c {SUMS}` proves the release",
        "contentUrl": SUMS,
        "contentSize": f"{sums_size} B",
        "encodingFormat": "text/plain",
        "sha256": sums_sha256,
    }


def _file_set(release_format: str) -> dict[str, Any]:
    kept = FORMATS[release_format]
    return {
        "@type": "cr:FileSet",
        "@id": "image-files",
        "name": "image-files",
        "description": f"Each file: {kept.contents}",
        "encodingFormat": kept.media_type,
        "includes": list(kept.globs),
    }


def _png_records() -> dict[str, Any]:
    """Croissant knows how to read files that are images; of the other formats it knows no reader."""
    files = {"fileSet": {"@id": "image-files"}}
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "field": [
            {
                "@type": "cr:Field",
                "@id": "images/image",
                "name": "image",
                "dataType": "sc:ImageObject",
                "source": files | {"extract": {"fileProperty": "content"}},
            },
            {
                "@type": "cr:Field",
                "@id": "images/name",
                "name": "name",
                "dataType": "sc:Text",
                "source": files
                | {"extract": {"fileProperty": "fullpath"}, "transform": {"regex": r"images/(.*)\.png"}},
            },
        ],
    }


class _Object(Record, kw_only=True, forbid_unknown_fields=False):
    """A file or set of files, as Croissant lists them."""

    id: str | UnsetType = msgspec.field(default=UNSET, name="@id")
    sha256: str | UnsetType = UNSET


class _Whole(Record, kw_only=True, forbid_unknown_fields=False):
    """What of a whole manifest a release is proved by."""

    ne: dict[str, Any]
    distribution: list[_Object]


class Manifest(NamedTuple):
    """A manifest that was read: its block, the SHA-256 that it gives SHA256SUMS (None: it gives none), and its own bytes."""

    facts: Facts
    sums_sha256: str | None
    data: bytes


def open_manifest(release: pathlib.Path) -> Manifest:
    """The manifest of a complete release, whatever version wrote it; entries of its block that this one does not know are among the
    settings. Raises UserError where there is none, or something is missing, of another type, or more than can be."""
    path = release / MANIFEST
    data, whole = _load(release)
    try:
        found = msgspec.convert(whole, _Whole)
        names = {field.name for field in msgspec.structs.fields(Facts)} - {"settings"}
        known = {name: entry for name, entry in found.ne.items() if name in names}
        settings = {name: entry for name, entry in found.ne.items() if name not in names}
        facts = msgspec.convert(known | {"settings": settings}, Facts)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {told(error)}; restore it as it was made, or encode anew") from error
    if facts.format not in FORMATS:
        raise UserError(f"{path}: format {facts.format} is unknown; choose from {', '.join(FORMATS)}")
    sums = next((entry.sha256 for entry in found.distribution if entry.id == SUMS), UNSET)
    return Manifest(facts, None if sums is UNSET else sums, data)


def read_manifest(release: pathlib.Path, public_key: str | None = None) -> Facts:
    """The block "ne" of a release's manifest, as `open_manifest`. public_key: a file with the key that must have signed it."""
    found = open_manifest(release)
    if public_key is not None:
        signature.demand(release, found.data, public_key)
    return found.facts


def limits(facts: Facts) -> Limits:
    """How large the files of such a release can be."""
    return Limits(facts.images, math.prod(facts.image_shape) * np.dtype(FORMATS[facts.format].dtype).itemsize)


def write_manifest(release: pathlib.Path, manifest: dict[str, Any], signing_key: str) -> None:
    """Write the manifest of a release, and before it what signs it by the key in the file `signing_key`; empty: nothing does."""
    data = json_text(manifest).encode()
    signature.write(release, data, signing_key)
    write_atomic(release / MANIFEST, data)


def add_certificate(release: pathlib.Path, certificate: SetCertificate, signing_key: str = "") -> None:
    """Put the set's certificate into the manifest of a complete release, or replace it; and sign that, as `write_manifest`."""
    _, manifest = _load(release)
    manifest["ne"]["certificate"] = certificate.public().to_json()
    write_manifest(release, manifest, signing_key)


def _load(release: pathlib.Path) -> tuple[bytes, dict[str, Any]]:
    path = release / MANIFEST
    try:
        data = confined.read_inside(release, MANIFEST, strict_json.MOST_BYTES)
    except Unreadable as error:
        if error.reason == Reason("missing"):
            raise UserError(f"{release}: no {MANIFEST}, so no complete release; run --stage=encode first") from error
        raise UserError(f"{path} {words(error.reason)}; restore it as it was made") from error
    try:
        manifest = strict_json.parse(data)
    except ValueError as error:
        raise UserError(f"{path}: not a whole JSON file ({line(error)}); restore it as it was made") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("ne"), dict):
        raise UserError(f'{path}: has no block "ne", so it is no manifest of this version; encode again')
    return data, manifest
