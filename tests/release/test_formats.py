"""Formats: ordinary files that programs which know nothing of ne_jax read."""

import errno
import io
import os
import resource
import subprocess
import sys
import tarfile
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ne_jax.errors import UserError
from ne_jax.files import write_file
from ne_jax.release import array_record, formats, png, tar

NAMES = ["a", "class/ü 1.b", "50%/x.tar%2E", "class.d/c", ".hidden", "line\nback\\slash"]
SHAPE = (6, 5, 3)


def stored(release_format, count, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (count, 6, 5, channels)
    if formats.FORMATS[release_format].dtype == np.uint8:
        return rng.integers(0, 256, shape, np.uint8)
    return (3 * rng.normal(size=shape)).astype(formats.FORMATS[release_format].dtype)


def write_shards(folder, release_format, names, images, shards=((0, 4), (4, 4), (4, None)), metadata=None):
    """Three shards, the second of them empty."""
    metadata = [{}] * len(names) if metadata is None else metadata
    files, write = {}, formats.FORMATS[release_format].write
    with ThreadPoolExecutor(2) as pool:
        for shard, bounds in enumerate(shards):
            rows = slice(*bounds)
            files |= write(folder, shard, len(shards), names[rows], images[rows], metadata[rows], pool)
    return files


def test_png_keeps_exif_and_profile_and_nothing_else(tmp_path):
    """What the owner's image says of its making and its colours stays, where it is asked for."""
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    metadata = [{"exif": exif.tobytes(), "icc_profile": b"profile"}, {"exif": b"", "icc_profile": b"", "dpi": (3, 3)}]
    write_shards(tmp_path, "png8", ["a", "b"], stored("png8", 2), shards=((0, 2),), metadata=metadata)
    with Image.open(tmp_path / "images" / "a.png") as image:
        assert image.getexif()[0x010F] == "Maker" and image.info["icc_profile"] == b"profile"
    with Image.open(tmp_path / "images" / "b.png") as image:
        assert image.info == {}


def test_png_is_near_the_smallest():
    """The fast compression costs at most 5 % over zlib's usual one, for noise and for flat pictures."""
    rng = np.random.default_rng(0)
    noisy = np.clip(rng.normal(128, 60, (64, 64, 3)), 0, 255).astype(np.uint8)
    for pixels in (noisy, np.full((64, 64, 3), 7, np.uint8)):
        formats_size = len(png.encode_png(pixels, {}))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        assert formats_size < 1.05 * len(buffer.getvalue()) + 100


@pytest.mark.parametrize("channels", [1, 3])
def test_array_record_is_read_by_tfds_alone(tmp_path, channels):
    """`tfds.data_source` finds the set by name, every row is there in order, and TensorFlow is not asked for."""
    images = stored("array_record", len(NAMES), channels)
    written = write_shards(tmp_path, "array_record", NAMES, images)
    written |= formats.write_index(tmp_path, "array_record", (6, 5, channels), [4, 0, 2], "What it is.")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(written)
    np.savez(tmp_path / "expected.npz", images=images)
    program = f"""
        import os, sys
        import numpy as np
        import tensorflow_datasets as tfds

        images = np.load("expected.npz")["images"]
        by_name = tfds.data_source("ne_release", split="all", data_dir=".")
        builder = tfds.builder_from_directory("ne_release/1.0.0")
        for rows in (by_name, builder.as_data_source()["release"]):
            assert len(rows) == len(images)
            assert [os.fsdecode(row["name"]) for row in rows] == {NAMES!r}
            assert all((row["image"] == image).all() for row, image in zip(rows, images, strict=True))
        assert builder.info.description == "What it is." and "tensorflow" not in sys.modules and "ne_jax" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, check=True)


def test_the_other_formats_need_no_index(tmp_path):
    """Only TFDS asks for files beside the shards."""
    for name in set(formats.FORMATS) - {"array_record"}:
        assert formats.write_index(tmp_path, name, SHAPE, [1], "") == {}
    assert not list(tmp_path.iterdir())


def test_webdataset_is_a_plain_tar(tmp_path):
    """Members say nothing of who made them and when; cut at the first dot of its base, as webdataset does, a key names its image."""
    images = stored("webdataset", len(NAMES))
    write_shards(tmp_path, "webdataset", NAMES, images, shards=((0, None),))
    with tarfile.open(tmp_path / "shards" / "00000.tar") as archive:
        members = archive.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members} == {
            (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
        }
        for member, name, pixels in zip(members, NAMES, images, strict=True):
            folder, slash, base = member.name.rpartition("/")
            key, ending = base.split(".", 1)
            assert ending == "png" and tar.webdataset_name(folder + slash + key) == name
            np.testing.assert_array_equal(np.asarray(Image.open(archive.extractfile(member))), pixels)


@pytest.mark.parametrize("name", [*NAMES, "%", "%25", "%2E", "%252E", "a.b/c.d/e.f", "...", "%2", "E%2"])
def test_webdataset_keys_come_back(name):
    """Escaping is reversible, and leaves no dot where webdataset would cut."""
    key = tar.webdataset_key(name)
    assert tar.webdataset_name(key) == name
    assert "." not in key.rpartition("/")[2]


def test_npz_shards_are_for_numpy_alone(tmp_path):
    """The two arrays, in the width that was asked for, without pickles; an empty shard has names and images of length 0."""
    for release_format in ("float32", "float16"):
        images = stored(release_format, len(NAMES))
        write_shards(tmp_path / release_format, release_format, NAMES, images)
        with np.load(tmp_path / release_format / "shards" / "00000.npz", allow_pickle=False) as shard:
            assert shard["names"].tolist() == NAMES[:4] and shard["images"].dtype == release_format
            np.testing.assert_array_equal(shard["images"], images[:4])
        with np.load(tmp_path / release_format / "shards" / "00001.npz", allow_pickle=False) as shard:
            assert (
                shard["names"].shape == (0,)
                and shard["names"].dtype.kind == "U"
                and shard["images"].shape == (0, *SHAPE)
            )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_written_is_told_and_removed(tmp_path, code):
    """Disk full, quota, read-only, permission and what else there is: one line with the path, and no part of a file stays."""

    def fails(partial):
        partial.write_bytes(b"half")
        raise OSError(code, os.strerror(code), str(partial))

    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(UserError) as caught:
        write_file(tmp_path / "file", fails)
    told = {
        errno.ENOSPC: "no space left on the device while writing {}; free some and give the same command again: what is written is kept"
    }
    text = str(caught.value)
    assert f"while writing {tmp_path / 'file'}; " in text and "\n" not in text and ".partial" not in text
    assert text == told.get(code, text).format(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == b"before"


def test_a_system_error_is_known_by_its_number(tmp_path):
    """Not by words, which a path may hold too; ArrayRecord's, which come without a number, are given theirs."""
    folder = tmp_path / "No space left on device"
    for error, told in (
        (OSError(errno.EIO, os.strerror(errno.EIO), str(folder)), "Input/output error while writing "),
        (array_record._system_error(RuntimeError("write() failed: No space left on device; at byte 1")), "no space left on the "),
        (array_record._system_error(RuntimeError("open() failed: Is a directory; opening /a")), "Is a directory while writing "),
        (array_record._system_error(RuntimeError("of another kind")), "of another kind while writing "),
    ):  # fmt: skip

        def fails(partial, error=error):
            raise error

        with pytest.raises(UserError, match=f"^{told}"):
            write_file(folder / "file", fails)


@pytest.mark.parametrize("release_format", formats.FORMATS)
def test_a_full_disk_leaves_whole_files_only(tmp_path, release_format):
    """A limit of the system strikes in the middle of a file: the error is one line, what was whole before stays, no part does."""
    images = np.random.default_rng(0).integers(0, 256, (2, 300, 300, 3), np.uint8)
    kept, limits = formats.FORMATS[release_format], resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with ThreadPoolExecutor(1) as pool:
            kept.write(tmp_path, 0, 2, ["a"], np.zeros((1, 6, 5, 3), kept.dtype), [{}], pool)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
            with pytest.raises(UserError, match=f"^larger than a file may be here while writing {tmp_path}") as caught:
                kept.write(tmp_path, 1, 2, ["b", "c"], images.astype(kept.dtype), [{}] * 2, pool)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1 and "partial" not in files[0].name


@pytest.mark.parametrize("release_format", formats.FORMATS)
def test_an_interrupt_leaves_no_file_under_the_final_name(tmp_path, monkeypatch, release_format):
    """Contract 9: writes are atomic in every format."""

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", dies)
    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path, release_format, ["a"], stored(release_format, 1), shards=((0, 1),))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# While TFDS is loaded, etils puts another import in the place of Python's, for all threads. The second thread begins right then.
TWO_THREADS = """
import contextlib, sys, threading, time
from etils import epy

@contextlib.contextmanager
def lazy_imports(*given, real=epy.lazy_imports, **named):
    with real(*given, **named):
        yield
        if "tensorflow_datasets" in sys.modules and not second.ident:
            second.start()
            time.sleep(1)

epy.lazy_imports = lazy_imports
from ne_jax.release import array_record

first, second = (threading.Thread(target=array_record._features, args=((4, 4, 1),), daemon=True) for _ in range(2))
first.start()
[thread.join(30) for thread in (first, second)]
print(second.ident is not None, first.is_alive(), second.is_alive())
"""


def test_two_threads_may_read_array_record_first():
    """Each has it: TFDS, loaded by two threads at once, kept both waiting for each other for ever."""
    done = subprocess.run([sys.executable, "-c", TWO_THREADS], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True False False\n"
