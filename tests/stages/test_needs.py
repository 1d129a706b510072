"""A stage that comes too early says so at once."""

import dataclasses
import resource

import pytest

from ne_jax.config import Config
from ne_jax.errors import UserError
from ne_jax.report import gathered
from ne_jax.stages import needs
from tests import jobs


@pytest.mark.parametrize("stage", ["check", "evaluate", "attack"])
def test_before_encode_nothing_is_loaded(tmp_path, stage):
    """What is missing and which stage makes it, for every format; what is there is enough."""
    with pytest.raises(UserError, match=f"^{tmp_path}/releases/png8: no manifest.json, .*; run --stage=encode first$"):
        needs.look(stage, Config(), tmp_path)
    for name in ("float32", "png8"):
        (tmp_path / "releases" / name).mkdir(parents=True)
        (tmp_path / "releases" / name / "manifest.json").write_text("{}")
    needs.look(stage, Config(), tmp_path)


def test_before_encode_it_takes_no_time(tmp_path):
    """In a process of its own, from its start to the line, under 3 s of a processor, however many others want it; and no workdir is
    made."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = jobs.run(jobs.main("--config=configs/quickstart.py", f"--workdir={tmp_path}/run", "--stage=evaluate"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert jobs.told(done).endswith("run --stage=encode first") and seconds < 3 and not (tmp_path / "run").exists()


def test_the_report_names_the_first_stage_that_is_missing(tmp_path):
    """In the order in which it reads, in the words that reading them has."""
    for name, stage in needs._OF_THE_REPORT.items():
        with pytest.raises(UserError) as looked:
            needs.look("report", Config(), tmp_path)
        assert str(looked.value) == f"{tmp_path / name}: no such file; run --stage={stage} first"
        if name == "inspect.json":
            with pytest.raises(UserError) as read:
                gathered.gather(tmp_path, "")
            assert str(read.value) == str(looked.value)
        (tmp_path / name).write_text("")
    needs.look("report", Config(), tmp_path)


@pytest.mark.parametrize("stage", ["all", "inspect", "encode", "analyse"])
def test_what_needs_nothing_is_not_refused(tmp_path, stage):
    """The first stages, and all of them in order."""
    needs.look(stage, Config(), tmp_path)


@pytest.mark.parametrize("stage", ["attack", "all"])
def test_another_release_is_looked_for_before_attacks_take_their_time(tmp_path, stage):
    """attack.other: a folder that holds no release is told at once, and does not matter to a stage that attacks nothing."""
    attack = dataclasses.replace(Config().attack, other=str(tmp_path / "none"))
    config = dataclasses.replace(Config(), attack=attack)
    (tmp_path / "releases" / "png8").mkdir(parents=True)
    (tmp_path / "releases" / "png8" / "manifest.json").write_text("{}")
    with pytest.raises(
        UserError, match=f"^attack.other {tmp_path}/none: no manifest.json, so no complete release; give"
    ):
        needs.look(stage, config, tmp_path)
    needs.look("evaluate", config, tmp_path)
