"""Stage verify: a release that is as it was released holds, and whatever was done to another is found and said."""

import dataclasses
import json
import os
import re

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

import ne_jax
from ne_jax.core.bounds import failure_upper_bound
from ne_jax.errors import UserError
from ne_jax.files import sha256
from ne_jax.models.model import flax_forward
from ne_jax.release import claims, reading, verify, writing
from ne_jax.release.reasons import Reason, words
from ne_jax.release.verdict import Standing, describe
from tests import in_process, jobs
from tests.verified import FORMATS, PNG, broken, edit, proved


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("release_format", FORMATS)
def test_an_untouched_release_holds(job, release_format, private):
    """No false alarm, from files alone and with certificates, in batches of another size than the check's."""
    found = proved(job, job.release_dir(release_format), private, batch_size=11)
    assert found.holds and found.broken == {} and found.notes == [] and found.everywhere is None
    assert found.as_released == found.files > 0 and found.images == 40
    for key, values in found.execution.claimed.stored.to_json().items():
        np.testing.assert_allclose(getattr(found.execution.stored, key), values, rtol=1e-3)
    assert "prediction kept on 40 of 40 (lost on at most 7.22%, 95 % one-sided)" in describe(found)
    assert found.private == (Standing(certificates=40, stand=40, close=0) if private else None)


def spoil(*path, value):
    """A change of one entry of the manifest's certificate."""

    def change(ne):
        place = ne["certificate"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value(place[path[-1]]) if callable(value) else value

    return change


EDITS = {
    "margins": (spoil("stored", "margin", 1, value=lambda margin: margin * 1.05), "says margin .* and the model gives"),
    "norms": (spoil("stored", "feature_norm", 2, value=lambda norm: norm + 0.1), "says feature_norm"),
    "no margins": (lambda ne: ne["certificate"]["stored"].pop("margin"), "is not as --stage=check writes it"),
    "kept": (spoil("prediction_kept", value=38), "says prediction_lost_at_most 0.0721575, counted anew it is 0.14"),
    "bound": (spoil("prediction_lost_at_most", value=0.01), "says prediction_lost_at_most 0.01, counted anew it is 0.07"),
    "n": (spoil("n", value=1000), "says n 1000, counted anew it is 40"),
    "words": (spoil("stored", "margin", 1, value="large"), "is not as --stage=check writes it"),
    "text": (lambda ne: ne.update(certificate="good"), "is not as --stage=check writes it"),
    "images": (lambda ne: ne.update(images=50), "says 50 images, the files hold 40"),
}  # fmt: skip


@pytest.mark.parametrize("change", EDITS)
def test_an_edited_manifest_is_found(job, copy, change):
    """What the manifest claims of the authorized model is what the model does."""
    do, pattern = EDITS[change]
    folder = copy("png8")
    edit(folder, do)
    found = broken(job, folder)
    assert found.keys() == {"manifest.json"} and re.search(pattern, found["manifest.json"]), found


def test_percentiles_beside_missing_files(job, copy):
    """Missing files cause no false alarm and hide no edit: what the manifest says is held against all that they may have been."""
    folder = copy("png8")
    rows = [json.loads(line) for line in (job.private_dir / "certificates.jsonl").read_text().splitlines()]
    lowest = sorted((row for row in rows if row["release_format"] == "png8"), key=lambda row: row["margin"])[:3]
    gone = {f"images/{row['image']}.png" for row in lowest}
    for path in gone:
        (folder / path).unlink()
    found = proved(job, folder)
    now, claimed = found.execution.stored.margin, found.execution.claimed.stored.margin
    assert now[0] > claimed[0] + 2 * claims.OF_SPREAD * (
        claimed[2] - claimed[0]
    )  # so that a plain comparison would fail
    assert found.broken.keys() == gone
    edit(folder, spoil("stored", "margin", 1, value=lambda margin: margin * 1.2))
    assert broken(job, folder).keys() == gone | {"manifest.json"}


ONE_LOST = {"prediction_kept": 39, "utility_kept": 39, "prediction_lost_at_most": failure_upper_bound(1, 40)}


def test_the_owner_finds_forged_counts(job, copy):
    """Counts that agree with each other are held against the certificates."""
    folder = copy("png8")
    edit(folder, lambda ne: ne["certificate"].update(**ONE_LOST, bound_holds=39))
    assert proved(job, folder).holds
    told = broken(job, folder, private=True)["manifest.json"]
    assert "bound_holds 39, counted anew it is 40" in told and "prediction_kept 39, counted anew it is 40" in told


def rounded(model, bits, noise=0.0):
    """The model on hardware that keeps so many bits after the point of every weight and pixel; or with noise on the weights."""

    def shorten(value):
        value = np.asarray(value)
        if value.dtype != np.float32:
            return value
        drop = 23 - bits
        kept = ((value.view(np.uint32) + (1 << (drop - 1))) >> drop << drop).view(np.float32)
        return kept * np.random.default_rng(0).normal(1, noise, kept.shape).astype(np.float32)

    forward = flax_forward(model.graphdef, jax.tree.map(shorten, model.state), model.first_layer)
    return dataclasses.replace(model, forward=lambda pixels: forward(shorten(pixels)))


@pytest.mark.parametrize("release_format", ["png8", "float32"])
@pytest.mark.parametrize("bits", [10, 7])
def test_other_hardware_is_no_false_alarm(job, release_format, bits):
    """TF32 and bfloat16 pass, images at full strength and certificates too."""
    found = proved(job, job.release_dir(release_format), private=True, model=rounded(job.authorized, bits))
    assert found.holds and found.private.stand == 40


def test_a_machine_that_computes_wrongly_is_found(job):
    """Numbers a few per cent off are not taken for rounding."""
    found = proved(job, job.release_dir("png8"), private=True, model=rounded(job.authorized, 22, noise=0.1))
    told = words(found.broken.pop("manifest.json"))
    assert re.search("certificate says margin .* or this machine computes otherwise", told)
    faults = [words(reason) for reason in found.broken.values()]
    assert any(re.search("^image test/.* has a margin of .*, and was certified with", why) for why in faults)


SUMS = {
    "edited": (lambda text: text.replace(text[:64], b"0" * 64), "is not the one that manifest.json names", 2),
    "shortened": (lambda text: text[text.index(b"\n") + 1 :], "is not the one that manifest.json names", 2),
    "no list": (lambda text: b"words\n" + text, "cannot be used, so that no file is proved .*line 1 is no line", 1),
    "missing": (None, "cannot be used, so that no file is proved .*no SHA256SUMS", 1),
}


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("change", SUMS)
def test_an_edited_list_is_found(job, copy, change, private):
    """The list of hashes is proved by the manifest; without a list nothing is."""
    do, pattern, count = SUMS[change]
    folder = copy("png8")
    path = folder / "SHA256SUMS"
    if do:
        path.write_bytes(do(path.read_bytes()))
    else:
        path.unlink()
    found = broken(job, folder, private)
    assert re.search(pattern, found["SHA256SUMS"]) and len(found) == count


def test_a_release_with_an_image_taken_out_by_all_rules(job, copy):
    """Who removes an image and mends every list is found by the owner, and by the manifest's own certificate."""
    folder = copy("png8")
    (folder / PNG).unlink()
    sums = {name: digest for name, digest in reading.read_sums(folder).items() if name != PNG}
    before = sha256(folder / "SHA256SUMS")
    after, _ = writing.write_sums(folder, sums.items())
    text = (folder / "manifest.json").read_text().replace(before, after)
    (folder / "manifest.json").write_text(text)
    edit(folder, lambda ne: ne.update(images=39))
    assert broken(job, folder) == {"manifest.json": "its certificate says n 40, counted anew it is 39"}
    edit(folder, lambda ne: ne.pop("certificate"))
    assert proved(job, folder).holds
    told = broken(job, folder, private=True)["manifest.json"]
    assert told == "1 certified images are in no file, the first: test/00003"


def test_without_certificates_the_files_are_proved(job, copy):
    """A release that was never checked holds, and the report says what was not compared."""
    folder = copy("png8")
    edit(folder, lambda ne: ne.pop("certificate"))
    found = proved(job, folder)
    assert found.holds and "the owner did not run --stage=check" in found.notes[0]
    assert found.notes[0] in describe(found).splitlines()


def certificates(job, tmp_path, change):
    """The owner's folder with its certificates changed; each a dict."""
    folder = tmp_path / "private"
    folder.mkdir()
    rows = [json.loads(line) for line in (job.private_dir / "certificates.jsonl").read_text().splitlines()]
    changed = [change(row) for row in rows]
    (folder / "certificates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed if row))
    return folder


def one(**values):
    return lambda row: row | values if (row["release_format"], row["image"]) == ("png8", "test/00003") else row


PRIVATE = {
    "prediction": (one(predicted=99), "image test/00003 is of class [0-9] to the model, and was certified as 99"),
    "margin": (one(margin=0.01), "image test/00003 has a margin of .*, and was certified with 0.01"),
    "pixels": (one(pixels_sha256="0" * 64), "image test/00003 has not the pixels that were certified"),
    "a line gone": (lambda row: row if one(gone=1)(row) == row else None, "image test/00003 has no line in certificates.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("change", PRIVATE)
def test_a_certificate_that_does_not_stand_is_found(job, tmp_path, change):
    """Pixels, prediction and margin are held against the model; the image is named, and it alone."""
    do, pattern = PRIVATE[change]
    found = verify.run(job.release_dir("png8"), job.authorized, certificates(job, tmp_path, do))
    assert re.search(pattern, words(found.broken[PNG])) and found.broken.keys() <= {PNG, "manifest.json"}
    assert not found.holds and found.private.stand == 39


def test_a_prediction_that_was_lost_from_the_start_is_no_damage(job, copy, tmp_path):
    """What the manifest admits is counted and breaks nothing."""
    folder = copy("png8")
    edit(folder, lambda ne: ne["certificate"].update(**ONE_LOST))
    found = verify.run(
        folder, job.authorized, certificates(job, tmp_path, one(kept=False, utility_kept=False, predicted_clean=5))
    )
    assert found.holds and found.private == Standing(certificates=40, stand=39, close=0)
    assert "certificates: 39 of 40 stand" in describe(found)


def test_a_prediction_too_close_to_call_is_no_damage(job, tmp_path):
    """Where the margin is within rounding another class is counted, not blamed on the file."""
    model = job.authorized

    def level(pixels):
        outputs = model.forward(pixels)
        best = jnp.max(outputs.logits, axis=1, keepdims=True)
        logits = jnp.where(jnp.arange(10) == 7, best + 1e-4, outputs.logits)
        return outputs._replace(logits=logits)

    def close(row):
        return row if row.get("predicted") == 7 else row | {"margin": 1e-4}

    found = verify.run(
        job.release_dir("png8"), dataclasses.replace(model, forward=level), certificates(job, tmp_path, close)
    )
    assert found.private.stand == 40 and 30 < found.private.close < 40


# A certificate of another format, and of a version with one more column.
WHOLE = json.dumps(
    {"release_format": "float32", "image": "a", "predicted": 1, "margin": 2.5, "holds": True, "pixels_sha256": "ab", "later": 1}
    | dict.fromkeys((
        "psnr_db", "delta_norm", "feature_gap", "bound", "subspace_term", "residual_term", "precision_term", "border_term",
        "expected_gap", "relative_gap", "feature_cosine", "feature_norm"
    ), 0.5)
) + "\n"  # fmt: skip


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "No such file or directory; give WORKDIR/private of the run, after --stage=check"),
        ("", "none is of a png8 release"),
        (WHOLE, "none is of a png8 release"),
        (
            WHOLE + "words\n",
            r"line 2 is no certificate of this version \(JSON is malformed.*\); run --stage=check again",
        ),
        ('{"release_format": "png8", "image": "a"}\n', r"line 1 is no certificate .*missing required field `psnr_db`"),
        (WHOLE.replace('"margin"', '"other"'), r"line 1 is no certificate .*\(predicted and margin stand together\)"),
        ("[]\n", r"line 1 is no certificate .*\(expected `object`, got `array`\)"),
    ],
)
def test_a_private_folder_that_is_not_the_runs_is_refused(job, tmp_path, text, part):
    """One line that names the file and what to give."""
    if text is not None:
        (tmp_path / "certificates.jsonl").write_text(text)
    with pytest.raises(UserError, match=part) as caught:
        verify.run(job.release_dir("png8"), job.authorized, tmp_path)
    assert str(tmp_path / "certificates.jsonl") in str(caught.value) and "\n" not in str(caught.value)


def test_another_model_is_refused(job, copy):
    """A proof by the wrong model is none: what differs is named, and where to say which checkpoint."""
    with pytest.raises(
        UserError, match="vit_b is not the model that the release is for, vit_a: its checkpoint_sha256 is "
    ) as caught:
        proved(job, job.release_dir("png8"), model=ne_jax.load_model("vit_b"))
    assert "give --config with models.vit_a.checkpoint of the authorized checkpoint" in str(caught.value)
    rules = dataclasses.replace(job.authorized.preprocess, interpolation="nearest")
    with pytest.raises(UserError, match="its preprocess is .*'nearest'.* and not .*'bilinear'"):
        proved(job, job.release_dir("png8"), model=dataclasses.replace(job.authorized, preprocess=rules))
    folder = copy("png8")
    edit(folder, lambda ne: ne.update(window=[14, 14, 1]))
    with pytest.raises(UserError, match=re.escape("its window is [28, 28, 1] and not [14, 14, 1]")):
        proved(job, folder)


def test_a_manifest_of_a_later_version_is_read(job, copy):
    """Entries that are not known yet, and the absence of those that prove nothing, stop nobody."""
    folder = copy("png8")
    edit(folder, lambda ne: ne.update(later={"a": 1}, authorized=ne["authorized"] | {"family": "ViT"}))
    edit(folder, lambda ne: (ne.pop("limits"), ne.pop("edge_share"), ne["certificate"].update(later=1)))
    assert proved(job, folder, private=True).holds


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            lambda ne: ne.pop("preprocess"),
            "manifest.json: object missing required field `preprocess`; restore it as it was",
        ),
        (
            lambda ne: ne.update(images="many"),
            "manifest.json: images: expected `int`, got `str`; restore it as it was made",
        ),
        (
            lambda ne: ne.update(authorized="vit_a"),
            "manifest.json: authorized: expected `object`, got `str`; restore it",
        ),
        (lambda ne: ne.update(format="jxl"), "format jxl is unknown; choose from png8"),
    ],
)
def test_a_manifest_of_another_version_is_refused(job, copy, change, part):
    """One line that names the entry."""
    folder = copy("png8")
    edit(folder, change)
    with pytest.raises(UserError, match=part):
        proved(job, folder)


def test_a_format_that_the_files_do_not_have_is_found(job, copy):
    """Files with the right hash that do not open as the manifest says are not blamed."""
    folder = copy("float32")
    edit(folder, lambda ne: ne.update(format="float16"))
    told = "is as released, but not what manifest.json says: it holds images of another kind: float32"
    found = proved(job, folder)
    assert all(words(reason).startswith(f"{told} (") for reason in found.broken.values())
    assert describe(found).startswith(
        f"every image file: {told} (112, 112, 1) and not float16 (112, 112, 1); this was done"
    )


def test_a_long_list_is_cut(job, copy):
    """Fifty files are listed and the others counted; a name with a line break or bytes that are no text stays in its line."""
    folder = copy("png8")
    for index in range(60):
        (folder / f"{index}.txt").touch()
    (folder / os.fsdecode(b"\xff\n")).touch()
    found = proved(job, folder)
    assert len(found.broken) == 61
    lines = describe(found).splitlines()
    assert sum("is not part of the release" in line for line in lines) == 50 and "... and 11 more" in lines
    odd = msgspec.structs.replace(found, broken={"\udcff\n": Reason("empty")})
    assert "'\\udcff\\n: is empty'" in describe(odd).encode().decode().splitlines()


def test_images_are_not_kept(job, monkeypatch):
    """Memory does not grow with the number of images: no batch is alive when the next but one comes."""
    import weakref

    seen = []
    look = verify._look

    def watched(model, stored):
        seen.append(weakref.ref(stored))
        return look(model, stored)

    monkeypatch.setattr(verify, "_look", watched)
    proved(job, job.release_dir("png8"), batch_size=4)
    assert len(seen) == 10 and sum(reference() is not None for reference in seen[:-1]) <= 1


def test_exit_status(job, copy):
    """0 for a release that holds, 1 for a broken one, 2 for what cannot be proved; the report is on standard output."""
    done = in_process.call("--stage=verify", f"--release={job.release_dir('png8')}", f"--private={job.private_dir}")
    assert done.returncode == 0 and done.stdout.endswith("the release holds\n") and "image/s" in done.stderr, (
        done.stderr
    )
    folder = copy("png8")
    (folder / PNG).write_bytes(b"")
    done = jobs.run(jobs.main("--stage=verify", f"--release={folder}"))
    assert (
        done.returncode == 1 and f"{PNG}: is empty\n" in done.stdout and done.stdout.endswith("the release is BROKEN\n")
    )
    done = in_process.call("--stage=verify", f"--release={folder}", f"--private={folder}")
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
