"""The public manifest of a release: Croissant metadata, which dataset tools read, with everything about the NEs in the block "ne".

The block is a JSON literal of the JSON-LD: readers of Croissant pass over it, and everybody else finds it under one key.
"""

from __future__ import annotations

import datetime
import json
import os
import pathlib
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ne_jax.errors import UserError
from ne_jax.files import Record, told, write_json
from ne_jax.release.array_record import TFDS_NAME, TFDS_VERSION
from ne_jax.release.certificates import SetCertificate
from ne_jax.release.formats import FORMATS

MANIFEST = "manifest.json"
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


class Named(Record, kw_only=True, forbid_unknown_fields=False):
    """A model that a release is for. checkpoint_sha256: of its weights, as `Model.sha256`."""

    name: str
    architecture: str | UnsetType = UNSET
    checkpoint_sha256: str


class Strength(Record, kw_only=True, forbid_unknown_fields=False):
    """PSNR in dB over the images that were changed; None where none was."""

    min: float | None
    median: float | None
    max: float | None


class Facts(Record, kw_only=True, forbid_unknown_fields=False):
    """Everything about the NEs of a release: the block "ne" of its manifest.

    What has no default is what a release is proved by. The rest may be UNSET in a release of another version.
    images: their number. image_shape, window: height, width, channels, pixels. preprocess: the fields of `Preprocess`. directions:
    recoded ones, of a window or of the image. psnr_db_*: dB. edge_share: of stored numbers at the ends of [0, 1].
    released_again: images that are in another artefact under the same secret too. near_copies: images that are nearly the same picture as
    another one of the release.
    settings: of the design, by name; they stand among the other entries. certificate: `SetCertificate.public` after stage check; its
    types are looked at where it is compared, because a bad one is a fault of the release and not of whoever reads it.
    """

    warning: str | UnsetType = UNSET
    format: str
    images: int
    authorized: Named
    also_authorized: list[Named] | UnsetType = UNSET
    image_shape: tuple[int, int, int]
    geometry: str | UnsetType = UNSET
    window: tuple[int, int, int]
    preprocess: dict[str, Any]
    colour: str | UnsetType = UNSET
    rule: str | UnsetType = UNSET
    threshold: float | UnsetType = UNSET
    directions: int
    sensitive_directions: int | UnsetType = UNSET
    design: str
    settings: dict[str, Any] = {}
    replace: bool
    noise: str | UnsetType = UNSET
    released_again: int | UnsetType = UNSET
    near_copies: int | UnsetType = UNSET
    psnr_db_asked: float | UnsetType = UNSET
    psnr_db_realised: Strength
    left_unchanged: int | UnsetType = UNSET
    edge_share: float | None | UnsetType = UNSET
    best_linear_white_box_reconstruction_db: float | None | UnsetType = UNSET
    versions: dict[str, str] | UnsetType = UNSET
    limits: list[str] | UnsetType = UNSET
    date: str | UnsetType = UNSET
    certificate: Any = UNSET

    def to_json(self) -> dict[str, Any]:
        """The block, with the settings among its entries."""
        entries = super().to_json().items()
        return {
            name: entry
            for key, value in entries
            for name, entry in (value.items() if key == "settings" else [(key, value)])
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


def read_manifest(release: pathlib.Path) -> Facts:
    """The block "ne" of a complete release's manifest, whatever version wrote it; entries that this one does not know are among the
    settings. Raises UserError where there is none, or an entry is missing or of another type."""
    path, block = release / MANIFEST, _load(release)["ne"]
    names = {field.name for field in msgspec.structs.fields(Facts)} - {"settings"}
    known = {name: block[name] for name in names & block.keys()}
    settings = {name: value for name, value in block.items() if name not in names}
    try:
        facts = msgspec.convert(known | {"settings": settings}, Facts)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {told(error)}; restore it as it was made, or encode anew") from error
    if facts.format not in FORMATS:
        raise UserError(f"{path}: format {facts.format} is unknown; choose from {', '.join(FORMATS)}")
    return facts


def add_certificate(release: pathlib.Path, certificate: SetCertificate) -> None:
    """Put the set's certificate into the manifest of a complete release, or replace it."""
    manifest = _load(release)
    manifest["ne"]["certificate"] = certificate.public().to_json()
    write_json(release / MANIFEST, manifest)


def read_sums_sha256(release: pathlib.Path) -> str | None:
    """The SHA-256 that SHA256SUMS has according to the manifest."""
    objects = _load(release).get("distribution", [])
    return next((entry.get("sha256") for entry in objects if entry.get("@id") == SUMS), None)


def _load(release: pathlib.Path) -> dict[str, Any]:
    path = release / MANIFEST
    if not path.is_file():
        raise UserError(f"{release}: no {MANIFEST}, so no complete release; run --stage=encode first")
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole JSON file ({error}); restore it as it was made") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("ne"), dict):
        raise UserError(f'{path}: has no block "ne", so it is no manifest of this version; encode again')
    return manifest
