"""Stage verify: whoever has the authorized model proves a release from its files alone, and its owner every certificate too.

    files       each is the one that SHA256SUMS names, SHA256SUMS the one that manifest.json names, and nothing else lies there
    execution   the authorized model makes of the stored images what manifest.json says
    private     with WORKDIR/private: each image has the pixels that were certified, and the model says of it what was certified

A file that is not as it was released is explained as far as can be seen. Names and hashes of all files are held in memory, images not.
"""

from __future__ import annotations

import collections
import functools
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float32, Shaped
from msgspec import UNSET
from tqdm import tqdm

from ne_jax.core import bounds
from ne_jax.core.pixels import float_pixels
from ne_jax.errors import UserError
from ne_jax.files import ahead
from ne_jax.models.model import Model
from ne_jax.release import claims, signature
from ne_jax.release.blocks import Block
from ne_jax.release.certificates import ImageCertificate, digests, read_certificates, stored_statistics
from ne_jax.release.confined import MOST_SURPLUS, sha256_inside, surplus, survey
from ne_jax.release.diagnosis import Opened, everywhere, explain
from ne_jax.release.formats import index_faults
from ne_jax.release.manifest import MANIFEST, SUMS, Facts, limits, open_manifest
from ne_jax.release.owner_files import CERTIFICATES
from ne_jax.release.reading import MORE_FILES, begun, blocks, images_of, read_sums
from ne_jax.release.reasons import DIFFERS, Reason, Unreadable
from ne_jax.release.signature import SIGNATURE
from ne_jax.release.verdict import Execution, Standing, Verdict

# Of the range of an image's logits: what a margin may differ on other hardware, where it moved by up to .012 (claims.py).
_OF_RANGE = 0.05
_SHOWN = 600  # characters of a stranger's value


def run(
    release: pathlib.Path,
    model: Model,
    private: pathlib.Path | None,
    batch_size: int = 64,
    public_key: str | None = None,
) -> Verdict:
    """Prove the release in a folder. model: the authorized one. private: the owner's WORKDIR/private. batch_size: images a step.
    public_key: a file with the key that must have signed it.

    Whatever lies in the folder: nothing outside of it is opened, a few images are in memory at once, and what is wrong stands in the
    verdict. Raises UserError for a folder without a manifest that names all that is needed, a model other than the authorized one, no
    certificates, and a release that the key did not sign.
    """
    broken: dict[str, Reason] = {}
    opened = _open(release, model, private, broken, public_key)
    certified = _count(opened.certificates)
    columns, counts, faults = _execute(_images(opened, broken), model, opened, batch_size)
    as_released, whole = sum(relative not in broken for relative in opened.sums), broken.keys() <= {SIGNATURE}
    explain(opened, model, broken)
    broken |= faults | (_index_faults(opened, counts["images"]) if whole else {}) | _surplus(opened)
    claimed, wrong = claims.compare(opened.facts, opened.certificates, columns, certified, counts["images"], whole)
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
        notes=_notes(opened),
    )


def _open(
    folder: pathlib.Path, model: Model, private: pathlib.Path | None, broken: dict[str, Reason], public_key: str | None
) -> Opened:
    manifest = open_manifest(folder)
    signed = _signed(folder, manifest.data, broken, public_key)
    facts = manifest.facts
    _check_model(facts, model)
    certificates = read_certificates(private / CERTIFICATES, facts.format) if private else None
    try:
        sums = read_sums(folder, facts.images + MORE_FILES)
        if sha256_inside(folder, SUMS) != manifest.sums_sha256:
            broken[SUMS] = Reason("other sums", (MANIFEST,))
    except UserError as error:
        sums, broken[SUMS] = {}, Reason("no sums", (str(error),))
    return Opened(folder, facts, sums, certificates, signed)


def _signed(folder: pathlib.Path, manifest: bytes, broken: dict[str, Reason], public_key: str | None) -> list[str]:
    """What is to be known of the signature: nothing of a release without one, if nobody asks for it."""
    if public_key is not None:
        return [f"signed by {signature.demand(folder, manifest, public_key)}, the key in {public_key}"]
    try:
        key = signature.signer(folder, manifest)
    except Unreadable as error:
        broken[SIGNATURE] = error.reason
        return []
    told = "whether that is the owner's key was not checked: --public_key=FILE, with the key that the owner published, does"
    return [f"signed by {signature.fingerprint(key)}; {told}"] if key else []


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
                f"{model.name} is not the model that the release is for, {name}: its {key} is {found} and not {_cut(wanted)}; "
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


def _index_faults(release: Opened, images: int) -> dict[str, Reason]:
    found = index_faults(release.folder, release.facts.format, release.facts.image_shape, images)
    return {relative: _contradicts(reason) for relative, reason in found.items()}


def _surplus(release: Opened) -> dict[str, Reason]:
    if not release.sums:
        return {}
    own = (MANIFEST, SUMS, SIGNATURE)
    names = surplus(release.folder, lambda relative: relative in release.sums or relative in own)
    found = dict.fromkeys(names, Reason("surplus", (SUMS,)))
    if len(found) > MOST_SURPLUS:
        found.popitem()
        found["."] = Reason("more surplus", (MOST_SURPLUS,))
    return found


Row = tuple[str, str, Shaped[np.ndarray, "height width channels"]]  # file, name and stored numbers of an image


def _images(release: Opened, broken: dict[str, Reason]) -> Iterator[Row]:
    """Every image of files that are as released. What is wrong with the others goes into `broken`."""
    facts = release.facts
    broken |= survey(release.folder, release.sums, limits(facts), functools.partial(images_of, facts))
    files = [relative for relative in release.sums if relative not in broken]
    for relative, content in zip(
        files, ahead(functools.partial(_begin, release), files, release.format.ahead), strict=True
    ):
        if isinstance(content, Reason):
            broken[relative] = content
            continue
        try:
            for names, images in content:
                yield from ((relative, name, image) for name, image in zip(names, images, strict=True))
        except Unreadable as error:
            broken[relative] = _contradicts(error.reason)


def _begin(release: Opened, relative: str) -> Reason | Iterator[Block]:
    """The images of a file that is as released, the first of them read; or why there are none."""
    try:
        if sha256_inside(release.folder, relative) != release.sums[relative]:
            return DIFFERS
    except Unreadable as error:
        return error.reason
    except OSError as error:
        return Reason("unreadable", (error.strerror,))
    if not release.format.holds_images(relative):
        return iter(())
    try:
        return begun(blocks(release.folder, release.facts, relative))
    except Unreadable as error:
        return _contradicts(error.reason)


def _execute(
    images: Iterator[Row], model: Model, release: Opened, batch_size: int
) -> tuple[dict[str, np.ndarray], collections.Counter, dict[str, Reason]]:
    """Run the model on every image. Gives its figures, one entry an image of which they are finite; counts; and the first fault of
    each file, against the certificates, of which it takes out those it met, and of figures that are not finite."""
    parts, counts, faults = [], collections.Counter(), {}
    with tqdm(total=release.facts.images, desc="verify", unit="image") as bar:
        while batch := list(itertools.islice(images, batch_size)):
            stored = float_pixels(np.stack([image for *_, image in batch]))
            seen = _look(model, np.pad(stored, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0))))
            seen = {key: column[: len(batch)] for key, column in seen.items()}
            sound = np.all([np.isfinite(column) for column in seen.values()], axis=0)
            parts.append({key: seen[key][sound] for key in ("margin", "feature_norm") if key in seen})
            counts["images"] += len(batch)
            bar.update(len(batch))
            for (relative, name, _), fine in zip(batch, sound, strict=True):
                if not fine:
                    faults.setdefault(relative, Reason("no answer", (name,)))
            if release.certificates is not None:
                _stand(batch, stored, seen, release.certificates, counts, faults)
    keys = parts[0] if any(len(part["feature_norm"]) for part in parts) else ()
    return {key: np.concatenate([part[key] for part in parts]) for key in keys}, counts, faults


def _stand(
    batch: list[Row],
    stored: Float32[np.ndarray, "batch height width channels"],
    seen: dict[str, np.ndarray],
    certificates: dict[str, ImageCertificate],
    counts: collections.Counter,
    faults: dict[str, Reason],
) -> None:
    """Hold the images of a batch against their certificates."""
    for index, ((relative, name, _), digest) in enumerate(zip(batch, digests(stored), strict=True)):
        now = {key: column[index].item() for key, column in seen.items()}
        if fault := _against(name, certificates.pop(name, None), digest, now, counts):
            faults.setdefault(relative, fault)


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


def _contradicts(reason: Reason) -> Reason:
    return msgspec.structs.replace(reason, contradicts=MANIFEST)


def _cut(value: Any) -> str:
    """A stranger's value, as far as a line has room for it."""
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _notes(release: Opened) -> list[str]:
    facts = release.facts
    notes = [*release.signed, *([] if facts.warning is UNSET else [facts.warning])]
    if facts.certificate is UNSET:
        notes.append(f"no certificate in {MANIFEST}, nothing to compare with: the owner did not run --stage=check")
    return notes
