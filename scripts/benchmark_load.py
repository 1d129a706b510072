"""Case load of scripts/benchmark.py: every run is a fresh process on a warm page cache."""

from __future__ import annotations

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from benchmark_pairs import Row, ratio, spread


def write_checkpoint(path: pathlib.Path) -> None:
    """ViT-B/16 under timm's names, random numbers."""
    import safetensors.numpy

    from ne_jax.models.porting.choose_format import as_published, leaf_shapes
    from ne_jax.models.registry import find

    family, config = find("vit_b16")
    fit = as_published(family, config, "timm")
    shapes = leaf_shapes(family.abstract(fit.config)[1])
    generator, tensors = np.random.default_rng(0), {}
    for ours, source in fit.keys.items():
        for name in source.names:
            tensors[name] = generator.standard_normal(source.file_shape(shapes[ours]), dtype=np.float32)
    safetensors.numpy.save_file(tensors, path)


def _resident() -> int:
    """Bytes of memory that this process holds now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def run_once(kind: str, path: str) -> dict[str, float]:
    """Seconds, and peak memory above the start in bytes."""
    import jax
    import safetensors.numpy

    from ne_jax.models.loading import load_model

    jax.device_put(np.zeros(3)).block_until_ready()
    held, start = _resident(), time.perf_counter()
    if kind == "baseline":
        arrays = {name: jax.device_put(tensor) for name, tensor in safetensors.numpy.load_file(path).items()}
        jax.block_until_ready(arrays)
    else:
        jax.block_until_ready(load_model("vit_b16", path).state)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - held}


def load(repeats: int) -> dict[str, Row]:
    """Paired fresh processes; ratios of ours to the baseline, pair by pair."""
    found: dict[str, list[dict[str, float]]] = {"baseline": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "vit_b16.safetensors")
        write_checkpoint(path)
        for _ in range(repeats):
            for kind, runs in found.items():
                command = [sys.executable, __file__, kind, str(path)]
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                runs.append(json.loads(printed.splitlines()[-1]))
        size = path.stat().st_size
    seconds = {kind: [run["seconds"] for run in runs] for kind, runs in found.items()}
    return {
        "time, ours / baseline": ratio(seconds, "ours", "baseline"),
        **{f"seconds, {kind}": spread(values) for kind, values in seconds.items()},
        **{
            f"peak memory / file, {kind}": spread([run["bytes"] / size for run in runs]) for kind, runs in found.items()
        },
    }


if __name__ == "__main__":
    print(json.dumps(run_once(*sys.argv[1:])))
