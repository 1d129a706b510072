"""What must not move by accident: keys, and the bytes of small releases of every design and format with all that is measured of them.

    python -m tests.pins           prints them, by kind of processor (tests/pins.json holds them)
    python -m tests.pins --write   puts them into tests/pins.json in the place of all of the maker: a decision, to be told in the commit
    python -m tests.pins --add     puts them beside those: of another kind of processor, on code that holds the pins of a kind that is there

Last bits depend on a processor's instructions and on how many threads share a sum, so both are held: one thread, and no vector
instructions beyond those that every machine of an architecture has had for ten years. Processors of other makers, and other kinds of one
maker's, may still differ: bytes must be those of one kind that is recorded. For makers
of whom there is none, tests/made_by_0_1_0 says what the pixels are, within a grey level, under the keys of that version.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import platform
import re
import sys
import tempfile

import jax
import numpy as np

from ne_jax.recoding.noise_keys import noise_keys
from tests import jobs

PINS = pathlib.Path(__file__).with_suffix(".json")
# A release that the first version made, of vit_a, and its certificates: must verify for ever.
OLD_RELEASE = pathlib.Path(__file__).with_name("made_by_0_1_0")
X86 = platform.machine() == "x86_64"
HELD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false" + (" --xla_cpu_max_isa=AVX2" if X86 else ""),
    "OPENBLAS_CORETYPE": "HASWELL" if X86 else "ARMV8",
    "OPENBLAS_NUM_THREADS": "1",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR" * X86,
    "PYTHONWARNINGS": "ignore",  # NumPy's, of features that a machine has not
}
# Every format of one job with all its stages; and one release of every other design, of first layers with and without patches.
_FORMATS = {"release.formats": jobs.EVERY_FORMAT, "readers": ("vit_a", "resnet_a"), "evaluate.curve_psnr_db": (10.0,)} | {
    f"attack.{name}": count for name, count in (("images", 6), ("own_images", 4), ("releases", 6), ("public", 6))
} | {"attack.only": ("median", "tile_average", "gevd_projection", "difference_subspace", "projection")}  # fmt: skip
_ONE = {"release.formats": ("png8",), "data.limit": 4}
JOBS: dict[str, dict] = {
    "formats": _FORMATS,
    "overlapping": _ONE | jobs.OVERLAPPING,
    "contrastive": _ONE | {"recode.design": "contrastive", "recode.surrogates": ("vit_b",)},
    "guided": _ONE | {"recode.design": "guided", "recode.surrogates": ("resnet_a",), "recode.steps": 3, "recode.psnr_db": 16.0},
    "deep": _ONE
    | {"recode.design": "deep", "recode.surrogates": ("resnet_a",), "recode.steps": 3, "recode.restore": 2}
    | {"recode.psnr_db": 20.0, "recode.margin_share": 0.0, "recode.logit_gap": 1.0},
    "paper": _ONE | {"recode.design": "paper", "recode.psnr_db": 30.0, "release.formats": ("float32",)},
}  # fmt: skip
# One process for all stages of a job, since imports and compilers take longer than most of these.
_STAGES = """
import sys
from ne_jax import main
_, config, workdir, *stages = sys.argv
for stage in stages:
    sys.argv = ["main", f"--config={config}", f"--workdir={workdir}", f"--stage={stage}"]
    main.main(main._parse(sys.argv))
"""
_MEASURED = ("results.jsonl", "curve.jsonl", "check.json", "private/certificates.jsonl", "attacks.jsonl")


def maker() -> str:
    """Architecture and maker of this machine's processor."""
    return f"{platform.machine()} {_told('vendor_id|CPU implementer')}"


def processor() -> str:
    """The same, and its kind."""
    return f"{maker()}, family {_told('cpu family|CPU variant')}, model {_told('model|CPU part')}"


def _told(names: str) -> str:
    info = pathlib.Path("/proc/cpuinfo")
    found = re.findall(rf"^(?:{names})\s*: (.+)$", info.read_text() if info.is_file() else "", re.M)
    return found[0] if found else "unknown"


def recorded(known: dict, name: str) -> list[dict[str, str]]:
    """What a job made on every kind of this maker's processors that is recorded."""
    return [jobs_[name] for kind, jobs_ in known.items() if kind.split(", ")[0] == maker()]


def keys() -> dict[str, str]:
    """The noise key of three images that anyone can make."""
    images = {
        "zeros": np.zeros((4, 4, 1), np.uint8),
        "ramp": np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
        "ramp, wider": np.arange(48, dtype=np.uint8).reshape(2, 8, 3),
    }
    secret, found = bytes.fromhex(jobs.SECRET), {}
    for name, image in images.items():
        words = np.asarray(jax.random.key_data(noise_keys(secret, b"", image[None]))[0])
        found[name] = " ".join(f"{word:08x}" for word in words)
    return found


def releases(folder: pathlib.Path) -> dict[str, dict[str, str]]:
    """SHA-256 of what every job of JOBS makes in `folder`, by file; of the many files of a format, one of them all."""
    found = {}
    for name in JOBS:
        (folder / name).mkdir()  # a secret and a ledger of its own
        found[name] = one(folder / name, name)
    return found


def one(folder: pathlib.Path, name: str) -> dict[str, str]:
    """SHA-256 of what one job makes in `folder`."""
    config = jobs.write_config(folder / f"{name}.py", jobs.small_leaves(folder, **JOBS[name]))
    workdir, stages = folder / name, ("encode", "check", "evaluate", "attack") if name == "formats" else ("encode",)
    done = jobs.run(["python", "-c", _STAGES, str(config), str(workdir), *stages], **HELD)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = {}
    for release in sorted((workdir / "releases").iterdir()):
        each = {key: value for key, value in jobs.contents(workdir).items() if key.startswith(f"{release.name}/")}
        found[release.name] = hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()
    for file in _MEASURED:
        if (workdir / file).is_file():
            found[file] = hashlib.sha256(_without_seconds((workdir / file).read_text()).encode()).hexdigest()
    return found


def _without_seconds(text: str) -> str:
    """Records without how long an attack took."""
    rows = [json.loads(line) for line in text.splitlines()] if text.startswith('{"') else [json.loads(text)]
    return "\n".join(json.dumps({key: value for key, value in row.items() if key != "seconds"}) for row in rows)


def main() -> None:
    """Print all pins, or write them."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"keys": keys(), processor(): releases(pathlib.Path(folder))}
    known = json.loads(PINS.read_text())
    if "--write" in sys.argv:
        known = {kind: made for kind, made in known.items() if kind.split(", ")[0] != maker()}
    if {"--write", "--add"} & set(sys.argv):
        PINS.write_text(json.dumps(known | found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
