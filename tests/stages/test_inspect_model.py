"""What stage inspect writes is read back by the same record, and said in words."""

from __future__ import annotations

import json

import msgspec
import pytest
from msgspec import UNSET

from ne_jax.files import read_json
from ne_jax.stages import inspect_model
from ne_jax.stages.inspect_model import INSPECTION, Inspection, describe
from tests.jobs import opened
from tests.rows import INSPECTED


@pytest.fixture(scope="module")
def inspected(tmp_path_factory):
    """The workdir and what was found: four images, with the authorized model as the only reader."""
    leaves = {"data.limit": 4, "release.formats": ("png8",), "readers": ("vit_a",)}
    with opened(tmp_path_factory.mktemp("inspect"), "work", **leaves) as job:
        return job.workdir, inspect_model.run(job)


def test_the_file_is_the_record(inspected):
    """inspect.json is read back as what the stage returned, and has its fields in order; `planned` is absent where nothing is planned."""
    workdir, found = inspected
    assert read_json(workdir / INSPECTION, Inspection) == found
    assert list(json.loads((workdir / INSPECTION).read_text())) == [
        field.name for field in msgspec.structs.fields(Inspection) if field.name != "planned"
    ]
    assert found.planned is UNSET


def test_the_authorized_model_keeps_reading(inspected):
    """Noise of 6 dB or stronger is next to nothing at its first layer, and its features stay."""
    entry = inspected[1].formats["png8"]
    assert entry.design == "boxed" and entry.psnr_db_strongest <= entry.psnr_db_median <= entry.psnr_db_weakest < 7
    row = entry.readers["vit_a"]
    assert row.noise_to_signal <= 0.01 and row.gain_over_isotropic <= 1e-4 and row.feature_cosine >= 0.999


def test_what_a_reader_cannot_show_is_absent_and_not_said():
    """A reader of images of another shape has no noise at its first layer; one without a head no agreement."""
    assert INSPECTED.to_json()["formats"]["png8"]["readers"]["b"] == {"feature_cosine": 0.25}
    assert Inspection.from_json(INSPECTED.to_json(), "here").formats["png8"].readers["b"].agreement is UNSET
    lines = describe(INSPECTED).splitlines()
    assert "  b: cosine of features 0.250" in lines
    seen = "noise / signal at its first layer 0.5 (0.01 of isotropic), agreement 75%, cosine of features 0.900"
    assert f"  a: {seen}" in lines and "png8 (boxed): 6.2 dB median on 4 images (asked 0)" in lines


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({}, ("first layer [4, 4, 3] -> 40 outputs", "recode.replace=True removes it"), ("Best linear", "No direction is")),
        ({"image_energy_in_subspace": 0.05}, ("They hold 5.0%",), ("recode.replace",)),
        ({"best_linear_white_box_reconstruction_db": 53.42}, ("leaves 53.4 dB to whoever knows them",), ()),
        ({"exact_null_directions": 0, "recommended_design": "deep"}, ("No direction is exactly null", "recode.design=deep"), ()),
    ],
)  # fmt: skip
def test_the_words_follow_the_numbers(changes, said, unsaid):
    text = describe(msgspec.structs.replace(INSPECTED, **changes))
    assert all(words in text for words in said) and not any(words in text for words in unsaid)
    assert "If the checkpoint is public, so is the subspace" in text
