"""Case start of scripts/benchmark.py: how soon a guided job on photographs has its first image on disk, the first time and again."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import time

from benchmark_pairs import Row, ratio, spread

ROOT = pathlib.Path(__file__).parent.parent
# So that the first image waits for no other.
_SMALL = {"data.limit": 4, "batch_size": 1, "release.shard_size": 1}


def first_image(workdir: pathlib.Path, cache: pathlib.Path) -> float:
    """Seconds from the start of a fresh process to the first PNG file of its release."""
    leaves = [f"--config.{name}={value}" for name, value in _SMALL.items()]
    command = [
        sys.executable,
        "-m",
        "ne_jax.main",
        "--config=configs/photos_guided.py",
        f"--workdir={workdir}",
        "--stage=encode",
    ]
    start = time.perf_counter()
    with subprocess.Popen(
        [*command, f"--compilation_cache={cache}", *leaves], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as process:
        while not any(workdir.glob("releases/png8/images/**/*.png")):
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with status {process.returncode} before its first image")
            time.sleep(0.01)
        found = time.perf_counter() - start
        process.kill()
    return found


def start(repeats: int) -> dict[str, Row]:
    """Pairs: a run with an empty cache of compiled programs, and the next one with what it left."""
    found: dict[str, list[float]] = {"first run": [], "second run": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            for name, seconds in found.items():
                seconds.append(first_image(place / name.replace(" ", "_"), place / "cache"))
    return {
        "time to the first image, second / first": ratio(found, "second run", "first run"),
        **{f"seconds, {name}": spread(values) for name, values in found.items()},
    }
