"""How long things take, as ratios of runs side by side: python scripts/benchmark.py --case=core --repeats=7

core      recoding of 64 images of 224 x 224, 16 x 16 patches, k = 400 of 768: one tile an image, as the paper's code does it, and
          fresh noise for every patch, against plain PyTorch of the same steps and against the random numbers and the product alone
stem      the same for a 7 x 7 stem of stride 2: noise in image space against plain PyTorch on unfolded windows
spectrum  the SVD of a patch embedding and the polyphase spectrum of a 7 x 7 stem at 224 x 224; seconds
encode    a folder of 500 x 375 JPEGs to a float32 and to a png8 release for DINOv2 ViT-S/14, against the same pipeline that writes
          the same pixels without recoding
memory    peak memory of encoding 1,000 and 20,000 images, in fresh processes
guided    20 guided steps on a photograph of 224 x 224 against 20 gradients of the surrogate, and with JPEG in the loop
verify    a release of 10,000 PNG files: false alarms, and how many of ten damaged files are found
start     a guided job on photographs in a fresh process: time to its first image with an empty cache of compiled programs, and again
load      ViT-B/16 from a safetensors file, against reading it with safetensors and copying every tensor to the device

Prints median, least and largest of the pairs; --out writes JSON too. torch is needed for core and stem, the packages of
requirements-zoo.txt for encode, memory, guided and start.
"""

from __future__ import annotations

import json
import pathlib

import benchmark_core
import benchmark_encode
import benchmark_guided
import benchmark_load
import benchmark_start
import benchmark_verify
from absl import app, flags

from ne_jax.stages import malloc

CASES = {
    "core": benchmark_core.core,
    "stem": benchmark_core.stem,
    "spectrum": benchmark_core.spectra,
    "encode": benchmark_encode.encode,
    "memory": benchmark_encode.memory,
    "guided": benchmark_guided.guided,
    "verify": benchmark_verify.damage,
    "start": benchmark_start.start,
    "load": benchmark_load.load,
}
_CASE = flags.DEFINE_enum("case", "core", tuple(CASES), "what to measure")
_REPEATS = flags.DEFINE_integer("repeats", 7, "runs of each, side by side", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file to write")


def main(argv: list[str]) -> None:
    """Run a case and print it."""
    del argv
    if _CASE.value == "encode":
        malloc.keep_freed()  # as `ne_jax.main` does; the pipeline without recoding has it too
    found = CASES[_CASE.value](_REPEATS.value)
    print(f"| {_CASE.value}, {_REPEATS.value} runs | median | min | max |\n| --- | --- | --- | --- |")
    for name, values in found.items():
        print(f"| {name} | {values['median']:.4g} | {values['min']:.4g} | {values['max']:.4g} |")
    if _OUT.value:
        pathlib.Path(_OUT.value).write_text(json.dumps({"case": _CASE.value, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
