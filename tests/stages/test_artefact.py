"""One image, one artefact: whatever decides an image's pixels decides its noise, and nothing else does (contracts 2 and 4)."""

import dataclasses
import itertools
from unittest import mock

import numpy as np
import pytest

from ne_jax.data import sources
from ne_jax.recoding.designs import DESIGNS
from ne_jax.recoding.hardened import HARDENED
from ne_jax.stages.artefact import artefact, decides, recode_job
from tests.jobs import opened

COUNT = 100
# What may differ between two releases of a picture: strength, design, number format, authorized model, subspace.
ARTEFACTS = {
    "as it is": {},
    "strength": {"recode.psnr_db": 10.0},
    "design": {"recode.design": "contrastive", "recode.surrogates": ("vit_b",)},
    "hardened": {"recode.design": "hardened"},
    "hardened, weaker": {"recode.design": "hardened", "recode.psnr_db": 10.0},
    "halves": {"release.formats": ("float16",)},
    "bytes": {"release.formats": ("png8",)},
    "model": {"authorized": "vit_a_tuned"},
    "subspace": {"subspace.rule": "count", "subspace.value": 600.0},
}
PLAIN = {"data.limit": COUNT, "release.formats": ("float32",)}


def clean(job) -> np.ndarray:
    batches = sources.batches(job.source, job.authorized.preprocess, COUNT, range(COUNT), pytest.fail)
    return next(batches).pixels


def changes(tmp_path, name, leaves, secret: str = "") -> np.ndarray:
    """What recoding adds to each of 100 images, of length 1."""
    with opened(tmp_path, f"{name}{secret[:1]}", **PLAIN | leaves) as job:
        if secret:
            job.ledger.with_suffix("").write_text(secret)
        pixels = clean(job)
        stored = recode_job(job, job.config.release.formats[0], pixels).astype(np.float64)
        change = (stored / (255 if "png8" in job.config.release.formats else 1) - pixels / 255).reshape(COUNT, -1)
        return change / np.linalg.norm(change, axis=1, keepdims=True)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum(axis=1).mean())


def test_two_artefacts_share_no_noise(tmp_path):
    """Else x = (b A - a B) / (b - a) gives the image to who has two strengths. Mean correlation below .01 for every pair."""
    found = {name: changes(tmp_path, name, leaves) for name, leaves in ARTEFACTS.items()}
    for one, other in itertools.combinations(found, 2):
        assert abs(correlation(found[one], found[other])) < 0.01, (one, other)
    np.testing.assert_array_equal(found["as it is"], changes(tmp_path, "once more", {}))


def test_two_boxed_strengths_share_no_more_than_the_box_makes_them(tmp_path):
    """On black only brighter noise fits, so that any two boxed changes of a picture are alike: under one secret no more than under two."""
    leaves = {"release.formats": ("png8",)}
    strong, weak = (changes(tmp_path, f"{db}", leaves | {"recode.psnr_db": db}) for db in (0.0, 10.0))
    other = changes(tmp_path, "10.0", leaves | {"recode.psnr_db": 10.0}, secret="f" * 64)
    assert correlation(weak, other) < 0.99  # another secret it is
    assert correlation(strong, weak) == pytest.approx(correlation(strong, other), abs=0.01)


def test_formats_of_one_number_type_are_one_artefact(tmp_path):
    """png8, webdataset and array_record hold the same pixels; the others none of theirs."""
    formats = ("png8", "webdataset", "array_record", "float32", "float16")
    with opened(tmp_path, "run", **{"data.limit": 2, "release.formats": formats}) as job:
        found = {name: artefact(job, name) for name in formats}
    assert found["png8"] == found["webdataset"] == found["array_record"]
    assert len(set(found.values())) == 3


@pytest.mark.parametrize(
    ("leaves", "same"),
    [
        ({"recode.rounds": 20}, True),  # gaussian has no rounds
        (
            {"batch_size": 3, "data.limit": 4, "readers": ("vit_a",), "recode.fit": False, "recode.max_passes": 9.0},
            True,
        ),
        ({"recode.replace": True}, False),
        ({"recode.psnr_db": 0.5}, False),
        ({"also_authorized": ("vit_a_tuned",)}, False),
        ({"subspace.value": 0.02}, False),
    ],
)
def test_only_what_decides_pixels_counts(tmp_path, leaves, same):
    """What changes no pixel is no other artefact, so that it can be changed; what does is."""
    names = {"data.limit": 2, "release.formats": ("float32",), "recode.fit": True}
    found = []
    for name, more in (("one", {}), ("other", leaves)):
        with opened(tmp_path, name, **names | more) as job:
            found.append(artefact(job, "float32"))
    assert (found[0] == found[1]) is same


def test_noise_that_became_another_is_another_artefact(tmp_path):
    """Else the ledger would let a picture out twice, as an earlier version and as this one recode it."""
    with opened(tmp_path, "run", **PLAIN | {"data.limit": 2, "recode.design": "hardened"}) as job:
        now = artefact(job, "float32")
        before = dataclasses.replace(HARDENED, generation=1)
        with mock.patch.dict(DESIGNS, hardened=before):
            assert job.design("float32") is before and artefact(job, "float32") != now
            assert decides(job, "float32")["design"] == "hardened"


def test_everything_that_decides_is_named(tmp_path):
    """Checkpoints and preprocessing of authorized models and surrogates, rule and size of the subspace, design, settings, strength,
    numbers."""
    leaves = {"recode.design": "guided", "recode.surrogates": ("resnet_a",), "recode.psnr_db": 16.0}
    with opened(tmp_path, "run", **{"data.limit": 2, "release.formats": ("png8",)} | leaves) as job:
        found = decides(job, "png8")
    assert found["design"] == "guided" and found["psnr_db"] == 16 and found["numbers"] == "uint8"
    assert found["settings"].keys() == {"steps", "restarts", "jpeg_quality", "rounds"}
    assert found["authorized"][0][0] == job.authorized.sha256 and found["surrogates"][0][0] == job.surrogates[0].sha256
    assert found["authorized"][0][1]["size"] and found["subspace"] == ["relative", 0.01, job.space.num_directions]
