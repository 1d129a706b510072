"""Stage verify: a release that is as it was released holds, and whatever was done to another is found and said."""

import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter

import ne_jax
from ne_jax import check, damage, encode, release, verify
from ne_jax.bounds import failure_upper_bound
from ne_jax.config import default
from ne_jax.errors import UserError
from ne_jax.job import open_job
from ne_jax.models.model import flax_forward
from ne_jax.tensor_files import sha256

ROOT = pathlib.Path(__file__).parent.parent
FORMATS = ("png8", "float32", "webdataset", "array_record")
PNG = "images/test/00003.png"


def encoded(workdir, **leaves):
    """A finished encode under a fixed secret."""
    secret = workdir.with_suffix(".key")
    secret.write_text("0123456789abcdef" * 4)
    config = default()
    config.update_from_flattened_dict(
        {
            "data.limit": 40,
            "batch_size": 16,
            "release.shard_size": 16,
            "recode.fit": True,
            "recode.secret_file": str(secret),
        }
        | leaves
    )
    job = open_job(config, workdir)
    encode.run(job)
    return job


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """40 images for vit_a in every kind of format, certified."""
    job = encoded(tmp_path_factory.mktemp("verify") / "run", **{"release.formats": FORMATS})
    check.run(job)
    job.lock.close()
    return job


@pytest.fixture
def copy(job, tmp_path):
    """copy(format): a release of its own, to damage."""

    def make(release_format):
        return pathlib.Path(shutil.copytree(job.release_dir(release_format), tmp_path / release_format))

    return make


def proved(job, folder, private=False, model=None, batch_size=64):
    found = verify.run(folder, model or job.authorized, job.private_dir if private else None, batch_size)
    json.dumps(found, allow_nan=False)
    told = verify.describe(found)
    assert told.endswith("the release holds" if found["holds"] else "the release is BROKEN")
    assert found["holds"] == (not found["broken"])
    return found


def edit(folder, change):
    """Change the block "ne" of the manifest."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content["ne"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("release_format", FORMATS)
def test_an_untouched_release_holds(job, release_format, private):
    """No false alarm, from files alone and with certificates, in batches of another size than the check's."""
    found = proved(job, job.release_dir(release_format), private, batch_size=11)
    assert found["holds"] and found["broken"] == {} and found["notes"] == [] and found["everywhere"] is None
    assert found["as_released"] == found["files"] > 0 and found["images"] == 40
    for key, values in found["execution"]["claimed"].items():
        np.testing.assert_allclose(found["execution"]["stored"][key], values, rtol=1e-3)
    assert "prediction kept on 40 of 40 (lost on at most 7.22%, 95 % one-sided)" in verify.describe(found)
    assert found["private"] == ({"certificates": 40, "stand": 40, "close": 0} if private else None)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def picture(change, **options):
    """A damage: the picture opened, changed and saved under its name."""

    def damage(path):
        with Image.open(path) as image:
            image.load()
        change(image).save(path, **{"format": "PNG"} | options)

    return damage


def jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Image.open(buffer)


def swap(path):
    other, kept = path.with_name("00004.png"), path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(kept)


OTHER = "images/test/00004.png"
SIMPLE = {
    "flipped byte": (flip, {PNG: "is broken|other bytes"}),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:3000]), {PNG: "is broken|is cut short"}),
    "empty": (lambda path: path.write_bytes(b""), {PNG: "^is empty$"}),
    "missing": (lambda path: path.unlink(), {PNG: "^is missing$"}),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), {PNG: "^is missing$"}),
    "resized": (picture(lambda image: image.resize((56, 56))), {PNG: "^was resized: 56 x 56 and not 112 x 112$"}),
    "JPEG": (picture(lambda image: image, format="JPEG"), {PNG: "^is a JPEG file now, and not a PNG$"}),
    "palette": (picture(lambda image: image.convert("P")), {PNG: "^is a palette image now, and not grey$"}),
    "colour": (picture(lambda image: image.convert("RGB")), {PNG: "^is RGB now, and not grey$"}),
    "swapped": (swap, {PNG: f"^is the file that was released as {OTHER}$", OTHER: f"as {PNG}$"}),
    "surplus": (lambda path: path.with_name("x.png").write_bytes(b""), {"images/test/x.png": "^is not part of the release"}),
    "hidden": (lambda path: (path.parents[2] / ".DS_Store").write_bytes(b""), {".DS_Store": "is not part"}),
    "a link": (lambda path: (path.parents[2] / "more").symlink_to(path.parent), {"more": "is not part"}),
    "unfinished": (lambda path: path.with_name("y.png.partial").touch(), {"images/test/y.png.partial": "is not part"}),
}  # fmt: skip


@pytest.mark.parametrize("damage", SIMPLE)
def test_damage_is_found_and_named(job, copy, damage):
    """Each file that was touched is broken, with what was done to it, and no other one."""
    do, expected = SIMPLE[damage]
    folder = copy("png8")
    do(folder / PNG)
    for private in (False, True):
        found = proved(job, folder, private)
        assert found["broken"].keys() == expected.keys() and found["everywhere"] is None
        for name, pattern in expected.items():
            assert re.search(pattern, found["broken"][name]), found["broken"][name]
        assert found["images"] == 40 - len(expected.keys() & release.read_sums(folder).keys())


CHANGES = {
    "same pixels": (lambda image: image, damage._UNCLEAR, "same picture, other bytes (re-compressed without loss, or metadata changed)"),
    "JPEG and back": (jpeg, damage._UNCLEAR, "its pixels changed"),
    "painted": (lambda image: (image.paste(90, (30, 30, 60, 60)), image)[1], damage._UNCLEAR, "its pixels changed"),
    "darker": (lambda image: image.point(lambda level: level * 0.8), damage._UNCLEAR, "its pixels changed"),
    "3x3 mean": (lambda image: image.filter(ImageFilter.BoxBlur(1)), damage._GONE, damage._GONE),
    "3x3 median": (lambda image: image.filter(ImageFilter.MedianFilter(3)), damage._GONE, damage._GONE),
    "there and back": (lambda image: image.resize((56, 56)).resize((112, 112)), damage._GONE, damage._GONE),
    "cropped": (lambda image: image.crop((4, 4, 108, 108)).resize((112, 112)), damage._GONE, damage._GONE),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_of_the_right_size_is_looked_at(job, copy, change):
    """Whether the noise is gone is seen without the owner, whether a pixel changed at all with him."""
    do, alone, with_owner = CHANGES[change]
    folder = copy("png8")
    picture(do, compress_level=9)(folder / PNG)
    assert proved(job, folder)["broken"] == {PNG: alone}
    assert proved(job, folder, private=True)["broken"] == {PNG: with_owner}


def blur_npz(path):
    with np.load(path) as arrays:
        names, images = arrays["names"], arrays["images"]
    blurred = jax.lax.reduce_window(images[5], 0.0, jax.lax.add, (3, 3, 1), (1, 1, 1), "SAME") / 9
    images[5] = blurred
    np.savez(path, images=images, names=names)


def blur_tar(path):
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for place, (member, data) in enumerate(members):
            buffer = io.BytesIO(data)
            if place == 5:
                Image.open(io.BytesIO(data)).filter(ImageFilter.BoxBlur(1)).save(buffer, "PNG")
                buffer.truncate()
            member.size = len(buffer.getvalue())
            buffer.seek(0)
            tar.addfile(member, buffer)


def rewrite_tar(path):
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            member.mtime = 1
            tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("release_format", "path", "do"),
    [("float32", "shards/00001.npz", blur_npz), ("webdataset", "shards/00001.tar", blur_tar)],
)
def test_the_image_in_a_shard_is_named(job, copy, release_format, path, do):
    """A shard says which of its images is not what it was."""
    folder = copy(release_format)
    do(folder / path)
    reason = f"{damage._GONE}, in 1 of 16 images: test/00021"
    assert proved(job, folder)["broken"] == {path: reason}
    assert proved(job, folder, private=True)["broken"] == {path: reason}


def test_a_shard_with_the_same_pictures(job, copy):
    """Other bytes around the same pixels are broken, and known for what they are by the owner."""
    folder = copy("webdataset")
    rewrite_tar(folder / "shards/00000.tar")
    assert proved(job, folder)["broken"] == {"shards/00000.tar": damage._UNCLEAR}
    told = proved(job, folder, private=True)["broken"]["shards/00000.tar"]
    assert told.startswith("the same 16 pictures, or others are missing, other bytes")


def test_metadata_of_a_format_counts(job, copy):
    """A file without images is proved as well."""
    folder = copy("array_record")
    path = "ne_release/1.0.0/features.json"
    (folder / path).write_text("{}")
    assert proved(job, folder)["broken"] == {path: "is not the file that was released"}


def each(change):
    """A damage to every picture of a release."""

    def damage(folder):
        for path in folder.rglob("*.png"):
            change(path)

    return damage


def shrink_npz(folder):
    for path in folder.rglob("*.npz"):
        with np.load(path) as arrays:
            names, images = arrays["names"], arrays["images"]
        np.savez(path, names=names, images=images[:, ::2, ::2])


WHOLE = {
    "resized": ("png8", each(picture(lambda image: image.resize((56, 56)))), "every image file: was resized: 56 x 56 and not 112 x 112"),
    "JPEG": ("png8", each(picture(lambda image: image, format="JPEG")), "every image file: is a JPEG file now, and not a PNG"),
    "blurred": ("png8", each(picture(lambda image: image.filter(ImageFilter.BoxBlur(1)))), f"every image file: {damage._GONE}"),
    "stored anew": ("png8", each(picture(lambda image: image, compress_level=9)), f"every image file: {damage._UNCLEAR}"),
    "left behind": ("png8", each(lambda path: path.unlink()), "every image file: is missing"),
    "all but one": ("png8", each(lambda path: path.name == "00007.png" or path.write_bytes(b"")), "39 of 40 image files: is empty"),
    "npz": ("float32", shrink_npz, "every image file: holds images of another kind: float32 (56, 56, 1) and not float32 (112, 112, 1)"),
}  # fmt: skip


@pytest.mark.parametrize("damage", WHOLE)
def test_a_release_that_was_processed_as_a_whole_is_told_once(job, copy, damage):
    """What happened to every file is said on top, once, with what to do; each file is listed all the same."""
    release_format, do, told = WHOLE[damage]
    folder = copy(release_format)
    do(folder)
    found = proved(job, folder)
    assert found["everywhere"].startswith(
        told + "; this was done to the release as a whole: use the files as they were"
    )
    assert len(found["broken"]) >= 3 and "manifest.json" not in found["broken"]
    lines = verify.describe(found).splitlines()
    assert lines[0] == found["everywhere"] and len(lines) < 60


def test_noise_of_no_known_strength_is_not_judged(job, copy):
    """With `replace` and no file to compare with, or in paper mode, nothing is said about the noise."""
    folder = copy("png8")
    WHOLE["blurred"][1](folder)
    edit(folder, lambda ne: ne.update(replace=True))
    assert set(proved(job, folder)["broken"].values()) == {damage._UNCLEAR}
    edit(folder, lambda ne: ne.update(replace=False, design="paper", warning="INSECURE"))
    found = proved(job, folder)
    assert set(found["broken"].values()) == {damage._UNCLEAR} and found["notes"] == ["INSECURE"]


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
    broken = proved(job, folder)["broken"]
    assert broken.keys() == {"manifest.json"} and re.search(pattern, broken["manifest.json"]), broken


def test_percentiles_beside_missing_files(job, copy):
    """Missing files cause no false alarm and hide no edit: what the manifest says is held against all that they may have been."""
    folder = copy("png8")
    rows = [json.loads(line) for line in (job.private_dir / "certificates.jsonl").read_text().splitlines()]
    lowest = sorted((row for row in rows if row["release_format"] == "png8"), key=lambda row: row["margin"])[:3]
    gone = {f"images/{row['image']}.png" for row in lowest}
    for path in gone:
        (folder / path).unlink()
    found = proved(job, folder)
    now, claimed = (found["execution"][key]["margin"] for key in ("stored", "claimed"))
    assert now[0] > claimed[0] + 2 * verify._OF_SPREAD * (
        claimed[2] - claimed[0]
    )  # so that a plain comparison would fail
    assert found["broken"].keys() == gone
    edit(folder, spoil("stored", "margin", 1, value=lambda margin: margin * 1.2))
    assert proved(job, folder)["broken"].keys() == gone | {"manifest.json"}


ONE_LOST = {"prediction_kept": 39, "prediction_lost_at_most": failure_upper_bound(1, 40)}


def test_the_owner_finds_forged_counts(job, copy):
    """Counts that agree with each other are held against the certificates."""
    folder = copy("png8")
    edit(folder, lambda ne: ne["certificate"].update(**ONE_LOST, bound_holds=39))
    assert proved(job, folder)["holds"]
    told = proved(job, folder, private=True)["broken"]["manifest.json"]
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
    assert found["holds"] and found["private"]["stand"] == 40


def test_a_machine_that_computes_wrongly_is_found(job):
    """Numbers a few per cent off are not taken for rounding."""
    found = proved(job, job.release_dir("png8"), private=True, model=rounded(job.authorized, 22, noise=0.1))
    assert re.search("certificate says margin .* or this machine computes otherwise", found["broken"]["manifest.json"])
    assert any(
        re.search("^image test/.* has a margin of .*, and was certified with", why) for why in found["broken"].values()
    )


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
    broken = proved(job, folder, private)["broken"]
    assert re.search(pattern, broken["SHA256SUMS"]) and len(broken) == count


def test_a_release_with_an_image_taken_out_by_all_rules(job, copy):
    """Who removes an image and mends every list is found by the owner, and by the manifest's own certificate."""
    folder = copy("png8")
    (folder / PNG).unlink()
    sums = {name: digest for name, digest in release.read_sums(folder).items() if name != PNG}
    before = sha256(folder / "SHA256SUMS")
    after, _ = release.write_sums(folder, sums.items())
    text = (folder / "manifest.json").read_text().replace(before, after)
    (folder / "manifest.json").write_text(text)
    edit(folder, lambda ne: ne.update(images=39))
    assert proved(job, folder)["broken"] == {"manifest.json": "its certificate says n 40, counted anew it is 39"}
    edit(folder, lambda ne: ne.pop("certificate"))
    assert proved(job, folder)["holds"]
    told = proved(job, folder, private=True)["broken"]["manifest.json"]
    assert told == "1 certified images are in no file, the first: test/00003"


def test_without_certificates_the_files_are_proved(job, copy):
    """A release that was never checked holds, and the report says what was not compared."""
    folder = copy("png8")
    edit(folder, lambda ne: ne.pop("certificate"))
    found = proved(job, folder)
    assert found["holds"] and "the owner did not run --stage=check" in found["notes"][0]
    assert found["notes"][0] in verify.describe(found).splitlines()


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
    assert re.search(pattern, found["broken"].pop(PNG)) and found["broken"].keys() <= {"manifest.json"}
    assert not found["holds"] and found["private"]["stand"] == 39


def test_a_prediction_that_was_lost_from_the_start_is_no_damage(job, copy, tmp_path):
    """What the manifest admits is counted and breaks nothing."""
    folder = copy("png8")
    edit(folder, lambda ne: ne["certificate"].update(**ONE_LOST))
    found = verify.run(folder, job.authorized, certificates(job, tmp_path, one(kept=False, predicted_clean=5)))
    assert found["holds"] and found["private"] == {"certificates": 40, "stand": 39, "close": 0}
    assert "certificates: 39 of 40 stand" in verify.describe(found)


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
    assert found["private"]["stand"] == 40 and 30 < found["private"]["close"] < 40


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "No such file or directory; give WORKDIR/private of the run, after --stage=check"),
        ("", "none is of a png8 release"),
        ('{"release_format": "float32"}\n', "none is of a png8 release"),
        ('{"release_format": "float32"}\nwords\n', "line 2 is no certificate"),
        ('{"release_format": "png8", "image": "a"}\n', "line 1 is no certificate"),
        ("[]\n", "line 1 is no certificate"),
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


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda ne: ne.pop("preprocess"), "preprocess is missing or wrong"),
        (lambda ne: ne.update(images="many"), "images is missing or wrong"),
        (lambda ne: ne.update(authorized="vit_a"), "authorized is missing or wrong"),
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
    assert all(
        "is as released, but not what manifest.json says: it holds images" in why
        for why in proved(job, folder)["broken"].values()
    )


def test_a_layer_whose_windows_overlap(tmp_path):
    """A release for a network with overlapping windows is proved and explained the same."""
    small = {"authorized": "resnet_a", "data.limit": 8, "release.formats": ("png8",)}
    job = encoded(
        tmp_path / "run", **small, **{"subspace.rule": "count", "subspace.value": 4000.0, "recode.psnr_db": 20.0}
    )
    folder = job.release_dir("png8")
    job.lock.close()
    assert proved(job, folder)["holds"]
    picture(lambda image: image.filter(ImageFilter.BoxBlur(1)))(folder / PNG)
    assert proved(job, folder)["broken"] == {PNG: damage._GONE}


def test_a_long_list_is_cut(job, copy):
    """Fifty files are listed and the others counted; a name with a line break or bytes that are no text stays in its line."""
    folder = copy("png8")
    for index in range(60):
        (folder / f"{index}.txt").touch()
    (folder / os.fsdecode(b"\xff\n")).touch()
    found = proved(job, folder)
    assert len(found["broken"]) == 61
    lines = verify.describe(found).splitlines()
    assert sum("is not part of the release" in line for line in lines) == 50 and "... and 11 more" in lines
    found["broken"] = {"\udcff\n": "is empty"}
    assert "'\\udcff\\n: is empty'" in verify.describe(found).encode().decode().splitlines()


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


def command(*arguments):
    words = [sys.executable, "-m", "ne_jax.main", "--stage=verify", *arguments]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_exit_status(job, copy):
    """0 for a release that holds, 1 for a broken one, 2 for what cannot be proved; the report is on standard output."""
    done = command(f"--release={job.release_dir('png8')}", f"--private={job.private_dir}")
    assert done.returncode == 0 and done.stdout.endswith("the release holds\n") and "image/s" in done.stderr, (
        done.stderr
    )
    folder = copy("png8")
    (folder / PNG).write_bytes(b"")
    done = command(f"--release={folder}")
    assert (
        done.returncode == 1 and f"{PNG}: is empty\n" in done.stdout and done.stdout.endswith("the release is BROKEN\n")
    )
    done = command(f"--release={folder}", f"--private={folder}")
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
