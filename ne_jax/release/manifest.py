"""The public manifest of a release: Croissant metadata, which dataset tools read, with everything about the NEs in the block "ne".

The block is a JSON literal of the JSON-LD: readers of Croissant pass over it, and everybody else finds it under one key.
"""

from __future__ import annotations

import datetime
import json
import os
import pathlib
from typing import Any

from ne_jax.errors import UserError
from ne_jax.files import write_atomic
from ne_jax.release.formats import FORMATS, TFDS_NAME, TFDS_VERSION

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


def describe(release_format: str, ne: dict[str, Any]) -> str:
    """What the images are, for whom, and what they do not protect, in plain words."""
    height, width, _ = ne["image_shape"]
    return (
        f"{ne['images']} images for one model, {ne['authorized']['name']}: non-transferable examples (arXiv:2510.10982). They were "
        "changed along directions that the first layer of this model hardly reacts to, so that it answers on them as on the "
        f"originals, while many other models fail. Each file holds {FORMATS[release_format].contents}. Feed the pixels as they are, "
        f"{width} x {height}: a resize, a crop, a filter or another compression may break them for the authorized model as well. "
        "What they do not protect: they are no encryption. People may still see what they show; whoever knows the model's first "
        "layer, as everybody does if its weights are public, can take much of the change out; and a model that is trained on such "
        'images can learn to read them. Figures and limits stand in the block "ne".'
    )


def build(
    release_format: str,
    ne: dict[str, Any],
    sums_sha256: str,
    sums_size: int,
    *,
    version: str = TFDS_VERSION,
    license: str | None = None,
    creator: str | None = None,
    url: str | None = None,
) -> dict[str, Any]:
    """The manifest of a release, for `write_json`.

    ne: everything about the NEs; must hold `format`, `image_shape`, `images` (their number) and `authorized` with a `name`.
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
        "description": describe(release_format, ne),
        "version": version,
        "datePublished": date,
        "citeAs": _PAPER,
        **{key: value for key, value in known.items() if value},
        "ne": ne | {"date": date},
        "distribution": [_sums_object(sums_sha256, sums_size), _file_set(release_format)],
        **({"recordSet": [_png_records()]} if release_format == "png8" else {}),
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


def read_manifest(release: pathlib.Path) -> dict[str, Any]:
    """The block "ne" of a complete release's manifest. Raises UserError where there is none."""
    return _load(release)["ne"]


def add(release: pathlib.Path, key: str, value: Any) -> None:
    """Put one more entry into the block "ne" of a complete release, or replace it."""
    manifest = _load(release)
    manifest["ne"][key] = value
    write_atomic(release / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False) + "\n")


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
