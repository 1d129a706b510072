"""Stage check: what running the authorized model says, certificates of a release that has images, under a signature where there was one."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from ne_jax.errors import UserError
from ne_jax.models.loading import load_model
from ne_jax.models.model import Model, Outputs
from ne_jax.release import signature, verify
from ne_jax.release.certificates import SMALL_CHANGE
from ne_jax.release.manifest import open_manifest
from ne_jax.release.signature import SIGNATURE
from ne_jax.stages import check, encode
from ne_jax.stages.check import _execution
from ne_jax.stages.pairs import Pairs
from tests import hostile, in_process, jobs, keys
from tests.jobs import opened
from tests.pins import OLD_RELEASE

LEAVES = {"data.limit": 4, "release.formats": ("png8", "float32"), "readers": ()}


def signer(folder: pathlib.Path) -> str:
    return signature.fingerprint(signature.signer(folder, open_manifest(folder).data))


def test_a_release_of_no_image_is_told(tmp_path):
    """A release whose images could all not be read has nothing to certify: one line, not an IndexError."""
    with opened(tmp_path, "run", **LEAVES | {"release.formats": ("png8",)}) as job:
        encode.run(job)
        folder = job.release_dir("png8")
        for path in folder.rglob("*.png"):
            path.unlink()
        hostile.forge(folder, images=0)
        with pytest.raises(
            UserError, match="png8 holds no image, so there is nothing to certify; .*problems.json says why"
        ):
            check.run(job)


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """Encode and check under a key; gives the job, the key, and the manifest before check."""
    folder = tmp_path_factory.mktemp("signed")
    key = keys.pair(folder / "signing key")
    with opened(folder, "run", **LEAVES, **{"release.signing_key": str(key)}) as job:
        encode.run(job)
        before = {name: open_manifest(job.release_dir(name)).data for name in LEAVES["release.formats"]}
        wanted = signature.fingerprint(signature.load_public_key(f"{key}.pub"))
        assert [signer(job.release_dir(name)) for name in before] == [wanted] * 2
        check.run(job)
    return job, key, before


@pytest.mark.parametrize("release_format", LEAVES["release.formats"])
def test_check_signs_anew(signed, release_format):
    """Check writes its certificate into the manifest; what signs that is of the new one, by the same key."""
    job, key, before = signed
    folder = job.release_dir(release_format)
    assert open_manifest(folder).data != before[release_format]
    found = verify.run(folder, job.authorized, job.private_dir, 4, f"{key}.pub")
    assert found.holds and found.private.stand == 4 and found.notes[0].startswith("signed by SHA256:")


def test_the_key_is_in_no_public_file(signed):
    """Neither the key nor where it lies is published; the pixels are those of a run without it."""
    job, key, _ = signed
    secret = key.read_bytes().split(b"\n")[2]
    for path in (job.workdir / "releases").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert secret not in data and key.name.encode() not in data and b"PRIVATE" not in data


def test_a_signature_is_not_lost_without_a_word(signed):
    """A check without the key would leave a signature of a former manifest, or none: it is refused before it begins."""
    job, key, _ = signed
    leaves = LEAVES | {"recode.secret_file": str(job.workdir.parent / "secret.key")}
    with opened(job.workdir.parent, "run", **leaves) as again, pytest.raises(UserError) as caught:
        check.run(again)
    assert str(caught.value).startswith(
        f"{job.release_dir('png8') / SIGNATURE}: the release is signed, and --stage=check"
    )
    assert "give --config.release.signing_key" in str(caught.value)
    assert signer(job.release_dir("png8")) == signature.fingerprint(signature.load_public_key(f"{key}.pub"))


def test_a_finished_release_is_signed_later(tmp_path):
    """An owner who gives the key afterwards needs no other workdir, and no file is encoded again."""
    key = keys.pair(tmp_path / "key")
    with opened(tmp_path, "run", **LEAVES) as job:
        encode.run(job)
        folder = job.release_dir("png8")
        assert not (folder / SIGNATURE).exists()
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    with opened(tmp_path, "run", **LEAVES, **{"release.signing_key": str(key)}) as job:
        encode.run(job)
        assert signer(folder) == signature.fingerprint(signature.load_public_key(f"{key}.pub"))
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_key_that_cannot_sign_stops_before_anything(tmp_path):
    """One line, and no workdir is made: not after hours of encoding. So for a key that would be published."""
    for path, part in ((tmp_path / "none", "cannot be read"), (jobs.ROOT / "pyproject.toml", "is no private key")):
        with (
            pytest.raises(UserError, match=f"^release.signing_key {path}: {part}"),
            opened(tmp_path, "run", **LEAVES, **{"release.signing_key": str(path)}),
        ):
            pytest.fail("opened")
        assert not (tmp_path / "run").exists()
    (tmp_path / "run" / "releases").mkdir(parents=True)
    inside = keys.pair(tmp_path / "run" / "releases" / "key")
    with (
        pytest.raises(UserError, match="lies among the files to be released; keep it elsewhere"),
        opened(tmp_path, "run", **LEAVES, **{"release.signing_key": str(inside)}),
    ):
        pytest.fail("opened")


def test_the_command_asks_for_the_key(signed, tmp_path):
    """--public_key: 0 for the owner's, 2 and one line for another's and for a release without a signature, before the model is read."""
    job, key, _ = signed
    folder, other = job.release_dir("png8"), keys.pair(tmp_path / "other")
    done = in_process.call("--stage=verify", f"--release={folder}", f"--public_key={key}.pub")
    assert (
        done.returncode == 0
        and f"the key in {key}.pub\n" in done.stdout
        and done.stdout.endswith("the release holds\n")
    )
    done = in_process.call("--stage=verify", f"--release={folder}")
    assert done.returncode == 0 and "that is the owner's key was not checked: --public_key=FILE" in done.stdout
    assert "is signed by another key" in jobs.told(
        in_process.call("--stage=verify", f"--release={folder}", f"--public_key={other}.pub")
    )
    told = jobs.told(in_process.call("--stage=verify", f"--release={folder}", "--public_key="))
    assert told.startswith(
        "error: --public_key : cannot be read"
    )  # of a variable that was not set: not taken for "do not ask"
    plain = OLD_RELEASE / "png8"
    told = jobs.told(in_process.call("--stage=verify", f"--release={plain}", f"--public_key={key}.pub"))
    assert told.startswith(f"error: {plain} is not signed: it has no manifest.json.sig")
    assert json.loads((folder / "manifest.json").read_text())["ne"]["authorized"]["name"] == "vit_a"


CLEAN = np.zeros((3, 112, 112, 1), np.uint8)
PAIR = Pairs(["a", "b", "c"], np.arange(3), CLEAN, np.ones(CLEAN.shape, np.float32), 3)


def model(head: bool) -> Model:
    """Features of norm 5 on clean images; of the stored ones, the second changes by just less than is allowed, the third by just
    more. With a head, the second is predicted otherwise."""
    before = np.tile(np.float32([3, 4]), (3, 1))
    after = before + np.float32([[0, 0], [0.99 * 5 * SMALL_CHANGE, 0], [0, 1.01 * 5 * SMALL_CHANGE]])
    logits = [np.float32([[1, 0], [1, 0], [1, 0]]), np.float32([[1, 0], [0, 1], [1, 0]])]

    def answer(pixels):
        stored = bool(pixels.max() > 0)
        return Outputs(logits[stored] if head else None, after if stored else before)

    return dataclasses.replace(load_model("vit_a"), forward=answer)


@pytest.mark.parametrize(("head", "kept"), [(True, [True, False, True]), (False, [True, True, False])])
def test_utility_is_the_prediction_or_without_a_head_the_features(head, kept):
    """Kept is what the model still does: its class, or features within a tenth of their norm."""
    assert np.asarray(_execution(model(head), PAIR)["utility_kept"]).tolist() == kept
