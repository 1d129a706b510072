"""Bytes that users hold must not move unless somebody decides so: `python -m tests.pins --write`, told in the commit."""

import json

import numpy as np
import pytest

from ne_jax.models.loading import load_model
from ne_jax.release import reading, verify
from ne_jax.release.verdict import Standing
from tests import jobs, pins

KNOWN = json.loads(pins.PINS.read_text())
OLD_LEAVES = {"data.limit": 4, "release.formats": ("png8", "float32")}  # of pins.OLD_RELEASE


def test_keys_are_what_they_were():
    """Else an owner who encodes again gives the same image two noises."""
    assert pins.keys() == KNOWN["keys"]


# Designs that ascend take longest, of the others each has its own pin.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("guided", "deep"))) for name in pins.JOBS]
)
def test_bytes_are_what_they_were(name, tmp_path):
    """Files, manifests, certificates and records of a small job, whatever was rebuilt in between."""
    if pins.processor() not in KNOWN:
        pytest.skip(f"no pins for {pins.processor()}; record them: python -m tests.pins --write")
    assert pins.one(tmp_path, name) == KNOWN[pins.processor()][name]


@pytest.mark.parametrize("release_format", OLD_LEAVES["release.formats"])
def test_an_old_release_verifies(release_format):
    """Whoever holds a release of an earlier version can prove it, and its owner every certificate."""
    found = verify.run(pins.OLD_RELEASE / release_format, load_model("vit_a"), pins.OLD_RELEASE / "private")
    assert found.holds and found.images == 4 and found.private == Standing(certificates=4, stand=4, close=0)


def test_pixels_are_what_they_were(tmp_path):
    """On any processor: the same images under the same secret give the same noise, but for last bits."""
    job = jobs.encode_into(tmp_path, "run", **OLD_LEAVES)
    for release_format, unit in (("png8", 1 / 255), ("float32", 1e-4)):
        now = jobs.rows(job, release_format)
        before = {
            name: image
            for names, images in reading.read_release(pins.OLD_RELEASE / release_format, 4)
            for name, image in zip(names, images, strict=True)
        }
        assert now.keys() == before.keys()
        for name, image in before.items():
            change = np.abs(now[name] - image)
            assert change.max() < 1.01 * unit and np.mean(change > 0.5 * unit) < 1e-3
