"""The end of encode: when a release becomes one, and what its manifest says."""

import hashlib
import json
import subprocess

import msgspec
import numpy as np
import pytest

from ne_jax.files import read_json
from ne_jax.recoding import paper
from ne_jax.release import reading
from ne_jax.release.manifest import Named, Strength, read_manifest
from ne_jax.stages import encode, finish_release
from ne_jax.stages.finish_release import ShardRecord
from tests import jobs
from tests.jobs import encode_into, opened


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Every format, in shards of 8, 8 and 4."""
    tmp_path = tmp_path_factory.mktemp("publish")
    settings = {
        "release.license": "https://example.org/licence",
        "release.creator": "We",
        "release.url": "https://example.org",
    }
    return encode_into(tmp_path, "run", **{"release.formats": jobs.EVERY_FORMAT, "recode.replace": True}, **settings)


@pytest.mark.parametrize("release_format", jobs.EVERY_FORMAT)
def test_the_manifest_says_what_was_done(job, release_format):
    """For whom, how many, how strong, in which directions: as the job has it, not as somebody wrote it down."""
    kept = read_manifest(job.release_dir(release_format))
    model, design = job.authorized, "gaussian" if release_format.startswith("float") else "boxed"
    assert kept.authorized == Named(name="vit_a", architecture=model.architecture, checkpoint_sha256=model.sha256)
    assert (kept.format, kept.images, kept.design, kept.replace) == (release_format, 20, design, True)
    assert kept.image_shape == (112, 112, 1) and kept.window == model.first_layer.window
    assert kept.directions == job.space.num_directions
    assert kept.directions + kept.sensitive_directions == np.prod(model.first_layer.window)
    assert (kept.psnr_db_asked, kept.left_unchanged, kept.rule) == (0.0, 0, "relative")
    assert kept.preprocess["size"] == 112 and "ICC" in kept.colour and "grid" in kept.geometry
    assert kept.date == "2023-11-14T22:13:20+00:00"
    assert kept.versions.keys() == {"ne_jax", "jax", "pillow", "numpy"} and kept.settings == {}


def test_the_manifest_says_what_it_does_not_stop(job):
    """Contract 8: limits stand where whoever is given the release finds them."""
    limits = " ".join(read_manifest(job.release_dir("png8")).limits)
    assert all(word in limits for word in ("No encryption", "everybody", "trained", "relatives", "compression"))


def test_the_owner_is_named(job):
    """Licence, creator and address are Croissant's own fields; without them there are none."""
    whole = json.loads((job.release_dir("png8") / "manifest.json").read_text())
    assert (whole["license"], whole["url"], whole["creator"]["name"]) == (
        "https://example.org/licence", "https://example.org", "We"
    )  # fmt: skip


@pytest.mark.parametrize("release_format", jobs.EVERY_FORMAT)
def test_edges_and_strengths_are_added_up_over_shards(job, release_format):
    """Of all images of all shards: the mean of what is at the ends of [0, 1], the spread of the PSNR."""
    kept, stored = read_manifest(job.release_dir(release_format)), jobs.rows(job, release_format)
    edges = np.mean([np.mean((image <= 0) | (image >= 1)) for image in stored.values()])
    assert len(stored) == 20 and kept.edge_share == pytest.approx(edges, abs=2e-3)
    records = [read_json(job.record(release_format, number), ShardRecord) for number in range(3)]
    strengths = [value for record in records for value in record.psnr_db]
    assert [record.images for record in records] == [8, 8, 4] and len(strengths) == 20
    expected = (min(strengths), float(np.median(strengths)), max(strengths))
    assert msgspec.structs.astuple(kept.psnr_db_realised) == pytest.approx(expected)


@pytest.mark.parametrize("release_format", jobs.EVERY_FORMAT)
def test_sums_prove_every_file(job, release_format):
    """`sha256sum -c` passes, and no file is left out but the two that prove the others; the manifest proves the sums."""
    folder = job.release_dir(release_format)
    done = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=False)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert done.returncode == 0 and set(reading.read_sums(folder)) == files - {"manifest.json", "SHA256SUMS"}
    (sums,) = [
        entry for entry in json.loads((folder / "manifest.json").read_text())["distribution"] if "sha256" in entry
    ]
    assert sums["sha256"] == hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest()


def test_the_tfds_set_reads_as_it_says(job):
    """Without TensorFlow, under the documented name, all shards: pixels and names of the release."""
    import tensorflow_datasets as tfds

    source = tfds.data_source("ne_release", split="all", data_dir=str(job.release_dir("array_record")))
    stored = jobs.rows(job, "png8")
    assert len(source) == 20
    for row in source:
        expected = np.round(stored[row["name"].decode()] * 255).astype(np.uint8)
        np.testing.assert_array_equal(row["image"], expected)


def test_a_release_is_published_with_its_last_shard(tmp_path):
    """While a record is missing there is no manifest, so nobody takes a part for the whole; then there is, once."""
    with opened(tmp_path, "run", **{"release.formats": ("float32",)}) as job:
        encode.run(job)
        path, missing = job.release_dir("float32") / "manifest.json", job.record("float32", 1)
        whole, record = path.read_bytes(), missing.read_bytes()
        path.unlink()
        missing.unlink()
        finish_release.publish(job, "float32")
        assert not path.exists()
        missing.write_bytes(record)
        finish_release.publish(job, "float32")
        assert path.read_bytes() == whole
        before = path.stat().st_mtime_ns
        finish_release.publish(job, "float32")  # another process that comes later
        assert path.stat().st_mtime_ns == before


def test_the_official_method_is_marked(tmp_path):
    """A release made as the paper's code does says that it is insecure."""
    leaves = {"release.formats": ("float32",), "recode.design": "paper", "data.limit": 3, "subspace.value": 0.1}
    kept = read_manifest(encode_into(tmp_path, "run", **leaves).release_dir("float32"))
    assert kept.warning == paper.MARK and kept.design == "paper" and "INSECURE" in kept.warning


def test_totals_of_nothing():
    """Shards without an image, or whose images were left as they are, make no figure up."""
    empty = ShardRecord(images=0, problems=[], psnr_db=[], edge_share=[], files={}, released_again=0)
    unchanged = msgspec.structs.replace(empty, images=2, psnr_db=[None, None], edge_share=[0.5, 0.0], released_again=1)
    none = Strength(min=None, median=None, max=None)
    assert finish_release._add_up([empty]) == ([0], none, 0, None, 0)
    assert finish_release._add_up([empty, unchanged]) == ([0, 2], none, 2, 0.25, 1)
