"""What was done to the files of a release is found, and told in words that an owner understands."""

import io
import re
import tarfile

import jax
import numpy as np
import pytest
from PIL import Image, ImageFilter

from ne_jax.release import reading
from ne_jax.release.reasons import WORDS, Reason, words
from ne_jax.release.verdict import describe
from tests.verified import PNG, broken, edit, encoded, proved

GONE, UNCLEAR = WORDS["noise gone"], WORDS["unclear"]


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
        assert found.broken.keys() == expected.keys() and found.everywhere is None
        for name, pattern in expected.items():
            assert re.search(pattern, words(found.broken[name])), found.broken[name]
        assert found.images == 40 - len(expected.keys() & reading.read_sums(folder).keys())


CHANGES = {
    "same pixels": (lambda image: image, UNCLEAR, "same picture, other bytes (re-compressed without loss, or metadata changed)"),
    "JPEG and back": (jpeg, UNCLEAR, "its pixels changed"),
    "painted": (lambda image: (image.paste(90, (30, 30, 60, 60)), image)[1], UNCLEAR, "its pixels changed"),
    "darker": (lambda image: image.point(lambda level: level * 0.8), UNCLEAR, "its pixels changed"),
    "3x3 mean": (lambda image: image.filter(ImageFilter.BoxBlur(1)), GONE, GONE),
    "3x3 median": (lambda image: image.filter(ImageFilter.MedianFilter(3)), GONE, GONE),
    "there and back": (lambda image: image.resize((56, 56)).resize((112, 112)), GONE, GONE),
    "cropped": (lambda image: image.crop((4, 4, 108, 108)).resize((112, 112)), GONE, GONE),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_of_the_right_size_is_looked_at(job, copy, change):
    """Whether the noise is gone is seen without the owner, whether a pixel changed at all with him."""
    do, alone, with_owner = CHANGES[change]
    folder = copy("png8")
    picture(do, compress_level=9)(folder / PNG)
    assert broken(job, folder) == {PNG: alone}
    assert broken(job, folder, private=True) == {PNG: with_owner}


def blur_npz(path):
    with np.load(path) as arrays:
        names, images = arrays["names"], arrays["images"]
    blurred = jax.lax.reduce_window(images[5], 0.0, jax.lax.add, (3, 3, 1), (1, 1, 1), "SAME") / 9
    images[5] = blurred
    np.savez(path, images=images, names=names)


def change_tar(path, change):
    """Every picture of a tar, by its place; one that comes back as it was keeps its bytes."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for place, (member, data) in enumerate(members):
            image, buffer = Image.open(io.BytesIO(data)), io.BytesIO()
            after = change(place, image)
            if after is image:
                buffer.write(data)
            else:
                after.save(buffer, "PNG")
            member.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(member, buffer)


def blur_tar(path):
    change_tar(path, lambda place, image: image.filter(ImageFilter.BoxBlur(1)) if place == 5 else image)


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
    reason = f"{GONE}, in 1 of 16 images: test/00021"
    assert broken(job, folder) == {path: reason}
    assert broken(job, folder, private=True) == {path: reason}


def test_a_shard_with_the_same_pictures(job, copy):
    """Other bytes around the same pixels are broken, and known for what they are by the owner."""
    folder = copy("webdataset")
    rewrite_tar(folder / "shards/00000.tar")
    assert broken(job, folder) == {"shards/00000.tar": UNCLEAR}
    told = broken(job, folder, private=True)["shards/00000.tar"]
    assert told.startswith("the same 16 pictures, or others are missing, other bytes")


def test_metadata_of_a_format_counts(job, copy):
    """A file without images is proved as well."""
    folder = copy("array_record")
    path = "ne_release/1.0.0/features.json"
    (folder / path).write_text("{}")
    assert broken(job, folder) == {path: "is not the file that was released"}


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


def shrink_tar(folder):
    for path in folder.rglob("*.tar"):
        change_tar(path, lambda place, image: image.resize((56, 56)))


WHOLE = {
    "resized": ("png8", each(picture(lambda image: image.resize((56, 56)))), "every image file: was resized: 56 x 56 and not 112 x 112"),
    "JPEG": ("png8", each(picture(lambda image: image, format="JPEG")), "every image file: is a JPEG file now, and not a PNG"),
    "blurred": ("png8", each(picture(lambda image: image.filter(ImageFilter.BoxBlur(1)))), f"every image file: {GONE}"),
    "stored anew": ("png8", each(picture(lambda image: image, compress_level=9)), f"every image file: {UNCLEAR}"),
    "left behind": ("png8", each(lambda path: path.unlink()), "every image file: is missing"),
    "all but one": ("png8", each(lambda path: path.name == "00007.png" or path.write_bytes(b"")), "39 of 40 image files: is empty"),
    "tar": ("webdataset", shrink_tar, "every image file: was resized: 56 x 56 and not 112 x 112"),
    "npz": ("float32", shrink_npz, "every image file: holds images of another kind: float32 (56, 56, 1) and not float32 (112, 112, 1)"),
}  # fmt: skip


@pytest.mark.parametrize("damage", WHOLE)
def test_a_release_that_was_processed_as_a_whole_is_told_once(job, copy, damage):
    """What happened to every file is said on top, once, with what to do; each file is listed all the same."""
    release_format, do, told = WHOLE[damage]
    folder = copy(release_format)
    do(folder)
    found = proved(job, folder)
    assert len(found.broken) >= 3 and "manifest.json" not in found.broken
    lines = describe(found).splitlines()
    assert lines[0].startswith(told + "; this was done to the release as a whole: use the files as they were")
    assert len(lines) < 60


def test_noise_of_no_known_strength_is_not_judged(job, copy):
    """With `replace` and no file to compare with, or in paper mode, nothing is said about the noise."""
    folder = copy("png8")
    WHOLE["blurred"][1](folder)
    edit(folder, lambda ne: ne.update(replace=True))
    assert set(broken(job, folder).values()) == {UNCLEAR}
    edit(folder, lambda ne: ne.update(replace=False, design="paper", warning="INSECURE"))
    found = proved(job, folder)
    assert set(found.broken.values()) == {Reason("unclear")} and found.notes == ["INSECURE"]


def test_a_layer_whose_windows_overlap(tmp_path):
    """A release for a network with overlapping windows is proved and explained the same."""
    small = {"authorized": "resnet_a", "data.limit": 8, "release.formats": ("png8",)}
    job = encoded(
        tmp_path / "run", **small, **{"subspace.rule": "count", "subspace.value": 4000.0, "recode.psnr_db": 20.0}
    )
    folder = job.release_dir("png8")
    assert proved(job, folder).holds
    picture(lambda image: image.filter(ImageFilter.BoxBlur(1)))(folder / PNG)
    assert broken(job, folder) == {PNG: GONE}
