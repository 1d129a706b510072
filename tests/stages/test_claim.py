"""A workdir belongs to a config from its first released file on: mistakes before it burn nothing, and none is told after it."""

import json

import pytest
from PIL import Image

from ne_jax.models.registry import ASSETS
from ne_jax.stages import claim
from tests import in_process, jobs

GOOD = {"data.limit": 6, "release.formats": ("png8",), "readers": ("vit_a", "vit_b"), "evaluate.curve_psnr_db": ()}
MINE = {"architecture": "vit_fashion", "checkpoint": str(ASSETS / "vit_b.safetensors")}
MISTAKES = {
    "data.path": ({"data.kind": "folder", "data.path": "/no/such"}, 'data.path "/no/such": no such folder'),
    "authorized": ({"authorized": "vit_z"}, 'model "vit_z" is unknown; did you mean vit_b?'),
    "also authorized": ({"also_authorized": ("vit_z",)}, 'model "vit_z" is unknown'),
    "a reader": ({"readers": ("vit_a", "resnet_z")}, 'model "resnet_z" is unknown'),
    "a reader's checkpoint": (
        {"readers": ("vit_a", "mine"), "models": {"mine": MINE | {"checkpoint": "/no/such.safetensors"}}},
        "checkpoint /no/such.safetensors: no such file",
    ),
    "a surrogate": ({"recode.design": "guided", "recode.surrogates": ("vit_z",)}, 'model "vit_z" is unknown'),
    "rule": ({"subspace.rule": "count", "subspace.value": 0.0}, "count 0"),
    "strength": ({"recode.psnr_db": 0.0, "recode.fit": False}, "cannot be reached inside [0, 1]"),
    "an attack": ({"attack.only": ("sharpen",)}, "attack.only names sharpen, which is no attack"),
    "others' attacks": ({"attack.external": "/no/such.jsonl"}, "attack.external /no/such.jsonl: no such file"),
}


def run(tmp_path, *arguments, **leaves):
    config = jobs.write_config(tmp_path / "config.py", jobs.small_leaves(tmp_path, **(GOOD | leaves)))
    return in_process.call(f"--config={config}", f"--workdir={tmp_path}/run", *arguments)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_any_image_and_burns_no_workdir(tmp_path, mistake):
    """Source, models, readers, rule, strength, attacks: one line, nothing released, and the right config then goes on there."""
    leaves, expected = MISTAKES[mistake]
    assert expected in jobs.told(run(tmp_path, "--stage=all", **leaves))
    assert not list((tmp_path / "run").rglob("releases/*/*"))
    if (
        mistake != "strength"
    ):  # found out by the first stage that looks at images, under a config that is good in itself
        assert not (tmp_path / "run" / "config.json").exists()
    done = run(tmp_path, "--stage=encode")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "releases" / "png8" / "manifest.json").is_file()


def test_a_reader_is_opened_before_images_are_encoded_in_an_old_workdir_too(tmp_path):
    """Readers may change from run to run: a new one is looked for first, however far the release is."""
    assert run(tmp_path, "--stage=inspect").returncode == 0
    line = jobs.told(run(tmp_path, "--stage=encode", "--config.readers=vit_a,vit_q"))
    assert 'model "vit_q" is unknown' in line and not list((tmp_path / "run").rglob("releases/*/*"))


def test_readers_on_the_command_line_are_several(tmp_path):
    """--config.readers=vit_a,vit_b names two, through the whole command, and without quotes."""
    assert run(tmp_path, "--stage=encode", "--config.readers=vit_a,vit_b").returncode == 0
    assert run(tmp_path, "--stage=evaluate", "--config.readers=vit_b,resnet_a").returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert {row["reader"] for row in rows} == {"vit_b", "resnet_a"}


def test_what_another_config_left_does_not_stay(tmp_path):
    """Inspected at one strength and encoded at another: the inspection of the first is not taken for one of the release."""
    assert run(tmp_path, "--stage=inspect").returncode == 0 and (tmp_path / "run" / "inspect.json").is_file()
    done = run(tmp_path, "--stage=encode", **{"recode.psnr_db": 8.0, "data.limit": 4})
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "inspect.json").exists()
    kept = json.loads((tmp_path / "run" / claim.CONFIG).read_text())
    assert kept["recode.psnr_db"] == 8.0
    line = jobs.told(run(tmp_path, "--stage=encode"))
    assert "was made with another config (data.limit: was 4, is 6)" in line


def test_images_may_change_until_one_is_released(tmp_path):
    """An image more between inspecting and encoding is one more to encode; afterwards the source has to stay."""
    (tmp_path / "images").mkdir()
    leaves = {"data.kind": "folder", "data.path": str(tmp_path / "images"), "data.limit": 0, "readers": ("vit_a",)}
    for number, stage in enumerate(("inspect", "encode")):
        Image.effect_noise((40, 40), 60 + number).save(tmp_path / "images" / f"{number}.png")
        done = run(tmp_path, f"--stage={stage}", **leaves)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run").rglob("images/*.png"))) == 2
    Image.effect_noise((40, 40), 90).save(tmp_path / "images" / "2.png")
    assert "the data source changed since this workdir was made: 1 new (2)" in jobs.told(
        run(tmp_path, "--stage=encode", **leaves)
    )


def test_a_begun_release_keeps_its_config(tmp_path):
    """One file of it is enough, with or without a record."""
    assert run(tmp_path, "--stage=inspect").returncode == 0
    (tmp_path / "run" / "releases" / "png8").mkdir(parents=True)
    assert run(tmp_path, "--stage=inspect", **{"recode.psnr_db": 8.0}).returncode == 0
    (tmp_path / "run" / "releases" / "png8" / "a.png").write_bytes(b"")
    assert "recode.psnr_db: was 8.0, is 0.0" in jobs.told(run(tmp_path, "--stage=inspect"))


def test_a_damaged_config_of_a_workdir_is_told(tmp_path):
    """It is named, in one line."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / claim.CONFIG).write_text("{")
    assert jobs.told(run(tmp_path, "--stage=inspect")).startswith(f"error: {tmp_path}/run/config.json: no JSON (")
