"""Bad input costs nothing but itself: one clear line, the rest of the work kept, nothing half-written under its final name."""

import errno
import io
import json
import os
import resource
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image

from ne_jax import config as configs
from ne_jax.errors import UserError
from ne_jax.stages import encode, multihost
from ne_jax.stages.job import open_job
from tests import jobs
from tests.jobs import contents, encode_into, opened, rows, small_config
from tests.tiffs import tiff

FORMATS = {"release.formats": ("png8", "array_record", "float32")}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """20 images in shards of 8, without an accident."""
    return contents(encode_into(tmp_path_factory.mktemp("unbroken"), "run", **FORMATS).workdir)


def told(tmp_path, name, **leaves) -> str:
    """The one line of a run that fails."""
    with pytest.raises(UserError) as caught:
        encode_into(tmp_path, name, **leaves)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_numbers_too_large_for_a_format_are_refused_before_anything_is_written(tmp_path):
    """At -100 dB half of the numbers of a float16 release would be infinite: one line, no file, and float32 holds them."""
    leaves = {"data.limit": 2, "recode.psnr_db": -100.0}
    message = told(tmp_path, "half", **leaves, **{"release.formats": ("float16",)})
    assert "float16 holds numbers up to 65504" in message and "raise recode.psnr_db, or release float32" in message
    assert not [path for path in (tmp_path / "half" / "releases").rglob("*") if path.is_file()]
    encode_into(tmp_path, "whole", **leaves, **{"release.formats": ("float32",)})


# --- Disks ---


FAILURES = {
    "full": (errno.ENOSPC, "no space left on the device while writing ", "; free some and give the same command again"),
    "quota": (errno.EDQUOT, "no disk quota left while writing ", "; free some and give the same command again"),
    "read-only": (
        errno.EROFS,
        "read-only file system while writing ",
        "; make it writable and give the same command again",
    ),
    "forbidden": (
        errno.EACCES,
        "permission denied while writing ",
        "; make it writable and give the same command again",
    ),
    "broken": (errno.EIO, "Input/output error while writing ", "; put that right and give the same command again"),
}


@pytest.mark.parametrize(("failure", "number"), list(zip(FAILURES, (5, 17, 24, 36, 42), strict=True)))
def test_a_disk_that_fails_is_told_and_costs_nothing(unbroken, tmp_path, monkeypatch, failure, number):
    """Whenever it happens: the reason, the file and the way out; nothing half-written; the next run ends with the same bytes."""
    code, reason, way_out = FAILURES[failure]
    done, replace = [], os.replace

    def replaced(source, target):
        if len(done) + 1 >= number:
            raise OSError(code, os.strerror(code), str(source))
        replace(source, target)
        done.append(target)

    monkeypatch.setattr(os, "replace", replaced)
    line = told(tmp_path, "run", **FORMATS)
    monkeypatch.undo()
    workdir = tmp_path / "run"
    assert line.startswith(f"{reason}{workdir}/") and line.endswith(f"{way_out}: what is written is kept")
    assert not list(workdir.rglob("*.partial")) and contents(workdir).items() <= unbroken.items()
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("progress/*/*")}
    encode_into(tmp_path, "run", **FORMATS)
    assert contents(workdir) == unbroken
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("release_format", ["float32", "float16", "array_record", "webdataset"])
def test_the_system_itself_stops_a_file(tmp_path, release_format):
    """No stand-in: the kernel cuts files off at 20 kB, in the middle of a shard, and each format's writer says so."""
    leaves = {"release.formats": (release_format,), "release.shard_size": 20}
    whole = contents(
        encode_into(tmp_path, "whole", **leaves).workdir
    )  # and compiled, so that no program is cut off where JAX keeps it
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        line = told(tmp_path, "run", **leaves)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert line.startswith(f"larger than a file may be here while writing {tmp_path}/run/releases/{release_format}/")
    assert not contents(tmp_path / "run") and not list(tmp_path.rglob("*.partial"))
    assert contents(encode_into(tmp_path, "run", **leaves).workdir) == whole


def test_a_workdir_that_cannot_be_is_told(tmp_path):
    """Below a file there is no folder."""
    (tmp_path / "file").write_text("")
    line = told(tmp_path, "file/run", **FORMATS)
    assert line == f"workdir {tmp_path}/file/run: cannot write (Not a directory); give another --workdir"


@pytest.mark.parametrize("name", ["releases", "progress", "private"])
def test_a_file_where_a_folder_must_be_is_told(unbroken, tmp_path, name):
    """With its path; when it is out of the way the run goes on."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("")
    line = told(tmp_path, "run", **FORMATS)
    assert f" while writing {tmp_path}/run/{name}/" in line
    (tmp_path / "run" / name).unlink()
    assert contents(encode_into(tmp_path, "run", **FORMATS).workdir) == unbroken


# --- Two at once, and a source that changes ---


HOLD = """
import pathlib, sys
from ne_jax.stages import multihost
lock = multihost.lock(pathlib.Path(sys.argv[1]))
print("locked", flush=True)
input()
"""


def test_two_runs_in_one_workdir(unbroken, tmp_path):
    """The second is refused before it writes anything; when the first is gone it goes on."""
    (tmp_path / "run").mkdir()
    hold = [jobs.sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(hold, cwd=jobs.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline()
        line = told(tmp_path, "run", **FORMATS)
        assert line == f"workdir {tmp_path}/run: another run is at work in it; wait for it, or give another --workdir"
        assert os.listdir(tmp_path / "run") == ["lock-0"]
        first.communicate(b"\n")
    assert contents(encode_into(tmp_path, "run", **FORMATS).workdir) == unbroken


def test_a_lock_is_let_go_with_its_job(tmp_path):
    """A run that failed, and one that is done with, leave the workdir to the next one of the same process."""
    with (
        pytest.raises(UserError, match="no such folder"),
        opened(tmp_path, "run", **{"data.kind": "folder", "data.path": "/no"}),
    ):
        pass
    multihost.lock(tmp_path / "run").close()


def pictures(folder, *names):
    """Small pictures, all different, of the kind that a name's ending says."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (40, 30), np.uint8)
        Image.fromarray(noise).save(folder / name)
    return {"data.kind": "folder", "data.path": str(folder), "data.limit": 0}


CHANGES = {
    "added": (lambda folder: pictures(folder, "cat/new.png"), r"1 new \(cat/new\)"),
    "removed": (lambda folder: (folder / "dog/9.png").unlink(), r"1 gone \(dog/9\)"),
    "renamed": (
        lambda folder: (folder / "cat/1.png").rename(folder / "cat/one.png"),
        r"1 gone \(cat/1\), 1 new \(cat/one\)",
    ),
}


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changed_is_told(tmp_path, monkeypatch, change, opaque):
    """Between a kill and the next run: what was added, removed or renamed is named; with the source back, the run goes on."""
    folder, (make, part) = tmp_path / "images", CHANGES[change]
    leaves = pictures(folder, *(f"{kind}/{index}.png" for kind in ("cat", "dog") for index in range(10)))
    leaves |= {"release.formats": ("float32",), "release.opaque_names": opaque}
    whole = contents(encode_into(tmp_path, "whole", **leaves).workdir)
    kept = encode._write_shard

    def dies(job, shard, pool):
        if shard.number == 1:
            raise KeyboardInterrupt
        kept(job, shard, pool)

    monkeypatch.setattr(encode, "_write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        encode_into(tmp_path, "run", **leaves)
    monkeypatch.undo()
    make(folder)
    with pytest.raises(
        UserError, match=f"^the data source changed since this workdir was made: {part}; restore it, or give"
    ):
        encode_into(tmp_path, "run", **leaves)
    for path in folder.rglob("*e*.png"):  # new, one
        path.unlink()
    pictures(folder, "cat/1.png", "dog/9.png")
    assert contents(encode_into(tmp_path, "run", **leaves).workdir) == whole


def test_a_workdir_among_the_images_is_refused(tmp_path):
    """Its files would be read as images, and change the source with each run."""
    leaves = pictures(tmp_path / "images", "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    for name in ("images", "images/run", "link/run"):
        assert f"workdir {tmp_path}/{name} lies in data.path {tmp_path}/images" in told(tmp_path, name, **leaves)
    assert os.listdir(tmp_path / "images") == ["a.png"]


# --- Images ---


def png_header(width: int, height: int) -> bytes:
    """A PNG of 1 bit a pixel that ends after its header."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def huge_png(side: int) -> bytes:
    """A whole, black one."""
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(side // 8 + 1)) for _ in range(side)) + packer.flush()
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IDAT", data), (b"IEND", b""))
    )
    return png_header(side, side) + chunks


def cut_jpeg() -> bytes:
    """Half of one, with the mark of its end: without libjpeg's warning it would be a picture that is grey below."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "JPEG")
    return file.getvalue()[:-1500] + b"\xff\xd9"


def broken_folder(tmp_path) -> tuple[dict, dict]:
    """Good pictures among everything that people's folders hold; the config, and what is told of each that is left out."""
    folder = tmp_path / "images"
    leaves = pictures(folder, "good 1.png", "good 2.jpg", "sub/good 3.webp", "tar.gz.png")
    Image.new("L", (1, 1), 77).save(folder / "one pixel.png")
    whole = (folder / "good 1.png").read_bytes()
    (folder / "outside.png").write_bytes(whole)
    (folder / "outside.png").rename(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    wrong = {
        "empty.png": b"", "truncated.png": whole[: len(whole) // 2], "notes.txt": b"no image", "large.png": huge_png(20_000),
        "bomb.png": png_header(100_000, 100_000) + whole[33:], os.fsdecode(b"caf\xe9.png"): whole, "cut and ended.jpg": cut_jpeg(),
        "raw.dng": tiff(np.zeros((12, 16, 3), int), 8, 2, tags={254: (4, [1])}),
    }  # fmt: skip
    for name, data in wrong.items():
        (folder / name).write_bytes(data)
    reasons = {
        "empty.png": "empty file", "truncated.png": "", "notes.txt": "not an image", "link.png": "a symbolic link out of the folder",
        "large.png": "20000 x 20000 pixels, more than data.max_megapixels = 100 allows", "gone.png": "no such file",
        "bomb.png": "100000 x 100000 pixels, more than", "caf\\xe9.png": "the name is not UTF-8", "pipe.png": "not a file",
        "cut and ended.jpg": "a damaged JPEG (premature end of data segment)", "raw.dng": "a reduced picture of a larger one in the file",
    }  # fmt: skip
    return leaves, reasons


def test_images_that_cannot_be_read_are_skipped_and_named(tmp_path):
    """Each with its path and reason, in one line; every good image is released, in every format."""
    leaves, reasons = broken_folder(tmp_path)
    with opened(tmp_path, "run", **leaves, **{"release.formats": jobs.EVERY_FORMAT, "release.shard_size": 3}) as job:
        assert encode.run(job) == len(reasons) == 11
    problems = json.loads((tmp_path / "run" / "problems.json").read_text())
    assert len(problems) == 11 and not [line for line in problems if "\n" in line]
    for name, reason in reasons.items():
        start = f"{tmp_path}/images/{name}: "
        assert [line for line in problems if line.startswith(start + reason)], (name, problems)
    good = ["good 1", "good 2", "one pixel", "sub/good 3", "tar.gz"]
    for name in jobs.EVERY_FORMAT:
        stored = rows(job, name)
        assert list(stored) == good and all(np.isfinite(image).all() for image in stored.values())


def test_names_that_would_be_one_are_kept_apart(tmp_path):
    """a.jpg, a.png and A.PNG become three files, on file systems that tell case apart and on those that do not."""
    leaves = pictures(tmp_path / "images", "a.jpg", "a.png", "A.PNG", "b.png", "sub/a.png")
    job = encode_into(tmp_path, "run", **leaves, **{"release.formats": jobs.EVERY_FORMAT})
    names = list(rows(job, "png8"))
    assert len({name.lower() for name in names}) == 5 and {"a.jpg", "b", "sub/a"} <= set(names)
    assert all(list(rows(job, name)) == names for name in jobs.EVERY_FORMAT)
    files = [path for path in job.release_dir("png8").rglob("*.png") if path.is_file()]
    assert len({str(path).lower() for path in files}) == 5
    by_pixels = {image.tobytes() for image in rows(job, "png8").values()}
    assert len(by_pixels) == 5  # none was written over another


def test_names_and_places_in_any_language(tmp_path):
    """Spaces, umlauts, other scripts and quotes in files, in data.path and in the workdir, through the command, in the plainest locale."""
    folder, names = tmp_path / "Bilder für Zoë", ["キツネ 1", "ein 'Wort'/ñandú", "sub dir/a&b;c"]
    leaves = pictures(folder, *(f"{name}.png" for name in names))
    leaves = jobs.small_leaves(tmp_path, **leaves, **{"release.formats": jobs.EVERY_FORMAT})
    config = jobs.write_config(tmp_path / "Einstellungen für mich.py", leaves)
    workdir = tmp_path / "mein Ordner – neu"
    (folder / "leer ü.png").write_bytes(b"")
    command = jobs.main(f"--config={config}", f"--workdir={workdir}", "--stage=encode", "--strict")
    done = jobs.run(command, LC_ALL="C", LANG="C")
    assert done.returncode == 1 and "1 of 4 images were skipped" in done.stderr and "Traceback" not in done.stderr
    assert sorted(str(path.relative_to(workdir / "releases/png8/images")) for path in workdir.rglob("*.png")) == sorted(
        f"{name}.png" for name in names
    )
    with opened(tmp_path, workdir.name, **{key: leaves[key] for key in leaves if key != "recode.secret_file"}) as job:
        assert all(sorted(rows(job, name)) == sorted(names) for name in jobs.EVERY_FORMAT)
    for name in jobs.EVERY_FORMAT:
        sums = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
        assert subprocess.run(sums, cwd=workdir / "releases" / name, check=False).returncode == 0


def test_a_source_with_no_image_at_all_is_told(tmp_path):
    """It is a mistake, not an empty release."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("no image")
    line = told(tmp_path, "run", **{"data.kind": "folder", "data.path": str(tmp_path / "images")})
    assert line == f"data: none of 1 sampled images can be read; the first: {tmp_path}/images/notes.txt: not an image"
    assert not contents(tmp_path / "run")


# --- Configs ---


MISTAKES = {
    "data.workers is -1; give at least 0": {"data.workers": -1},
    "batch_size is 0; give at least 1": {"batch_size": 0},
    "release.shard_size is 0; give at least 1": {"release.shard_size": 0},
    "recode.rounds is 0; give at least 1": {"recode.rounds": 0},
    "release.formats is ['jpeg']; choose from png8, float32, float16, array_record, webdataset": {
        "release.formats": ("jpeg",)
    },
    "release.formats is []; choose from png8": {"release.formats": ()},
    'recode.design "giuded" is unknown; choose auto, gaussian, boxed, hardened, contrastive, guided, deep, paper': {
        "recode.design": "giuded"
    },
    "recode.design paper leaves [0, 1], which png8 cannot hold": {"recode.design": "paper"},
    "recode.design gaussian leaves [0, 1], which webdataset cannot hold": {
        "recode.design": "gaussian", "release.formats": ("float32", "webdataset")
    },
    "release.keep_metadata: float32 has no place for EXIF; release png8 or webdataset only": {"release.keep_metadata": True},
    "recode.psnr_db is nan; give a number of dB": {"recode.psnr_db": float("nan")},
    "recode.psnr_db is -inf; give a number of dB": {"recode.psnr_db": float("-inf")},
}  # fmt: skip


@pytest.mark.parametrize("expected", MISTAKES)
def test_a_value_that_cannot_be_is_told(tmp_path, expected):
    """One line that names the leaf and what it may be, before anything is written."""
    leaves = {"release.formats": ("png8", "float32")} | MISTAKES[expected]
    assert told(tmp_path, "run", **leaves).startswith(expected) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ({"data.max_megapixels": 0.0}, "data.max_megapixels is 0.0; give more than 0"),
        (
            {"data.kind": "video"},
            'data.kind "video" is unknown; choose fashion_mnist, folder, webdataset, tfds, photos',
        ),
        ({"data.limit": -1}, "data.limit is -1; give at least 0"),
    ],
)
def test_a_source_that_cannot_be_is_told(tmp_path, leaves, expected):
    """The same for what the source would find."""
    assert told(tmp_path, "run", **leaves).startswith(expected)


@pytest.mark.parametrize("name", ["data.worker", "release.format", "release.opaque", "recode.strength"])
def test_a_leaf_that_does_not_exist_is_refused(name):
    """A typo in a config file is no silent new setting."""
    with pytest.raises(KeyError, match=name.rpartition(".")[2]):
        configs.default().update_from_flattened_dict({name: 1})


def test_workers_are_no_reason_for_another_workdir(tmp_path):
    """The number of threads may change between a kill and the next run; what decides the release may not."""
    encode_into(tmp_path, "run", **{"data.workers": 1, "release.formats": ("float32",)})
    encode_into(tmp_path, "run", **{"data.workers": 3, "release.formats": ("float32",), "batch_size": 11})
    config = small_config(tmp_path, **{"release.formats": ("float32",), "release.opaque_names": True})
    with pytest.raises(UserError, match="release.opaque_names: was False, is True"):
        open_job(config, tmp_path / "run")
