"""Stage verify: whoever has the authorized model proves a release from its files alone, and its owner every certificate too.

    files       each is the one that SHA256SUMS names, SHA256SUMS the one that manifest.json names, and nothing else lies there
    execution   the authorized model makes of the stored images what manifest.json says
    private     with WORKDIR/private: each image has the pixels that were certified, and the model says of it what was certified

A file that is not as it was released is explained as far as can be seen. Names and hashes of all files are held in memory, images not.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ne_jax.core import bounds
from ne_jax.core.pixels import float_pixels
from ne_jax.errors import UserError
from ne_jax.files import ahead, sha256
from ne_jax.models.model import Model
from ne_jax.release.certificates import Certificate, digests, kept_in_words, stored_statistics
from ne_jax.release.diagnosis import DIFFERS, Opened, Pixels, Stored, everywhere, explain, reason_of
from ne_jax.release.formats import FORMATS
from ne_jax.release.manifest import MANIFEST, SUMS, read_manifest, read_sums_sha256
from ne_jax.release.owner_files import CERTIFICATES
from ne_jax.release.reading import read_file, read_sums

# What may differ on other hardware. Weights and pixels rounded to bfloat16, as a TPU multiplies them, moved vit_a's percentiles by up
# to .008 of what lies between the 5th and the 95th, and a margin by up to .012 of the range of the image's logits; to TF32, as recent
# GPUs have it, by .003 and .003. The share of the median is for norms that hardly vary.
_OF_SPREAD, _OF_MEDIAN, _OF_RANGE = 0.02, 1e-3, 0.05
_SHOWN = 50  # broken files that are listed
_NEEDED = {
    "authorized": dict, "format": str, "images": int, "image_shape": list, "window": list, "preprocess": dict, "design": str,
    "replace": bool, "directions": int, "psnr_db_realised": dict,
}  # fmt: skip


def run(release: pathlib.Path, model: Model, private: pathlib.Path | None, batch_size: int = 64) -> dict[str, Any]:
    """Prove the release in a folder. model: the authorized one. private: the owner's WORKDIR/private. batch_size: images a step.

    Gives holds: nothing is broken; files, of SHA256SUMS, and as_released, how many of them have their hash; broken: reasons by relative
    path, every surplus file among them; everywhere: what happened to nearly all image files, if it is one thing; images: read from
    files as released; execution; private: certificates, how many of them stand (bound and prediction held, and still do), and how many
    predictions changed that are too close to call on other hardware; notes: lines to know.
    Raises UserError for a folder without a manifest of this version, a model other than the authorized one, and no certificates.
    """
    broken: dict[str, str] = {}
    opened = _open(release, model, private, broken)
    certified = _count(opened.certificates)
    columns, counts, faults = _execute(_images(opened, broken), model, opened, batch_size)
    as_released, whole = len(opened.sums.keys() - broken.keys()), not broken
    explain(opened, model, broken)
    broken |= faults
    if opened.sums:
        broken |= dict.fromkeys(_surplus(opened), f"is not part of the release: no line of {SUMS}")
    execution, wrong = _compare(opened, columns, certified, whole)
    if wrong:
        broken[MANIFEST] = "; ".join(wrong)
    return {
        "holds": not broken, "files": len(opened.sums), "as_released": as_released, "broken": broken,
        "everywhere": everywhere(opened, broken), "images": counts["images"], "execution": execution | {"model": model.name},
        "private": {"certificates": certified["n"], "stand": counts["stand"], "close": counts["close"]} if certified else None,
        "notes": _notes(opened.ne),
    }  # fmt: skip


def _open(folder: pathlib.Path, model: Model, private: pathlib.Path | None, broken: dict[str, str]) -> Opened:
    ne, path = read_manifest(folder), folder / MANIFEST
    for key, kind in _NEEDED.items():
        if not isinstance(ne.get(key), kind):
            raise UserError(f"{path}: {key} is missing or wrong; restore it as it was made, or encode anew")
    if ne["format"] not in FORMATS:
        raise UserError(f"{path}: format {ne['format']} is unknown; choose from {', '.join(FORMATS)}")
    _check_model(ne, model)
    certificates = _certificates(private / CERTIFICATES, ne["format"]) if private else None
    try:
        sums = read_sums(folder)
        if sha256(folder / SUMS) != read_sums_sha256(folder):
            broken[SUMS] = f"is not the one that {MANIFEST} names, so that what it says of other files proves nothing"
    except UserError as error:
        sums, broken[SUMS] = {}, f"cannot be used, so that no file is proved ({error})"
    return Opened(folder, ne, sums, certificates)


def _check_model(ne: dict[str, Any], model: Model) -> None:
    """Raise UserError unless the model is the one that the manifest names."""
    authorized, rules = ne["authorized"], dataclasses.asdict(model.preprocess)
    wanted = {"checkpoint_sha256": authorized.get("checkpoint_sha256")}
    wanted |= {key: ne[key] for key in ("image_shape", "window", "preprocess")}
    values = (model.sha256, model.preprocess.image_shape, model.first_layer.window, rules)
    for key, found in zip(wanted, json.loads(json.dumps(values)), strict=True):
        if found != wanted[key]:
            name = authorized.get("name")
            raise UserError(
                f"{model.name} is not the model that the release is for, {name}: its {key} is {found} and not {wanted[key]}; "
                f"give --config with models.{name}.checkpoint of the authorized checkpoint, and its preprocess"
            )


def _certificates(path: pathlib.Path, release_format: str) -> dict[str, Certificate]:
    found, number = {}, 1
    try:
        with open(path) as file:
            for text in file:
                row = json.loads(text)
                if row["release_format"] == release_format:
                    head = (int(row["predicted"]), float(row["margin"])) if "margin" in row else (None, None)
                    held = row["holds"] is True, row.get("kept", True) is True
                    found[row["image"]] = Certificate(row["pixels_sha256"], *head, *held)
                number += 1
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give WORKDIR/private of the run, after --stage=check") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: line {number} is no certificate of this version; run --stage=check again") from error
    if not found:
        raise UserError(f"{path}: none is of a {release_format} release; give WORKDIR/private of the run that made it")
    return found


def _count(certificates: dict[str, Certificate] | None) -> dict[str, int]:
    """Figures of the manifest's certificate, counted anew."""
    if certificates is None:
        return {}
    rows = certificates.values()
    held, kept = sum(row.holds for row in rows), sum(row.kept for row in rows)
    return {"n": len(rows), "bound_holds": held, "prediction_kept": kept}


def _surplus(release: Opened) -> Iterator[str]:
    for folder, folders, names in os.walk(release.folder):
        links = (name for name in folders if os.path.islink(os.path.join(folder, name)))
        for name in (*names, *links):
            relative = os.path.relpath(os.path.join(folder, name), release.folder)
            if relative not in release.sums and relative not in (MANIFEST, SUMS):
                yield relative


def _images(release: Opened, broken: dict[str, str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """File, name and stored numbers of every image of files that are as released. What is wrong with the others goes into `broken`."""

    def look(relative: str) -> str | tuple[list[str], Stored]:
        path, nothing = release.folder / relative, ([], np.empty((0, 0, 0, 0)))
        try:
            if not path.is_file():
                return "is missing"
            if sha256(path) != release.sums[relative]:
                return DIFFERS
            return read_file(release.folder, release.ne, relative) if release.has_images(relative) else nothing
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        except UserError as error:
            return f"is as released, but not what {MANIFEST} says: it {reason_of(error, path)}"

    found = ahead(look, release.sums, FORMATS[release.ne["format"]].ahead)
    for relative, content in zip(release.sums, found, strict=True):
        if isinstance(content, str):
            broken[relative] = content
        else:
            yield from ((relative, name, image) for name, image in zip(*content, strict=True))


def _execute(
    images: Iterator[tuple[str, str, np.ndarray]], model: Model, release: Opened, batch_size: int
) -> tuple[dict[str, np.ndarray], collections.Counter, dict[str, str]]:
    """Run the model on every image. Gives its figures, one entry an image; counts; and, against the certificates, of which it
    takes out those it met, the first fault of each file."""
    parts, counts, faults = [], collections.Counter(), {}
    with tqdm(total=release.ne["images"], desc="verify", unit="image") as bar:
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
                if fault := _against(release.certificates.pop(name, None), digest, now, counts):
                    faults.setdefault(relative, f"image {name} {fault}")
    keys = parts[0] if parts else ()
    return {key: np.concatenate([part[key] for part in parts]) for key in keys}, counts, faults


def _look(model: Model, stored: Pixels) -> dict[str, np.ndarray]:
    """What the model makes of stored images, one entry each. range: of an image's logits."""
    logits, features = model(stored)
    found = {"feature_norm": np.linalg.norm(np.asarray(features), axis=1)}
    if logits is not None:
        said = bounds.compare_logits(logits, logits)
        found |= {"margin": said.margin, "predicted": said.predicted, "range": np.ptp(logits, axis=1)}
    return {key: np.asarray(column) for key, column in found.items()}


def _against(certificate: Certificate | None, digest: str, now: dict[str, Any], counts) -> str | None:
    """What of an image is not as certified."""
    if certificate is None:
        return f"has no line in {CERTIFICATES}"
    if certificate.pixels_sha256 != digest:
        return "has not the pixels that were certified, or --private is of another run"
    if certificate.margin is not None and "margin" in now:
        allowed, other = _OF_RANGE * now["range"], now["predicted"] != certificate.predicted
        if other and certificate.margin > allowed:
            return f"is of class {now['predicted']} to the model, and was certified as {certificate.predicted}"
        if not abs(now["margin"] - certificate.margin) <= allowed:
            return f"has a margin of {now['margin']:.4g}, and was certified with {certificate.margin:.4g}"
        counts["close"] += other
    counts["stand"] += certificate.holds and certificate.kept
    return None


def _compare(
    release: Opened, columns: dict[str, np.ndarray], certified: dict[str, int], whole: bool
) -> tuple[dict[str, Any], list[str]]:
    """The execution's figures beside the manifest's, and what of these is not so. whole: every file is as released."""
    ne, images, certificate = release.ne, len(columns.get("feature_norm", ())), release.ne.get("certificate")
    found = {"stored": stored_statistics(columns) if images else {}, "claimed": None, "claim": None}
    wrong = [f"says {ne['images']} images, the files hold {images}"] if whole and images != ne["images"] else []
    if whole and release.certificates:
        first, count = next(iter(release.certificates)), len(release.certificates)
        wrong.append(f"{count:,} certified images are in no file, the first: {first}")
    if certificate is None:
        return found, wrong
    try:
        n, kept = certificate["n"], certificate.get("prediction_kept")
        counted = {"n": ne["images"]} | certified
        if kept is not None:
            counted["prediction_lost_at_most"] = bounds.failure_upper_bound(n - kept, n)
        for key, value in counted.items():
            if not abs(certificate.get(key, value) - value) < 1e-6:
                wrong.append(f"its certificate says {key} {certificate[key]:.6g}, counted anew it is {value:.6g}")
        wrong += _moved(certificate["stored"], columns, n - images) if 0 < images <= n else []
        found |= {"claimed": certificate["stored"], "claim": kept_in_words(certificate)}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        wrong.append(f"its certificate is not as --stage=check writes it ({type(error).__name__}: {error})")
    return found, wrong


def _moved(claimed: dict[str, list[float]], columns: dict[str, np.ndarray], missing: int) -> Iterator[str]:
    """Which percentiles are not those that were claimed, wherever among them the missing images were."""
    ends = ({key: np.append(column, np.full(missing, end)) for key, column in columns.items()} for end in (-1e30, 1e30))
    lowest, highest = map(stored_statistics, ends)
    now = stored_statistics(columns)
    for key in lowest:
        values = claimed[key]
        allowed = _OF_SPREAD * (values[2] - values[0]) + _OF_MEDIAN * abs(values[1])
        limits = zip(lowest[key], values, highest[key], strict=True)
        if not all(low - allowed <= value <= high + allowed for low, value, high in limits):
            told = f"its certificate says {key} {_told(values)}, and the model gives {_told(now[key])}"
            yield f"{told}: it was edited, or this machine computes otherwise"


def _told(percentiles: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in percentiles)


def _notes(ne: dict[str, Any]) -> list[str]:
    notes = [ne["warning"]] if "warning" in ne else []
    if "certificate" not in ne:
        notes.append(f"no certificate in {MANIFEST}, nothing to compare with: the owner did not run --stage=check")
    return notes


def describe(found: dict[str, Any]) -> str:
    """What `run` found, in plain words: what was done to the release, each broken file, the figures, and "holds" or "BROKEN"."""
    broken, execution, private = found["broken"], found["execution"], found["private"]
    lines = [found["everywhere"]] if found["everywhere"] else []
    lines += [f"{path}: {broken[path]}" for path in itertools.islice(broken, _SHOWN)]
    lines += [f"... and {len(broken) - _SHOWN:,} more"] * (len(broken) > _SHOWN) + found["notes"]
    lines.append(f"files: {found['as_released']:,} of {found['files']:,} as released (SHA-256)")
    for key, values in execution["stored"].items():
        what = f"{execution['model']} on {found['images']:,} images: 5, 50, 95 % of {key}"
        claimed = f"; {MANIFEST} says {_told(execution['claimed'][key])}" if execution["claimed"] else ""
        lines.append(f"{what} {_told(values)}{claimed}")
    if execution["claim"]:
        lines.append(f"the owner claims: {execution['claim']}")
    if private:
        lines.append(f"certificates: {private['stand']:,} of {private['certificates']:,} stand")
    lines.append(f"the release {'holds' if found['holds'] else 'is BROKEN'}")
    # Names may hold line breaks, and bytes that are no text.
    return "\n".join(line if line.isprintable() else ascii(line) for line in lines)
