"""Stage verify: whoever has the authorized model proves a release from its files alone, and its owner every certificate too.

    files       each is the one that SHA256SUMS names, SHA256SUMS the one that manifest.json names, and nothing else lies there
    execution   the authorized model makes of the stored images what manifest.json says
    private     with WORKDIR/private: each image has the pixels that were certified, and the model says of it what was certified

A file that is not as it was released is explained as far as can be seen. Names and hashes of all files are held in memory, images not.
"""

from __future__ import annotations

import collections
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float32, Shaped
from msgspec import UNSET
from tqdm import tqdm

from ne_jax.core import bounds
from ne_jax.core.pixels import Stored, float_pixels
from ne_jax.errors import UserError
from ne_jax.files import ahead, sha256, told
from ne_jax.models.model import Model
from ne_jax.release.certificates import (
    ImageCertificate,
    SetCertificate,
    digests,
    read_certificates,
    stored_statistics,
)  # fmt: skip
from ne_jax.release.diagnosis import Opened, everywhere, explain
from ne_jax.release.manifest import MANIFEST, SUMS, Facts, read_manifest, read_sums_sha256
from ne_jax.release.owner_files import CERTIFICATES
from ne_jax.release.reading import open_file, read_sums
from ne_jax.release.reasons import DIFFERS, Reason, Unreadable
from ne_jax.release.verdict import Execution, Standing, Verdict

# What may differ on other hardware. Weights and pixels rounded to bfloat16, as a TPU multiplies them, moved vit_a's percentiles by up
# to .008 of what lies between the 5th and the 95th, and a margin by up to .012 of the range of the image's logits; to TF32, as recent
# GPUs have it, by .003 and .003. The share of the median is for norms that hardly vary.
_OF_SPREAD, _OF_MEDIAN, _OF_RANGE = 0.02, 1e-3, 0.05


def run(release: pathlib.Path, model: Model, private: pathlib.Path | None, batch_size: int = 64) -> Verdict:
    """Prove the release in a folder. model: the authorized one. private: the owner's WORKDIR/private. batch_size: images a step.

    Raises UserError for a folder without a manifest that names all that is needed, a model other than the authorized one, and no
    certificates.
    """
    broken: dict[str, Reason] = {}
    opened = _open(release, model, private, broken)
    certified = _count(opened.certificates)
    columns, counts, faults = _execute(_images(opened, broken), model, opened, batch_size)
    as_released, whole = len(opened.sums.keys() - broken.keys()), not broken
    explain(opened, model, broken)
    broken |= faults
    if opened.sums:
        broken |= dict.fromkeys(_surplus(opened), Reason("surplus", (SUMS,)))
    claimed, wrong = _compare(opened, columns, certified, whole)
    if wrong:
        broken[MANIFEST] = msgspec.structs.replace(wrong[0], more=tuple(wrong[1:]))
    stored = stored_statistics(columns) if columns else None
    standing = (
        Standing(certificates=certified["n"], stand=counts["stand"], close=counts["close"]) if certified else None
    )
    return Verdict(
        files=len(opened.sums),
        as_released=as_released,
        broken=broken,
        everywhere=everywhere(opened, broken),
        images=counts["images"],
        execution=Execution(model=model.name, stored=stored, claimed=claimed),
        private=standing,
        notes=_notes(opened.facts),
    )


def _open(folder: pathlib.Path, model: Model, private: pathlib.Path | None, broken: dict[str, Reason]) -> Opened:
    facts = read_manifest(folder)
    _check_model(facts, model)
    certificates = read_certificates(private / CERTIFICATES, facts.format) if private else None
    try:
        sums = read_sums(folder)
        if sha256(folder / SUMS) != read_sums_sha256(folder):
            broken[SUMS] = Reason("other sums", (MANIFEST,))
    except UserError as error:
        sums, broken[SUMS] = {}, Reason("no sums", (str(error),))
    return Opened(folder, facts, sums, certificates)


def _check_model(facts: Facts, model: Model) -> None:
    """Raise UserError unless the model is the one that the manifest names."""
    name, rules = facts.authorized.name, msgspec.json.decode(msgspec.json.encode(model.preprocess))
    compared = {
        "checkpoint_sha256": (model.sha256, facts.authorized.checkpoint_sha256),
        "image_shape": (list(model.preprocess.image_shape), list(facts.image_shape)),
        "window": (list(model.first_layer.window), list(facts.window)),
        "preprocess": (rules, facts.preprocess),
    }
    for key, (found, wanted) in compared.items():
        if found != wanted:
            raise UserError(
                f"{model.name} is not the model that the release is for, {name}: its {key} is {found} and not {wanted}; "
                f"give --config with models.{name}.checkpoint of the authorized checkpoint, and its preprocess"
            )


def _count(certificates: dict[str, ImageCertificate] | None) -> dict[str, int]:
    """Figures of the manifest's certificate, counted anew."""
    if certificates is None:
        return {}
    rows = certificates.values()
    held, kept = sum(row.holds for row in rows), sum(row.kept is UNSET or row.kept for row in rows)
    return {
        "n": len(rows),
        "bound_holds": held,
        "prediction_kept": kept,
        "utility_kept": sum(row.not_lost for row in rows),
    }


def _surplus(release: Opened) -> Iterator[str]:
    for folder, folders, names in os.walk(release.folder):
        links = (name for name in folders if os.path.islink(os.path.join(folder, name)))
        for name in (*names, *links):
            relative = os.path.relpath(os.path.join(folder, name), release.folder)
            if relative not in release.sums and relative not in (MANIFEST, SUMS):
                yield relative


Row = tuple[str, str, Shaped[np.ndarray, "height width channels"]]  # file, name and stored numbers of an image


def _images(release: Opened, broken: dict[str, Reason]) -> Iterator[Row]:
    """Every image of files that are as released. What is wrong with the others goes into `broken`."""

    def look(relative: str) -> Reason | tuple[list[str], Stored]:
        path, nothing = release.folder / relative, ([], np.empty((0, 0, 0, 0)))
        try:
            if not path.is_file():
                return Reason("missing")
            if sha256(path) != release.sums[relative]:
                return DIFFERS
            if not release.format.holds_images(relative):
                return nothing
            return open_file(release.folder, release.facts, relative)
        except OSError as error:
            return Reason("unreadable", (error.strerror,))
        except Unreadable as error:
            return msgspec.structs.replace(error.reason, contradicts=MANIFEST)

    found = ahead(look, release.sums, release.format.ahead)
    for relative, content in zip(release.sums, found, strict=True):
        if isinstance(content, Reason):
            broken[relative] = content
        else:
            yield from ((relative, name, image) for name, image in zip(*content, strict=True))


def _execute(
    images: Iterator[Row], model: Model, release: Opened, batch_size: int
) -> tuple[dict[str, np.ndarray], collections.Counter, dict[str, Reason]]:
    """Run the model on every image. Gives its figures, one entry an image; counts; and, against the certificates, of which it
    takes out those it met, the first fault of each file."""
    parts, counts, faults = [], collections.Counter(), {}
    with tqdm(total=release.facts.images, desc="verify", unit="image") as bar:
        while batch := list(itertools.islice(images, batch_size)):
            stored = float_pixels(np.stack([image for *_, image in batch]))
            seen = _look(model, np.pad(stored, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0))))
            parts.append({key: seen[key][: len(batch)] for key in ("margin", "feature_norm") if key in seen})
            counts["images"] += len(batch)
            bar.update(len(batch))
            if release.certificates is None:
                continue
            for index, ((relative, name, _), digest) in enumerate(zip(batch, digests(stored), strict=True)):
                now = {key: column[index].item() for key, column in seen.items()}
                if fault := _against(name, release.certificates.pop(name, None), digest, now, counts):
                    faults.setdefault(relative, fault)
    keys = parts[0] if parts else ()
    return {key: np.concatenate([part[key] for part in parts]) for key in keys}, counts, faults


def _look(model: Model, stored: Float32[np.ndarray, "batch height width channels"]) -> dict[str, np.ndarray]:
    """What the model makes of stored images, one entry each. range: of an image's logits."""
    logits, features = model(stored)
    found = {"feature_norm": np.linalg.norm(np.asarray(features), axis=1)}
    if logits is not None:
        said = bounds.compare_logits(logits, logits)
        found |= {"margin": said.margin, "predicted": said.predicted, "range": np.ptp(logits, axis=1)}
    return {key: np.asarray(column) for key, column in found.items()}


def _against(
    name: str, certificate: ImageCertificate | None, digest: str, now: dict[str, Any], counts: collections.Counter
) -> Reason | None:
    """What of an image is not as certified."""
    if certificate is None:
        return Reason("uncertified", (name, CERTIFICATES))
    if certificate.pixels_sha256 != digest:
        return Reason("other pixels", (name,))
    if certificate.margin is not UNSET and "margin" in now:
        allowed, other = _OF_RANGE * now["range"], now["predicted"] != certificate.predicted
        if other and certificate.margin > allowed:
            return Reason("other class", (name, now["predicted"], certificate.predicted))
        if not abs(now["margin"] - certificate.margin) <= allowed:
            return Reason("other margin", (name, now["margin"], certificate.margin))
        counts["close"] += other
    counts["stand"] += certificate.holds and certificate.not_lost
    return None


def _compare(
    release: Opened, columns: dict[str, np.ndarray], certified: dict[str, int], whole: bool
) -> tuple[SetCertificate | None, list[Reason]]:
    """The manifest's certificate, and what the manifest says that is not so. whole: every file is as released."""
    facts, images = release.facts, len(columns.get("feature_norm", ()))
    wrong = [Reason("other number", (facts.images, images))] if whole and images != facts.images else []
    if whole and release.certificates:
        wrong.append(Reason("in no file", (len(release.certificates), next(iter(release.certificates)))))
    if facts.certificate is UNSET:
        return None, wrong
    try:
        claimed = msgspec.convert(facts.certificate, SetCertificate)
    except msgspec.ValidationError as error:
        return None, [*wrong, Reason("no certificate", (told(error),))]
    wrong += _recounted(claimed, {"n": facts.images} | certified)
    if 0 < images <= claimed.n:
        wrong += _moved(claimed, columns, claimed.n - images)
    return claimed, wrong


def _recounted(claimed: SetCertificate, counted: dict[str, float]) -> Iterator[Reason]:
    """Which numbers of images, and the bound that follows from them, are not those that were claimed."""
    if claimed.prediction_kept is not UNSET:
        lost = claimed.n - claimed.prediction_kept
        counted = counted | {"prediction_lost_at_most": bounds.failure_upper_bound(lost, claimed.n)}
    for key, value in counted.items():
        said = getattr(claimed, key)
        if said is not UNSET and not abs(said - value) < 1e-6:
            yield Reason("other count", (key, said, value))


def _moved(claimed: SetCertificate, columns: dict[str, np.ndarray], missing: int) -> Iterator[Reason]:
    """Which percentiles are not those that were claimed, wherever among them the missing images were."""
    ends = ({key: np.append(column, np.full(missing, end)) for key, column in columns.items()} for end in (-1e30, 1e30))
    lowest, highest, now = (stored_statistics(some).to_json() for some in (*ends, columns))
    said = claimed.stored.to_json()
    for key in now:
        if key not in said:
            yield Reason("no certificate", (f"stored: has no {key}",))
            continue
        allowed = _OF_SPREAD * (said[key][2] - said[key][0]) + _OF_MEDIAN * abs(said[key][1])
        limits = zip(lowest[key], said[key], highest[key], strict=True)
        if not all(low - allowed <= value <= high + allowed for low, value, high in limits):
            yield Reason("other figures", (key, said[key], now[key]))


def _notes(facts: Facts) -> list[str]:
    notes = [] if facts.warning is UNSET else [facts.warning]
    if facts.certificate is UNSET:
        notes.append(f"no certificate in {MANIFEST}, nothing to compare with: the owner did not run --stage=check")
    return notes
