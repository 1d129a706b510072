"""Releases that tests verify, and what every verdict keeps to."""

import json
import pathlib
import shutil

import pytest

from ne_jax.release import verify
from ne_jax.release.reasons import words
from ne_jax.release.verdict import describe
from ne_jax.stages import check
from tests import jobs

FORMATS = ("png8", "float32", "webdataset", "array_record")
PNG = "images/test/00003.png"


def encoded(workdir, **leaves):
    """A finished encode under a fixed secret."""
    larger = {"data.limit": 40, "batch_size": 16, "release.shard_size": 16}
    return jobs.encode_into(workdir.parent, workdir.name, **larger | leaves)


@pytest.fixture(scope="session")
def job(tmp_path_factory):
    """40 images for vit_a in every kind of format, certified."""
    job = encoded(tmp_path_factory.mktemp("verify") / "run", **{"release.formats": FORMATS})
    check.run(job)
    return job


@pytest.fixture
def copy(job, tmp_path):
    """copy(format): a release of its own, to damage."""
    return lambda name: pathlib.Path(shutil.copytree(job.release_dir(name), tmp_path / name))


def proved(job, folder, private=False, model=None, batch_size=64):
    found = verify.run(folder, model or job.authorized, job.private_dir if private else None, batch_size)
    json.dumps(found.to_json(), allow_nan=False)
    told = describe(found)
    assert told.endswith("the release holds" if found.holds else "the release is BROKEN")
    return found


def broken(job, folder, private=False):
    """What is told of each file that is not as it was released."""
    return {path: words(reason) for path, reason in proved(job, folder, private).broken.items()}


def edit(folder, change):
    """Change the block "ne" of the manifest."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content["ne"])
    path.write_text(json.dumps(content))
