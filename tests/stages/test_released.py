"""What was released before is refused in another artefact, and near copies within a release are told."""

import json

import numpy as np
import pytest
from PIL import Image

from ne_jax.config import checked, default
from ne_jax.errors import UserError
from ne_jax.release import manifest
from ne_jax.report import sections
from ne_jax.report.gathered import Gathered
from ne_jax.stages import encode, released
from tests.jobs import contents, encode_into, opened

NOTHING = Gathered(None, {}, [], [], [], [], [], [], None)  # no stage ran but encode
ONCE = {"release.again": False, "release.formats": ("png8",), "data.limit": 10}


def test_another_artefact_is_refused_before_any_of_it_is_made(tmp_path):
    """Another strength, under the same secret: one line says which image, why, and how to go on."""
    encode_into(tmp_path, "run", **ONCE)
    with opened(tmp_path, "other", **ONCE | {"recode.psnr_db": 12.0}) as job:
        with pytest.raises(UserError, match=r"^test/00000 was released before under this secret") as caught:
            encode.run(job)
        assert "release.again=True" in str(caught.value) and "\n" not in str(caught.value)
        assert not list(job.release_dir("png8").rglob("*.png")) and not list(job.workdir.rglob("progress/*/*.json"))


def test_the_same_artefact_in_another_format_is_not(tmp_path):
    """A second workdir, another format of the same numbers, more images: the pixels are the same, and the manifest says released once."""
    first = encode_into(tmp_path, "run", **ONCE)
    leaves = ONCE | {"release.formats": ("array_record", "png8"), "data.limit": 12, "batch_size": 5}
    second = encode_into(tmp_path, "more", **leaves)
    images = {name: digest for name, digest in contents(second.workdir).items() if name.startswith("png8/images")}
    assert {n: d for n, d in contents(first.workdir).items() if n.startswith("png8/images")}.items() <= images.items()
    assert manifest.read_manifest(second.release_dir("png8")).released_again == 0


def test_who_accepts_the_risk_may_go_on_in_the_same_workdir(tmp_path, caplog):
    """release.again=True, and manifest, log and report tell how many images it is."""
    encode_into(tmp_path, "run", **ONCE | {"data.limit": 7})
    weaker = ONCE | {"recode.psnr_db": 12.0}
    with pytest.raises(UserError, match="released before"):
        encode_into(tmp_path, "other", **weaker)
    caplog.clear()
    job = encode_into(tmp_path, "other", **weaker | {"release.again": True})
    assert manifest.read_manifest(job.release_dir("png8")).released_again == 7
    (told,) = [record.getMessage() for record in caplog.records if "another artefact" in record.getMessage()]
    assert told.startswith("7 of 10 images were released in another artefact too")
    assert sections._headline("vit_a", {}, NOTHING, released.risks_of(job))["marks"] == [told]


def test_formats_of_two_number_types_are_one_image_released_twice(tmp_path):
    """Refused when the config is made; where it is accepted both manifests tell it of every image."""
    config = default()
    config.release.formats = ("png8", "float32")
    with pytest.raises(UserError, match="release.formats: png8 and float32 would be two recodings of each image"):
        checked(config)
    job = encode_into(tmp_path, "run", **ONCE | {"release.formats": ("png8", "float32"), "release.again": True})
    for name in ("png8", "float32"):
        assert manifest.read_manifest(job.release_dir(name)).released_again == 10


def test_what_is_not_released_is_not_claimed(tmp_path):
    """An image that deep cannot protect may be released with other settings."""
    leaves = ONCE | {
        "data.limit": 2, "recode.design": "deep", "recode.surrogates": ("resnet_a",), "recode.psnr_db": 20.0, "recode.steps": 1,
        "recode.restore": 0, "recode.logit_gap": 1e-9,
    }  # fmt: skip
    with pytest.raises(UserError, match="not protected"):
        encode_into(tmp_path, "run", **leaves)
    assert encode_into(tmp_path, "other", **ONCE | {"data.limit": 2}).release_dir("png8").is_dir()


def test_a_picture_is_known_whoever_is_authorized(tmp_path):
    """The file itself counts, whatever a model's preprocessing makes of it; under another model it is another artefact."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (112, 112), np.uint8))
    (tmp_path / "small").mkdir()
    image.save(tmp_path / "small" / "one.png")
    folder = ONCE | {"data.kind": "folder", "data.limit": 0, "recode.fit": True}
    encode_into(tmp_path, "run", **folder | {"data.path": str(tmp_path / "small")})
    with pytest.raises(UserError, match="^one was released before"):
        encode_into(tmp_path, "other", **folder | {"data.path": str(tmp_path / "small"), "recode.psnr_db": 15.0})
    # As resnet_a sees it, too: another model, another number of directions.
    other = {"authorized": "resnet_a", "subspace.rule": "count", "subspace.value": 200.0}
    with pytest.raises(UserError, match="^one was released before"):
        encode_into(tmp_path, "third", **folder | {"data.path": str(tmp_path / "small")} | other)


def test_near_copies_are_counted_and_told(tmp_path, caplog):
    """A picture that was saved again: log, manifest, report, and the pair in the owner's folder; an equal one is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    picture = Image.effect_mandelbrot((160, 160), (-2, -1.5, 1, 1.5), 60)
    picture.save(folder / "first.png")
    picture.save(folder / "first again.png")
    picture.save(folder / "second.jpg", quality=60)
    Image.effect_noise((160, 160), 90).save(folder / "third.png")
    leaves = ONCE | {"data.kind": "folder", "data.path": str(folder), "data.limit": 0, "release.shard_size": 2}
    job = encode_into(tmp_path, "run", **leaves)
    assert manifest.read_manifest(job.release_dir("png8")).near_copies == 3
    rows = [json.loads(line) for line in (job.private_dir / released.NEAR_COPIES).read_text().splitlines()]
    assert sorted(rows) == [["first", "second"], ["first again", "second"]]
    (told,) = [record.getMessage() for record in caplog.records if "nearly the same picture" in record.getMessage()]
    assert told.startswith("3 of 4 images") and sections._headline("vit_a", {}, NOTHING, released.risks_of(job))[
        "marks"
    ] == [told]
