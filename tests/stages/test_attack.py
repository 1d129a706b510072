"""Stage attack: every attack on a release, records that keep to their schema, and the report's words about them."""

import dataclasses
from unittest import mock

import numpy as np
import pytest

from ne_jax.attacks.attack import Attack, Knowledge, restricted
from ne_jax.attacks.registry import ATTACKS, BY_NAME
from ne_jax.attacks.run_one import Pool, Tried, attack_images, best, target
from ne_jax.errors import UserError
from ne_jax.files import read_json, read_json_lines
from ne_jax.measure.records import Attacked, Growth, Head, NotRun
from ne_jax.models.loading import load_model
from ne_jax.report import attack_sections, report
from ne_jax.stages import analyse, check, encode, evaluate, inspect_model
from ne_jax.stages import attack as stage
from ne_jax.stages.attack_scene import scene_of
from tests.jobs import opened

LEAVES = {
    "data.limit": 24, "batch_size": 12, "readers": ("vit_a", "resnet_a", "vit_b"), "release.formats": ("png8",),
    "evaluate.curve_psnr_db": (), "recode.replace": True,
}  # fmt: skip


def test_there_are_attacks_of_every_tier():
    """At least 25, each under a name of its own, with something to run in the quick suite, and told where it comes from."""
    assert len(ATTACKS) >= 25 and len(BY_NAME) == len(ATTACKS)
    assert {attack.tier for attack in ATTACKS} == {1, 2, 3, 4, 5}
    for attack in ATTACKS:
        assert attack.quick and attack.grid and attack.source and attack.title
        assert attack.knows <= set(Knowledge._fields) - {"seed", "patch"}


def test_an_attack_gets_no_more_than_it_may_know():
    """Everything else is None, so that a tier cannot cheat."""
    full = Knowledge(3, (4, 4, 1), *range(9))
    attack = Attack("one", 2, "One", "images", None, frozenset({"public"}), (), (), "")
    assert restricted(full, attack) == Knowledge(seed=3, patch=(4, 4, 1), public=0)


def test_parameters_are_chosen_on_the_attackers_own_images():
    """Not by what is reported."""
    tried = [
        Tried({"a": number}, "accuracy", np.array(own), np.array(reported), np.zeros(2), None, None)
        for number, own, reported in ((1, [0, 1], [1, 1]), (2, [1, 1], [0, 0]))
    ]
    assert best(tried).parameters == {"a": 2}


def test_nothing_is_learned_from_clean_images_of_the_attacked():
    """Some attacks learn from the images under attack too: no clean image may be among them, not even for the control."""
    generator, calls = np.random.default_rng(0), []
    pools = [Pool(*generator.random((2, 4, 112, 112, 1), np.float32), None) for _ in range(2)]

    def run(stored, knowledge):
        calls.append(stored)
        return stored

    attack = Attack("one", 2, "One", "images", run, frozenset(), ({},), ({},), "")
    each = target(load_model("vit_a"), False, *pools)
    tried, _ = attack_images(attack, Knowledge(), pools[1], pools[0], [each], quick=True)
    np.testing.assert_array_equal(calls[0], np.concatenate([pools[0].stored, pools[1].stored]))
    np.testing.assert_array_equal(calls[1], pools[0].clean)
    (one,) = tried["vit_a"]
    assert one.metric == "agreement" and one.control.all() and one.own is None
    np.testing.assert_array_equal(one.reported, each.plain.said == each.clean.said)


# Of every tier some that take a second or two, and one that has no meaning on this release.
SOME = (
    "jpeg", "flip", "median", "single_image", "tile_average", "gevd_projection", "difference_subspace", "ridge_decoder", "projection",
    "inpainting", "stitching", "fine_tune_1",
)  # fmt: skip


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.slow)])
def attacked(request, tmp_path_factory):
    """Every stage on 24 images, attacks of the quick suite."""
    folder = tmp_path_factory.mktemp("attacks")
    chosen = ATTACKS if request.param == "all" else [BY_NAME[name] for name in SOME]
    with mock.patch.object(stage, "ATTACKS", chosen), opened(folder, "run", **LEAVES) as job:
        inspect_model.run(job)
        encode.run(job)
        check.run(job)
        evaluate.run(job)
        found = stage.run(job)
        analyse.run(job, images=24, bases=2, draws=4, depths=2, jacobian_images=1, directions=2)
        report.run(job)
        yield job, found


def test_every_attack_runs_or_says_why_not(attacked):
    """No attack is lost: each has a record for every reader it was tried on, in tier 1 for the authorized model too, or a reason."""
    job, found = attacked
    left = read_json(job.workdir / stage.NOT_RUN, list[NotRun])
    assert {row.attack for row in found} | {row.attack for row in left} == {each.name for each in stage.ATTACKS}
    ran = {row.attack: 0 for row in found}
    assert len(ran) >= min(25, len(stage.ATTACKS) - 1) and {row.tier for row in found} == {1, 2, 3, 4, 5}
    for row in found:
        ran[row.attack] += 1
    for name, count in ran.items():
        assert count == (1 if BY_NAME[name].kind == "reader" else 3 if BY_NAME[name].tier == 1 else 2)
    assert all(row.why for row in left)


def test_numbers_that_are_not_finite_end_one_attack(attacked):
    """It is named among those that did not run, with its parameters; the others go on."""
    job, _ = attacked
    broken = BY_NAME["flip"]._replace(run=lambda stored, knowledge: stored * np.nan)
    readers = [load_model("resnet_a")]
    scene = scene_of(job, "png8", readers)
    targets = [target(readers[0], False, scene.reported, scene.own)]
    found = stage._attacked(job, broken, scene, targets, Head(authorized="vit_a", release_format="png8", psnr_db=None))
    assert found.records == [] and "flip gives numbers that are not finite, with {}" in found.not_run[0].why


def test_what_is_written_is_read_back(attacked):
    """By the same class, and nothing is lost on the way."""
    job, found = attacked
    assert read_json_lines(job.workdir / stage.RESULTS, Attacked) == found
    grown = read_json_lines(job.workdir / stage.CURVES, Growth)
    assert {(row.authorized, row.release_format) for row in grown} == {("vit_a", "png8")}


def test_the_white_box_attack_gives_the_release_back(attacked):
    """vit_a's null space is known to whoever has its weights: projection and inpainting return what other readers lost."""
    _, found = attacked
    row = next(row for row in found if (row.attack, row.reader) == ("inpainting", "resnet_a"))
    assert row.value >= row.value_clean - 0.2 > row.value_ne


def test_a_second_run_takes_what_the_first_one_kept(attacked, monkeypatch):
    """After a kill, and for another choice of attacks, only what is missing is run; the files are the same."""
    job, found = attacked

    def run_again(*_):
        raise AssertionError("an attack was run again")

    monkeypatch.setattr(stage, "_attacked", run_again)
    monkeypatch.setattr(stage, "curves", run_again)
    assert stage.run(only(job, "jpeg")) == [row for row in found if row.attack == "jpeg"]
    assert stage.run(job) == found


def test_a_second_artefact_gives_the_release_away(tmp_path, monkeypatch):
    """Formats of two number types in one job, or another release that attack.other names; where there is one artefact the attack has no
    meaning, and a release of other pictures is told."""
    monkeypatch.setattr(stage, "ATTACKS", ATTACKS)  # also where the fixture above has put others
    two = {
        "data.limit": 120, "readers": ("vit_a", "resnet_a"), "attack.only": ("artefact_difference",),
        "recode.replace": True,
        "attack.images": 12, "attack.own_images": 4, "attack.releases": 64,
    }  # fmt: skip
    with opened(tmp_path, "two", **two | {"release.formats": ("float32", "png8")}) as job:
        encode.run(job)
        found = stage.run(job)
    assert {(row.release_format, row.reader) for row in found} == {("float32", "resnet_a"), ("png8", "resnet_a")}
    assert all(row.reconstruction_db > 25 and row.value > row.value_ne + 0.3 for row in found)
    with opened(tmp_path, "one", **two | {"release.formats": ("png8",)}) as job:
        encode.run(job)
        assert stage.run(job) == [] and "no other" in read_json(job.workdir / stage.NOT_RUN, list[NotRun])[0].why
        attack = dataclasses.replace(job.config.attack, other=str(tmp_path / "two" / "releases" / "float32"))
        assert len(stage.run(job._replace(config=dataclasses.replace(job.config, attack=attack)))) == 1
    with opened(tmp_path, "few", **two | {"data.limit": 8, "release.formats": ("float32",)}) as job:
        encode.run(job)
        few = str(job.release_dir("float32"))
    other = two | {"release.formats": ("png8",), "attack.other": few}
    told = r"attack.other .*: has no test/000\d\d of \(112, 112, 1\)"
    with opened(tmp_path, "one", **other) as job, pytest.raises(UserError, match=told):
        stage.run(job)


def only(job, *names):
    """The job with attack.only."""
    config = dataclasses.replace(job.config, attack=dataclasses.replace(job.config.attack, only=names))
    return job._replace(config=config)


def test_some_attacks_alone(attacked):
    """attack.only names them; a name that is none is told in a line."""
    job, _ = attacked
    assert [attack.name for attack in stage._wanted(only(job, "jpeg", "flip"))] == ["jpeg", "flip"]
    with pytest.raises(UserError, match="attack.only names sharpen"):
        stage._wanted(only(job, "sharpen"))


def test_the_report_names_the_worst_row(attacked):
    """Headline, threat table with one bold row, robustness of the authorized model, growth and analyses are all in one page."""
    job, found = attacked
    page = (job.workdir / "report.html").read_text()
    for part in (
        "best blind attack",
        "white-box",
        "with labels",
        "its clean images so processed",
        "What each number of NEs",
    ):
        assert part in page
    assert 'src="figures' not in page and page.count("data:image/png") >= 8
    most = attack_sections.worst(found, "png8", (1, 3, 4, 5))
    bold = [line for line in (job.workdir / "report.md").read_text().splitlines() if line.startswith("| **")]
    assert any(f"**{attack_sections.title(most.attack)}" in line and f"{most.value:.1%}" in line for line in bold)
    assert f"{most.value:.1%} ({most.reader}" in attack_sections.headline(found, "png8")
