"""Small jobs for the tests of the stages, in this process or through the command line."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

import jax
import numpy as np

from ne_jax.config import Config, checked, default
from ne_jax.core.leak_floor import leak_floor
from ne_jax.core.subspace import Subspace
from ne_jax.release import reading
from ne_jax.release.formats import FORMATS
from ne_jax.stages import encode, finish_release
from ne_jax.stages.job import Job, open_job

ROOT = pathlib.Path(__file__).parent.parent
SECRET = "0123456789abcdef" * 4
EVERY_FORMAT = tuple(FORMATS)
# Makes manifests the same too.
ENVIRONMENT = {"SOURCE_DATE_EPOCH": "1700000000", "JAX_PLATFORMS": "cpu"}
# A stem whose windows overlap, and a rule that leaves it directions.
OVERLAPPING = {"authorized": "resnet_a", "subspace.rule": "count", "subspace.value": 200.0, "readers": ("resnet_a",)}


def small_leaves(tmp_path: pathlib.Path, **leaves) -> dict:
    """20 images of the embedded set in shards of 8, under a fixed secret, and what `leaves` says. Tests release one image in many
    artefacts."""
    secret = tmp_path / "secret.key"
    secret.write_text(SECRET)
    small = {"data.limit": 20, "batch_size": 6, "release.shard_size": 8, "recode.fit": True}
    small |= {"release.formats": ("float32", "png8"), "release.again": True}
    return small | {"recode.secret_file": str(secret)} | leaves


def small_config(tmp_path: pathlib.Path, **leaves) -> Config:
    """The config of `small_leaves`."""
    config = default()
    config.update_from_flattened_dict(small_leaves(tmp_path, **leaves))
    return checked(config)


_FLOORS: dict[bytes, float] = {}


def _floor(space: Subspace, clean: np.ndarray) -> float:
    """`leak_floor`, once for the same subspace and images: it would take most of the time of most jobs here."""
    parts = b"".join(np.asarray(leaf).tobytes() for leaf in (*jax.tree.leaves(space), clean))
    key = hashlib.sha256(parts).digest()
    if key not in _FLOORS:
        _FLOORS[key] = leak_floor(space, clean)
    return _FLOORS[key]


@contextlib.contextmanager
def opened(tmp_path: pathlib.Path, name: str, **leaves) -> Iterator[Job]:
    """The job in workdir `name`, which is free again afterwards, also after an exception."""
    with mock.patch.dict(os.environ, ENVIRONMENT), mock.patch.object(finish_release, "leak_floor", _floor):
        job = open_job(small_config(tmp_path, **leaves), tmp_path / name)
        try:
            yield job
        finally:
            job.lock.close()


def encode_into(tmp_path: pathlib.Path, name: str, **leaves) -> Job:
    """Stage encode in workdir `name`."""
    with opened(tmp_path, name, **leaves) as job:
        encode.run(job)
        return job


def contents(workdir: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file of every release below a workdir."""
    folder = workdir / "releases"
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(job: Job, release_format: str) -> dict[str, np.ndarray]:
    """What is stored, by name."""
    batches = reading.read_release(job.release_dir(release_format), 7)
    return {name: image for names, images in batches for name, image in zip(names, images, strict=True)}


def write_config(path: pathlib.Path, leaves: dict) -> pathlib.Path:
    """A config file that sets `leaves`."""
    lines = ["from ne_jax.config import default", "", "", "def get_config():", "    config = default()"]
    lines += [f"    config.update_from_flattened_dict({leaves!r})", "    return config", ""]
    path.write_text("\n".join(lines))
    return path


def start(command: list[str], **environment: str) -> subprocess.Popen:
    """A process in the project's folder; "python" stands for this interpreter."""
    program = [sys.executable if word == "python" else word for word in command]
    variables = os.environ | ENVIRONMENT | environment
    return subprocess.Popen(program, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    """`start`, and what came of it."""
    with start(command, **environment) as process:
        out, err = process.communicate(timeout=1200)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def main(*arguments: object) -> list[str]:
    """The main job's command."""
    return ["python", "-m", "ne_jax.main", *map(str, arguments)]


def told(done: subprocess.CompletedProcess) -> str:
    """The one line that a mistake is told in; no more and no traceback."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]
