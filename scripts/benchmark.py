"""How long things take, as ratios of runs side by side: python scripts/benchmark.py --case=load --repeats=7

load: `load_model` of ViT-B/16 from a safetensors file, against reading that file with safetensors and copying every tensor to the
device. Every run is a fresh process on a warm page cache; memory is the peak above what the process held before, over the file's size.
Prints a table; --out writes JSON too.
"""

from __future__ import annotations

import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

_CASE = flags.DEFINE_enum("case", "load", ("load",), "what to measure")
_REPEATS = flags.DEFINE_integer("repeats", 7, "pairs of runs", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file to write")
_RUN = flags.DEFINE_enum("run", None, ("ours", "baseline"), "one run in this process; what the pairs are made of")
_FILE = flags.DEFINE_string("file", None, "the checkpoint of --run")


def write_checkpoint(path: pathlib.Path) -> None:
    """ViT-B/16 under timm's names, random numbers."""
    import safetensors.numpy

    from ne_jax.models.fitting import as_published, leaf_shapes
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


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def benchmark_load(repeats: int) -> dict:
    """Paired fresh processes; ratios of ours to the baseline, pair by pair."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "vit_b16.safetensors")
        write_checkpoint(path)
        pairs = []
        for _ in range(repeats):
            pair = {}
            for kind in ("baseline", "ours"):
                command = [sys.executable, __file__, f"--run={kind}", f"--file={path}"]
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                pair[kind] = json.loads(printed.splitlines()[-1])
            pairs.append(pair)
        size = path.stat().st_size
    return {
        "case": "load ViT-B/16",
        "pairs": repeats,
        "time, ours / baseline": _spread([pair["ours"]["seconds"] / pair["baseline"]["seconds"] for pair in pairs]),
        "seconds, ours": _spread([pair["ours"]["seconds"] for pair in pairs]),
        "seconds, baseline": _spread([pair["baseline"]["seconds"] for pair in pairs]),
        "peak memory / file, ours": _spread([pair["ours"]["bytes"] / size for pair in pairs]),
        "peak memory / file, baseline": _spread([pair["baseline"]["bytes"] / size for pair in pairs]),
    }


def main(argv: list[str]) -> None:
    """Run a case, or one run of it."""
    del argv
    if _RUN.value:
        print(json.dumps(run_once(_RUN.value, _FILE.value)))
        return
    found = benchmark_load(_REPEATS.value)
    print(f"| {found['case']}, {found['pairs']} pairs | median | min | max |\n| --- | --- | --- | --- |")
    for name, values in found.items():
        if isinstance(values, dict):
            print(f"| {name} | {values['median']:.2f} | {values['min']:.2f} | {values['max']:.2f} |")
    if _OUT.value:
        pathlib.Path(_OUT.value).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
