"""Releases: what is written is what is read, and anything else is named."""

import io
import os
import shutil
import subprocess
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from PIL import Image

from ne_jax.core.pixels import from_bytes
from ne_jax.errors import UserError
from ne_jax.files import ahead, sha256, write_atomic, write_json
from ne_jax.release import formats, manifest, reading, writing
from tests.facts import FACTS

NAMES = ["a", "class/ü 1.b", "50%/x.tar%2E", "class.d/c", ".hidden", "line\nback\\slash"]
FORMATS = list(formats.FORMATS)


def stored(release_format, count=6, channels=3):
    rng = np.random.default_rng(0)
    shape = (count, 6, 5, channels)
    if formats.FORMATS[release_format].dtype == np.uint8:
        return rng.integers(0, 256, shape, np.uint8)
    return (3 * rng.normal(size=shape)).astype(formats.FORMATS[release_format].dtype)


def write(folder, release_format, images, names=NAMES):
    """A whole release of three shards, the second of them empty; gives its SHA256SUMS."""
    files = {}
    with ThreadPoolExecutor(2) as pool:
        for shard, rows in enumerate((slice(0, 4), slice(4, 4), slice(4, None))):
            files |= writing.write_shard(folder, release_format, shard, 3, names[rows], images[rows], None, pool)
    shape = images.shape[1:]
    files |= formats.write_index(folder, release_format, shape, [4, 0, len(names) - 4], "")
    facts = msgspec.structs.replace(FACTS, format=release_format, image_shape=shape, images=len(names))
    write_json(folder / "manifest.json", manifest.build(facts, *writing.write_sums(folder, files.items())))
    return files


def read_all(folder, batch_size=4):
    batches = list(reading.read_release(folder, batch_size))
    assert all(0 < len(names) == len(images) <= batch_size for names, images in batches)
    return [name for names, _ in batches for name in names], np.concatenate([images for _, images in batches])


@pytest.mark.parametrize("release_format", FORMATS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_round_trip_is_exact(tmp_path, release_format, channels, batch_size):
    """Contract 2: every value comes back bit for bit under its name, whatever the name, the batch and the empty shard."""
    images = stored(release_format, channels=channels)
    write(tmp_path, release_format, images)
    names, found = read_all(tmp_path, batch_size)
    assert names == NAMES and found.dtype == np.float32
    np.testing.assert_array_equal(found, from_bytes(images) if images.dtype == np.uint8 else images.astype(np.float32))


@pytest.mark.parametrize("release_format", FORMATS)
def test_one_file_comes_back_as_stored(tmp_path, release_format):
    """`read_file` gives the stored numbers, not what readers make of them."""
    images = stored(release_format)
    write(tmp_path, release_format, images)
    facts = manifest.read_manifest(tmp_path)
    parts = [reading.read_file(tmp_path, facts, relative) for relative in reading.image_files(tmp_path, facts)]
    assert [name for names, _ in parts for name in names] == NAMES
    assert all(part.dtype == images.dtype for _, part in parts)
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), images)


@pytest.mark.parametrize("release_format", FORMATS)
def test_the_same_content_has_the_same_bytes(tmp_path, release_format, monkeypatch):
    """No time stamp, folder, user or thread gets into a file: two releases are equal, manifest and all."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    images = stored(release_format)
    assert write(tmp_path / "a", release_format, images) == write(tmp_path / "b", release_format, images)
    for name in ("manifest.json", "SHA256SUMS"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_stored_pixels_are_rounded_to_the_nearest_level():
    """8 bits: nearest level, clipped to the range; float32: untouched; float16: outside [0, 1] too."""
    recoded = np.array([-0.2, 0.0, 0.49 / 255, 0.51 / 255, 1.0, 1.7], np.float32).reshape(1, 1, 6, 1)
    for name in ("png8", "array_record", "webdataset"):
        assert writing.to_stored(recoded, name).ravel().tolist() == [0, 0, 0, 1, 255, 255]
    assert writing.to_stored(recoded, "float32") is recoded
    np.testing.assert_array_equal(writing.to_stored(recoded, "float16"), recoded.astype(np.float16))


@pytest.mark.parametrize("release_format", FORMATS)
def test_sha256sum_proves_a_release(tmp_path, release_format):
    """`sha256sum -c` finds every file, whatever its name, and finds out a change; no file is left out but the manifest's two."""
    write(tmp_path, release_format, stored(release_format))
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert set(reading.read_sums(tmp_path)) == files - {"manifest.json", "SHA256SUMS"}
    changed = tmp_path / list(reading.read_sums(tmp_path))[-1]
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1


def test_sums_are_those_of_sha256sum(tmp_path):
    """The very lines that the command writes, and names that are not UTF-8 as well."""
    names = ["images/a.png", "images/ü b/new\nline.png", "images/back\\slash.png", os.fsdecode(b"images/\xff.png")]
    for name in names:
        write_atomic(tmp_path / name, name.encode(errors="surrogateescape"))
    expected = subprocess.run(["sha256sum", *names], cwd=tmp_path, capture_output=True, check=True).stdout
    digests = {name: sha256(tmp_path / name) for name in names}
    digest, size = writing.write_sums(tmp_path, digests.items())
    assert (tmp_path / "SHA256SUMS").read_bytes() == expected and size == len(expected)
    assert digest == sha256(tmp_path / "SHA256SUMS")
    assert reading.read_sums(tmp_path) == digests and list(reading.read_sums(tmp_path)) == names


def test_sums_of_a_million_files_are_streamed(tmp_path):
    """Writing SHA256SUMS takes no memory that grows with the number of files."""
    tracemalloc.start()
    writing.write_sums(tmp_path, ((f"images/{index:06d}.png", "0" * 64) for index in range(30_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 < (tmp_path / "SHA256SUMS").stat().st_size


def test_an_unfinished_release_is_not_read(tmp_path):
    """Without its manifest or its sums a folder is not read as if it were whole."""
    with pytest.raises(UserError, match="no manifest.json, so no complete release; run --stage=encode first"):
        read_all(tmp_path)
    write(tmp_path, "float32", stored("float32"))
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="no SHA256SUMS"):
        read_all(tmp_path)


@pytest.mark.parametrize("change", [lambda text: text.rpartition(b"\n")[0], lambda text: text[: text.index(b"\n") + 1]])
def test_shortened_sums_are_refused(tmp_path, change):
    """A release does not quietly lose images because its list of files was cut."""
    write(tmp_path, "png8", stored("png8"))
    path = tmp_path / "SHA256SUMS"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match="SHA256SUMS is not the one that manifest.json names"):
        read_all(tmp_path)


def test_broken_sums_are_refused(tmp_path):
    """The line that cannot be read is named."""
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  a\nsomething else\n")
    with pytest.raises(UserError, match="SHA256SUMS: line 2 is no line of sha256sum"):
        reading.read_sums(tmp_path)


def test_a_format_of_the_future_is_refused(tmp_path):
    """A manifest with a format that this version does not know is told, not met with a traceback."""
    write(tmp_path, "png8", stored("png8"))
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"format": "png8"', '"format": "jxl"'))
    with pytest.raises(UserError, match="manifest.json: format jxl is unknown; choose from png8, float32"):
        read_all(tmp_path)


@pytest.mark.parametrize("release_format", FORMATS)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", "is missing"),
        ("empty", "is empty"),
        ("truncated", "cannot be read|is cut short|is broken|is no image"),
        ("foreign", "cannot be read|is cut short|is no image"),
    ],
)
def test_a_broken_file_is_named(tmp_path, release_format, fault, reason):
    """A file that is not what was written stops the read with its path and why, in one line; an empty file is not "no images"."""
    files = write(tmp_path, release_format, stored(release_format))
    path = tmp_path / [file for file in files if "json" not in file][-2]
    whole = path.read_bytes()
    for cut in (len(whole) // 2, len(whole) - 30, 20) if fault == "truncated" else (0,):
        if fault == "missing":
            path.unlink()
        else:
            path.write_bytes({"empty": b"", "truncated": whole[:cut], "foreign": b"something else"}[fault])
        with pytest.raises(UserError, match=reason) as caught:
            read_all(tmp_path)
        text = str(caught.value)
        assert (
            text.startswith(f"release file {path} ")
            and text.endswith("; restore it as it was made")
            and "\n" not in text
        )


def changed(image, kind):
    buffer = io.BytesIO()
    image = {
        "JPEG": image,
        "WEBP": image,
        "small": image.resize((3, 4)),
        "grey": image.convert("L"),
        "RGBA": image.convert("RGBA"),
        "palette": image.quantize(8),
    }[kind]
    image.save(buffer, kind if kind in ("JPEG", "WEBP") else "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("JPEG", "is a JPEG file now, and not a PNG"),
        ("WEBP", "is a WEBP file now, and not a PNG"),
        ("small", "was resized: 3 x 4 and not 5 x 6"),
        ("grey", "is grey now, and not RGB"),
        ("RGBA", "is RGBA now, and not RGB"),
        ("palette", "is a palette image now, and not RGB"),
    ],
)
def test_what_platforms_do_to_images_is_named(tmp_path, kind, reason):
    """Whoever re-encoded, resized or recoloured an image reads what happened, be it a file or a tar's member."""
    write(tmp_path / "png8", "png8", stored("png8"), names=["a", "b", "c", "d", "e"])
    path = tmp_path / "png8" / "images" / "c.png"
    data = changed(Image.open(path), kind)
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_all(tmp_path / "png8")
    assert str(caught.value) == f"release file {path} {reason}; restore it as it was made"

    write(tmp_path / "tar", "webdataset", stored("webdataset"))
    path = tmp_path / "tar" / "shards" / "00001.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("x/b.png")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    with pytest.raises(UserError) as caught:
        read_all(tmp_path / "tar")
    assert str(caught.value) == f"release file {path} has a member x/b.png that {reason}; restore it as it was made"


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"images": np.zeros((1, 6, 5, 3), np.uint8), "names": np.array(["a"])}, "holds images of another kind: uint8"),
        ({"images": np.zeros((1, 3, 5, 3), np.float32), "names": np.array(["a"])}, r"float32 \(1, 3, 5, 3\) and not"),
        ({"images": np.zeros((2, 6, 5, 3), np.float32), "names": np.array(["a"])}, r"and not float32 \(1, 6, 5, 3\)"),
        ({"images": np.zeros((1, 6, 5, 3), np.float32)}, "cannot be read"),
        ({"images": np.zeros((1, 6, 5, 3), np.float32), "names": np.array(["a"], object)}, "cannot be read"),
    ],
)
def test_other_arrays_are_named(tmp_path, arrays, reason):
    """A shard with other numbers, other sizes, too few names or pickles is refused."""
    write(tmp_path, "float32", stored("float32"))
    np.savez(tmp_path / "shards" / "00001.npz", allow_pickle=True, **arrays)
    with pytest.raises(UserError, match=reason):
        read_all(tmp_path)


def test_another_set_of_array_records_is_named(tmp_path):
    """Records of another shape do not pass for images of this release."""
    write(tmp_path / "a", "array_record", stored("array_record"))
    write(tmp_path / "b", "array_record", stored("array_record", channels=1))
    path = "ne_release/1.0.0/ne_release-release.array_record-00000-of-00003"
    shutil.copy(tmp_path / "b" / path, tmp_path / "a" / path)
    with pytest.raises(UserError, match="cannot be read .*reshape"):
        read_all(tmp_path / "a")


@pytest.mark.parametrize("release_format", FORMATS)
def test_the_estimate_is_near(tmp_path, release_format):
    """What a release will take is known before it is made: within 15 % of the blocks that its files take."""
    images = np.random.default_rng(0).integers(0, 256, (24, 96, 96, 3), np.uint8)
    images = images.astype(formats.FORMATS[release_format].dtype)
    names = [f"{index:04d}" for index in range(24)]
    write(tmp_path, release_format, images, names)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file() and path.name != "manifest.json"]
    taken = sum(-(-size // 4096) * 4096 for size in sizes) - (3 * 131072 if release_format == "array_record" else 0)
    assert writing.estimate(release_format, (96, 96, 3), 24, images[:4]) == pytest.approx(taken, rel=0.15)


def test_free_bytes_are_those_of_the_disk(tmp_path):
    """Of the disk that a folder will be on, though it does not exist yet."""
    free = shutil.disk_usage(tmp_path).free
    assert writing.free_bytes(tmp_path / "not" / "yet") == pytest.approx(free, rel=0.05)


def test_threads_read_few_files_ahead(tmp_path):
    """A reader that stops early has not read the whole release, and order is kept though files come at different times."""
    import time

    begun = []

    def slow(item):
        begun.append(item)
        time.sleep(0.001 * (item % 3))
        return item

    found = ahead(slow, range(1000), 8)
    assert [next(found) for _ in range(20)] == list(range(20))
    found.close()
    assert len(begun) <= 30
