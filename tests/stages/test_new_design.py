"""Adding a design is one file and one row: tests/checkerboard.py goes through the stages, and nothing else knows of it."""

import contextlib
import json
from unittest import mock

import numpy as np
import pytest
from msgspec import UNSET

from ne_jax import UserError
from ne_jax.models.loading import load_model
from ne_jax.recoding.designs import DESIGNS
from ne_jax.release import manifest, verify
from ne_jax.report import report
from ne_jax.stages import attack, check, encode, evaluate, inspect_model
from ne_jax.stages.artefact import context
from ne_jax.stages.cost import cost
from tests.checkerboard import CHECKERBOARD
from tests.jobs import opened, rows, small_config

FORMATS = ("float32", "png8")
LEAVES = {
    "recode.design": "checkerboard", "recode.steps": 2, "recode.psnr_db": 16.0, "release.formats": FORMATS,
    "readers": ("vit_a", "resnet_a"), "evaluate.curve_psnr_db": (10.0,),
    "attack.only": ("median", "tile_average"), "attack.images": 4, "attack.own_images": 4, "attack.releases": 4, "attack.public": 4,
}  # fmt: skip


def its_row():
    """The table with the new design in it."""
    return mock.patch.dict(DESIGNS, {CHECKERBOARD.name: CHECKERBOARD})


@contextlib.contextmanager
def without_its_row():
    """The table as users have it."""
    with its_row():
        del DESIGNS[CHECKERBOARD.name]
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The job after all stages, and how many images encode left out."""
    path = tmp_path_factory.mktemp("checkerboard")
    with its_row(), opened(path, "run", **LEAVES) as job:
        assert cost(job) == 0
        inspected, left = inspect_model.run(job), encode.run(job)
        summary = check.run(job)
        for stage in (evaluate, attack, report):
            stage.run(job)
        assert "(checkerboard)" in inspect_model.describe(inspected)
        yield job, left, summary


def test_what_the_design_refuses_is_told_and_left_out(made):
    """In its own words, and the rest is released."""
    job, left, _ = made
    problems = json.loads((job.workdir / "problems.json").read_text())
    assert 0 < left < 20 and len(problems) == left
    assert all(CHECKERBOARD.unmet in line for line in problems)


@pytest.mark.parametrize("release_format", FORMATS)
def test_its_release_holds(made, release_format):
    """Every bound and prediction, for the owner and for a stranger whose software has no such design."""
    job, left, summary = made
    assert summary[release_format].bound_holds == summary[release_format].n == 20 - left
    with without_its_row():
        found = verify.run(job.release_dir(release_format), load_model("vit_a"), job.private_dir)
    assert found.holds and found.private.stand == 20 - left


@pytest.mark.parametrize("release_format", FORMATS)
def test_its_manifest_says_what_its_record_says(made, release_format):
    """Name, the settings that it reads, and what holds for all changes inside the subspace."""
    ne = manifest.read_manifest(made[0].release_dir(release_format))
    assert (ne.design, ne.settings, ne.directions) == ("checkerboard", {"steps": 2}, made[0].space.num_directions)
    assert ne.warning is UNSET and ne.best_linear_white_box_reconstruction_db is not UNSET


def test_its_pixels_are_its_own(made):
    """What is stored is the board in the subspace, at the strength asked."""
    job, *_ = made
    clean = dict(zip(job.source.names, job.sample_pixels() / np.float32(255), strict=True))
    board = np.asarray(job.space.project(CHECKERBOARD.directions(context(job, "float32")).pattern)).ravel()
    for name, image in rows(job, "float32").items():
        delta = (image - clean[name]).ravel()
        assert abs(delta @ board) >= 0.999 * np.linalg.norm(delta) * np.linalg.norm(board)
        assert -10 * np.log10(np.mean(delta**2)) == pytest.approx(16.0, abs=0.01)


def test_it_is_evaluated_attacked_and_reported(made):
    """Rows of every reader and attack, and a report that names it."""
    workdir = made[0].workdir
    results = [json.loads(line) for line in (workdir / evaluate.RESULTS).read_text().splitlines()]
    attacks = [json.loads(line) for line in (workdir / attack.RESULTS).read_text().splitlines()]
    assert {(row["reader"], row["condition"]) for row in results} >= {("vit_a", "ne"), ("resnet_a", "ne")}
    assert {row["attack"] for row in attacks} == set(LEAVES["attack.only"])
    assert "checkerboard" in (workdir / "report.md").read_text()


def test_without_its_row_it_is_unknown(tmp_path):
    """And with it the config refuses what its record does not name."""
    leaves = {"recode.design": "checkerboard"}
    with without_its_row(), pytest.raises(UserError, match='"checkerboard" is unknown'):
        small_config(tmp_path, **leaves)
    with its_row():
        small_config(tmp_path, **leaves)
        with pytest.raises(UserError, match=r"recode\.replace does not go with recode\.design checkerboard"):
            small_config(tmp_path, **leaves, **{"recode.replace": True})
