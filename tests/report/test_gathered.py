"""What the report reads from a workdir."""

import pytest

from ne_jax.errors import UserError
from ne_jax.files import write_json, write_json_lines
from ne_jax.measure.records import NotRun
from ne_jax.report.gathered import gather
from tests.rows import ATTACKED, GROWTH, INSPECTED, RESULT, attacked


def workdir(path):
    """What stages inspect, check and evaluate write, as far as it is read here."""
    write_json(path / "inspect.json", INSPECTED)
    write_json(path / "check.json", {})
    write_json_lines(path / "results.jsonl", [RESULT])
    write_json_lines(path / "curve.jsonl", [])
    return path


@pytest.mark.parametrize(
    ("name", "stage"),
    [("inspect.json", "inspect"), ("check.json", "check"), ("results.jsonl", "evaluate"), ("curve.jsonl", "evaluate")],
)
def test_what_is_missing_names_the_stage_that_makes_it(tmp_path, name, stage):
    """One line with the file and the way out."""
    (workdir(tmp_path) / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file; run --stage={stage} first"):
        gather(tmp_path, "")


def test_attacks_and_analyses_may_be_missing(tmp_path):
    """Their stages are a choice: their sections are left out."""
    found = gather(workdir(tmp_path), "")
    assert found.records == [RESULT] and found.inspected == INSPECTED and found.analysis is None
    assert found.attacked == found.grid == found.growth == found.not_run == []


def test_what_attacks_wrote_is_read(tmp_path):
    """Every file of stage attack, as the records that were written."""
    why = NotRun(release_format="png8", attack="grey", why="one channel")
    for name in ("attacks.jsonl", "preprocessing.jsonl"):
        write_json_lines(workdir(tmp_path) / name, [ATTACKED])
    write_json_lines(tmp_path / "attack_curves.jsonl", [GROWTH])
    write_json(tmp_path / "attacks_not_run.json", [why])
    found = gather(tmp_path, "")
    assert found.attacked == found.grid == [ATTACKED] and found.growth == [GROWTH] and found.not_run == [why]


def test_attacks_by_others_stand_beside_ours(tmp_path):
    """From the file that attack.external names; a file that is not there and a line that is wrong are told with its place."""
    theirs, ours = tmp_path / "theirs.jsonl", workdir(tmp_path) / "attacks.jsonl"
    sent = attacked(0.9, by="A. Reader")
    write_json_lines(ours, [ATTACKED])
    write_json_lines(theirs, [sent])
    assert gather(tmp_path, str(theirs)).attacked == [ATTACKED, sent]
    with pytest.raises(
        UserError, match="attack.external none.jsonl: no such file; give a file of JSON lines, or nothing"
    ):
        gather(tmp_path, "none.jsonl")
    theirs.write_text('{"authorized": 1}\n')
    with pytest.raises(UserError, match="theirs.jsonl line 1: authorized: expected `str`, got `int`"):
        gather(tmp_path, str(theirs))
