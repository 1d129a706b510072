"""Case verify of scripts/benchmark.py: damage that stage verify must find among 10,000 files, and nothing else."""

from __future__ import annotations

import io
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable

from benchmark_pairs import Row, spread
from PIL import Image, ImageFilter

from ne_jax import config as configs
from ne_jax import load_model
from ne_jax.release import manifest, reading, verify
from ne_jax.release.verdict import describe
from ne_jax.stages import check, encode
from ne_jax.stages.job import open_job


def _flip_a_bit(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut_short(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def _as_jpeg(path: pathlib.Path) -> None:
    Image.open(path).copy().save(path, "JPEG", quality=95)


def _through_jpeg(path: pathlib.Path) -> None:
    buffer = io.BytesIO()
    Image.open(path).save(buffer, "JPEG", quality=95)
    Image.open(buffer).save(path, "PNG")


def _redrawn(change: Callable[[Image.Image], Image.Image]) -> Callable[[pathlib.Path], None]:
    return lambda path: change(Image.open(path).copy()).save(path, "PNG")


DAMAGE: dict[str, Callable[[pathlib.Path], object]] = {
    "a bit flipped": _flip_a_bit,
    "cut short": _cut_short,
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
    "half the size": _redrawn(lambda image: image.resize((56, 56))),
    "half the size and back": _redrawn(lambda image: image.resize((56, 56)).resize((112, 112))),
    "a JPEG under its name": _as_jpeg,
    "through JPEG, a PNG again": _through_jpeg,
    "blurred": _redrawn(lambda image: image.filter(ImageFilter.BoxBlur(1))),
    "another image under its name": lambda path: shutil.copy(sorted(path.parent.iterdir())[0], path),
}


def damage(repeats: int) -> dict[str, Row]:
    """A png8 release of Fashion-MNIST's test set for vit_a: broken files found as it is, and after damage to ten of them."""
    model, config = load_model("vit_a"), configs.default()
    config.recode.fit, config.recode.replace, config.release.formats = True, True, ("png8",)
    found: dict[str, list[float]] = {
        "files": [],
        "false alarms": [],
        "seconds": [],
        "damaged": [],
        "found": [],
        "false": [],
    }
    with tempfile.TemporaryDirectory() as place:
        job = open_job(configs.checked(config), pathlib.Path(place, "run"))
        with job.lock:
            encode.run(job)
            check.run(job)
        folder = job.release_dir("png8")
        names = reading.image_files(folder, manifest.read_manifest(folder))
        for number in range(repeats):
            start = time.perf_counter()
            before = verify.run(folder, model, None)
            found["seconds"].append(time.perf_counter() - start)
            found["files"].append(before.files)
            found["false alarms"].append(len(before.broken))
            copy = pathlib.Path(place, "copy")
            shutil.copytree(folder, copy)
            hit = names[1 + number :: len(names) // len(DAMAGE)][: len(DAMAGE)]
            for name, change in zip(hit, DAMAGE.values(), strict=True):
                change(copy / name)
            after = verify.run(copy, model, None)
            print(describe(after))
            found["damaged"].append(len(hit))
            found["found"].append(len(after.broken.keys() & set(hit)))
            found["false"].append(len(after.broken.keys() - set(hit)))
            shutil.rmtree(copy)
    rows = {name: spread(values) for name, values in found.items()}
    rows["other files called broken"] = rows.pop("false")
    return rows
