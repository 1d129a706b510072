"""Bytes that users hold must not move unless somebody decides so: `python -m tests.pins --write`, told in the commit."""

import hashlib
import hmac
import json

import jax
import numpy as np
import pytest

from ne_jax.core.pixels import float_pixels
from ne_jax.models.loading import load_model
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.release import reading, verify
from ne_jax.release.verdict import Standing
from ne_jax.stages.artefact import recipe
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
    recorded = pins.recorded(KNOWN, name)
    if not recorded:
        pytest.skip(f"no pins for {pins.maker()}; record them: python -m tests.pins --write")
    assert pins.one(tmp_path, name) in recorded


@pytest.mark.parametrize("release_format", OLD_LEAVES["release.formats"])
def test_an_old_release_verifies(release_format):
    """Whoever holds a release of an earlier version can prove it, and its owner every certificate."""
    found = verify.run(pins.OLD_RELEASE / release_format, load_model("vit_a"), pins.OLD_RELEASE / "private")
    assert found.holds and found.images == 4 and found.private == Standing(certificates=4, stand=4, close=0)


def keys_of_0_1_0(secret: bytes, images: np.ndarray) -> jax.Array:
    """That version's noise keys: of the image alone."""
    head = b"ne_jax noise 1" + repr(images.shape[1:]).encode()
    digests = [hmac.digest(secret, head + image.tobytes(), hashlib.sha256)[:8] for image in images]
    words = np.frombuffer(b"".join(digests), ">u4").astype(np.uint32).reshape(-1, 2)
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def test_pixels_are_what_they_were(tmp_path):
    """On any processor: the same keys give the same noise, but for last bits."""
    with jobs.opened(tmp_path, "run", **OLD_LEAVES) as job:
        pixels = job.sample_pixels()
    keys = keys_of_0_1_0(job.secret(), pixels)
    for release_format, unit in (("png8", 1 / 255), ("float32", 1e-4)):
        stored = float_pixels(np.asarray(encode_batch(keys, pixels, recipe(job, release_format)).stored))
        now = dict(zip(job.source.names, stored, strict=True))
        before = {
            name: image
            for names, images in reading.read_release(pins.OLD_RELEASE / release_format, 4)
            for name, image in zip(names, images, strict=True)
        }
        assert now.keys() == before.keys()
        for name, image in before.items():
            change = np.abs(now[name] - image)
            assert change.max() < 1.01 * unit and np.mean(change > 0.5 * unit) < 1e-3
