"""Before a release is made, what learns from all its files is tried on as many NEs."""

import pytest

from ne_jax.errors import UserError
from ne_jax.stages import planned
from ne_jax.stages.inspect_model import _planned_lines
from tests.jobs import opened

LEAVES = {
    "data.limit": 60, "batch_size": 30, "readers": ("vit_a", "vit_b"), "release.formats": ("float32",), "recode.replace": True,
    "attack.images": 40, "attack.own_images": 10, "attack.public": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """400 files of 60 pictures."""
    with opened(tmp_path_factory.mktemp("planned"), "work", **LEAVES | {"inspect.planned_files": 400}) as job:
        rows = planned.planned(job)
        assert not (job.workdir / "releases").exists()
    return {row.design: row for row in rows}


def test_white_noise_gives_itself_away_and_hardened_does_not(found):
    """Of the designs that need no surrogate; no marked one, and for one reader that lost much."""
    assert set(found) == {"gaussian", "boxed", "hardened"}
    assert found["gaussian"].gives_away and found["gaussian"].value > found["gaussian"].value_ne + 0.3
    assert not found["hardened"].gives_away and found["hardened"].value < 0.35
    for row in found.values():
        assert row.files == 400 and row.reader == "vit_b" and row.metric == "accuracy" and row.n == 40
        assert row.ci95[0] <= row.value <= row.ci95[1] and row.value_clean > 0.7


def test_it_is_said_in_a_line_for_each_design(found):
    """Of the reader that gets most back."""
    lines = _planned_lines(list(found.values()))
    assert len(lines) == 3
    assert lines[0].startswith(
        "gaussian, float32, 400 files: gives itself away to what learns from all files; vit_b reads"
    )
    assert (
        "hardened, float32, 400 files: does not give itself away" in lines[2] and found["gaussian"].attack in lines[0]
    )


def test_nothing_to_give_away_is_said(tmp_path):
    """And no file is made for it."""
    with opened(tmp_path, "work", **LEAVES | {"inspect.planned_files": 10**9, "readers": ("vit_a",)}) as job:
        assert planned.planned(job) == []
    assert _planned_lines([])[0].startswith("Planned files: no reader but the authorized model loses anything")


def test_pictures_come_again_under_new_noise(tmp_path):
    """More files than pictures: all of them once, then once more; equal pictures, and no equal file."""
    with opened(tmp_path, "work", **LEAVES | {"inspect.planned_files": 100}) as job:
        batches = list(planned._recoded(job, "float32", 100))
    assert [len(batch.indices) for batch in batches] == [30, 30, 30, 10]
    assert (batches[0].clean == batches[2].clean).all()
    assert abs(batches[0].stored - batches[2].stored).mean() > 0.5


def test_too_few_are_told(tmp_path):
    few = LEAVES | {"inspect.planned_files": 5}
    with (
        opened(tmp_path, "work", **few) as job,
        pytest.raises(UserError, match="^inspect.planned_files: attacks need 6"),
    ):
        planned.planned(job)
