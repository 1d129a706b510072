"""Stage encode: the same bytes however it is run, and what a release holds."""

import json
import threading
import weakref

import numpy as np
import pytest
from PIL import Image

from ne_jax.data import sources
from ne_jax.errors import UserError
from ne_jax.recoding import encode_batch
from ne_jax.release import manifest
from ne_jax.stages import check, encode, look_ahead
from ne_jax.stages.job import open_job
from tests import jobs
from tests.jobs import contents, encode_into, opened, rows, small_config

EVERY = {"release.formats": jobs.EVERY_FORMAT}
TWO = {"release.formats": ("png8", "float32")}  # a boxed one and a gaussian one


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """20 images in every format, in batches that end anywhere in a shard, decoded by one thread."""
    return encode_into(tmp_path_factory.mktemp("encode"), "first", batch_size=7, **EVERY, **{"data.workers": 1})


# --- Contract 4: the files depend on nothing but the config, the secret and the images ---


@pytest.mark.parametrize(("batch_size", "workers"), [(64, 4), (1, 2)])
def test_batches_and_threads_do_not_change_a_byte(encoded, tmp_path, batch_size, workers):
    """Every file of every format, with SHA256SUMS and the manifest."""
    other = encode_into(tmp_path, "other", batch_size=batch_size, **EVERY, **{"data.workers": workers})
    assert contents(other.workdir) == contents(encoded.workdir)
    assert len(contents(encoded.workdir)) == 20 + 4 * 3 + 5 * 2 + 2  # PNGs, shards, two files each, two of TFDS


def test_windows_that_overlap_are_no_exception(tmp_path):
    """The same for a stem whose noise is one of the whole image."""
    leaves = jobs.OVERLAPPING | TWO
    first = encode_into(tmp_path, "first", batch_size=7, **leaves, **{"data.workers": 1})
    other = encode_into(tmp_path, "other", batch_size=64, **leaves, **{"data.workers": 4})
    assert contents(other.workdir) == contents(first.workdir)


def test_order_and_company_do_not_change_an_image(encoded, tmp_path):
    """An image's NE does not depend on what stands before or beside it, on its name, or on the kind of source."""
    folder = tmp_path / "images"
    folder.mkdir()
    indices = [17, 9, 8, 3, 2, 0]
    for place, index in enumerate(indices):
        encoded.source.read(index).save(folder / f"{place:02d}.png")
    job = encode_into(tmp_path, "folder", **{"data.kind": "folder", "data.path": str(folder)}, **TWO)
    for name in job.config.release.formats:
        found, original = rows(job, name), rows(encoded, name)
        for place, index in enumerate(indices):
            np.testing.assert_array_equal(found[f"{place:02d}"], original[encoded.source.names[index]])


ON_DEVICES = {
    "boxed": {"data.limit": 114, "batch_size": 128, "release.formats": ("png8",)},  # a step for each of 8 devices
    "gaussian": {"data.limit": 40, "batch_size": 40, "release.formats": ("float32",)},
    "overlapping": {"data.limit": 40, "batch_size": 40, "release.formats": ("png8",)} | jobs.OVERLAPPING,
}
DEVICES = """
import pathlib, sys, jax
from tests import jobs
from tests.stages import test_encode
assert jax.device_count() == 8
jobs.encode_into(pathlib.Path(sys.argv[1]), "eight", **test_encode.ON_DEVICES[sys.argv[2]])
"""


@pytest.mark.parametrize(
    "name", ["boxed", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gaussian", "overlapping"))]
)
def test_many_devices_give_the_same_files(tmp_path, name):
    """One process over 8 devices (virtual ones of the CPU), against one device."""
    command = ["python", "-c", DEVICES, str(tmp_path), name]
    done = jobs.run(command, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "eight") == contents(encode_into(tmp_path, "one", **ON_DEVICES[name]).workdir)


def test_many_processes_give_the_same_files(encoded, tmp_path):
    """Two processes that share the shards, started as on a cluster, against one."""
    config = jobs.write_config(tmp_path / "config.py", jobs.small_leaves(tmp_path, **EVERY))
    launcher = ["bash", "scripts/launch_local.sh", "2", f"--config={config}", f"--workdir={tmp_path / 'two'}"]
    done = jobs.run([*launcher, "--stage=encode"], PYTHON=jobs.sys.executable)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "two") == contents(encoded.workdir)
    assert all(f"process {index} of 2: 100%" in done.stderr for index in range(2))
    assert not list((tmp_path / "two").rglob("*.partial"))


# --- What it costs ---


def test_one_program_a_kind_of_pixels(tmp_path):
    """The sample, whole batches and the last, partial one share a program; formats with the same pixels do, too."""
    before = encode_batch._step._cache_size()
    encode_into(tmp_path, "run", **EVERY, **{"recode.rounds": 29})  # 29 is of no other test
    assert encode_batch._step._cache_size() == before + 3  # boxed for 8 bits, gaussian for 32 and for 16


def test_memory_does_not_grow_with_the_set(tmp_path, monkeypatch):
    """While writing stands still, decoding stops a few batches ahead, and two shards at most hold pixels."""
    count, started, go_on = 200, threading.Event(), threading.Event()
    write, read, seen, held, shards = encode._write_shard, sources.Source.first, [], [], []

    class Shard(encode._Shard):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            shards.append(weakref.ref(self))

    def slow(job, shard, pool):
        started.set()
        assert go_on.wait(60)
        held.append(sum(bool(alive.images) for alive in (made() for made in shards) if alive))
        write(job, shard, pool)

    def watched(source, limit):
        taken = read(source, limit)
        return taken._replace(read=lambda index: seen.append(index) or taken.read(index))

    monkeypatch.setattr(encode, "_Shard", Shard)
    monkeypatch.setattr(encode, "_write_shard", slow)
    monkeypatch.setattr(sources.Source, "first", watched)
    leaves = {"data.limit": count, "batch_size": 10, "release.shard_size": 5, "data.workers": 2}
    with opened(tmp_path, "run", **leaves, **{"release.formats": ("float32",)}) as job:
        running = threading.Thread(target=encode.run, args=(job,))
        running.start()
        assert started.wait(60)
        before = -1
        while before != len(seen):  # until decoding stands still
            before = len(seen)
            go_on.wait(0.3)
        # 64 and 64 of the samples; two shards; two batches given to the devices; ahead of them a batch and twice the threads.
        assert len(seen) <= 64 + 64 + 10 + 20 + 10 + 4 + 2
        go_on.set()
        running.join()
    assert len(held) == len(shards) == 40 and 1 <= max(held) <= 2


# --- What a release holds ---


def test_a_finished_release_is_not_touched(encoded):
    """Running again changes no file, and says so."""
    files = {path: path.stat().st_mtime_ns for path in encoded.workdir.rglob("releases/**/*") if path.is_file()}
    encode_into(encoded.workdir.parent, "first", batch_size=9, **EVERY)
    assert files == {path: path.stat().st_mtime_ns for path in encoded.workdir.rglob("releases/**/*") if path.is_file()}


def test_realised_strength_is_in_the_manifest(encoded):
    """Contract 3: float32 is exactly at the PSNR asked, float16 nearly; 8 bits say what fitted."""
    for name in encoded.config.release.formats:
        kept = manifest.read_manifest(encoded.release_dir(name))
        clean = {
            row: np.asarray(encoded.source.read(i).resize((112, 112), 2), np.float32)[..., None] / 255
            for i, row in enumerate(encoded.source.names)
        }
        stored = rows(encoded, name)
        psnr = [-10 * np.log10(np.mean((stored[row].astype(np.float64) - clean[row]) ** 2)) for row in clean]
        expected = dict(zip(("min", "median", "max"), np.percentile(psnr, (0, 50, 100)), strict=True))
        assert kept.psnr_db_realised.to_json() == pytest.approx(expected, abs=1e-3)
        if name.startswith("float"):
            np.testing.assert_allclose(psnr, 0.0, atol={"float32": 1e-4, "float16": 1e-2}[name])


def test_a_strength_that_does_not_fit_is_refused(tmp_path):
    """The error says what can be reached, and a strength at that figure is accepted."""
    expected = r"recode.psnr_db=0 cannot be reached inside \[0, 1\]: the strongest that fits is .* dB"
    with pytest.raises(UserError, match=expected):
        encode_into(tmp_path, "strong", **{"recode.fit": False})
    job = encode_into(tmp_path, "weak", **{"recode.fit": False, "recode.psnr_db": 25.0})
    realised = manifest.read_manifest(job.release_dir("png8")).psnr_db_realised
    assert abs(realised.min - 25) < 0.1 and abs(realised.max - 25) < 0.1


def test_an_image_with_no_room_is_left_and_counted(tmp_path):
    """Where 8 bits hold no change the PSNR is infinite: the run goes on, and every file it writes stays JSON."""
    job = encode_into(tmp_path, "run", **{"recode.psnr_db": 75.0, "data.limit": 2, "release.formats": ("png8",)})
    kept = manifest.read_manifest(job.release_dir("png8"))
    assert kept.left_unchanged == 2 and kept.psnr_db_realised.median is None
    record = json.loads(job.record("png8", 0).read_text())
    assert record["psnr_db"] == [None, None] and all(share > 0 for share in record["edge_share"])
    summary = check.run(job)["png8"]
    assert summary.prediction_kept == 2 and summary.psnr_db_median is None
    assert summary.feature_cosine_min == pytest.approx(1)


def test_metadata_is_dropped_unless_asked_for(tmp_path):
    """Where a photograph was taken, by whom, and its colour profile reach no file by default; `keep_metadata` keeps them."""
    folder, exif, profile = tmp_path / "images", Image.Exif(), bytes(16) + b"GRAY" + b"my own profile" * 8
    folder.mkdir()
    exif[0x013B] = "the photographer"
    picture = Image.effect_noise((40, 40), 60)
    picture.save(folder / "a.png", exif=exif, icc_profile=profile)
    leaves = {"data.kind": "folder", "data.path": str(folder), "release.formats": ("png8", "webdataset")}
    dropped = encode_into(tmp_path, "dropped", **leaves)
    kept = encode_into(tmp_path, "kept", **leaves, **{"release.keep_metadata": True})
    with Image.open(kept.release_dir("png8") / "images" / "a.png") as stored:
        assert stored.getexif()[0x013B] == "the photographer" and stored.info["icc_profile"] == profile
    with Image.open(dropped.release_dir("png8") / "images" / "a.png") as stored:
        assert not stored.info
    tars = [(job.release_dir("webdataset") / "shards" / "00000.tar").read_bytes() for job in (kept, dropped)]
    assert [b"the photographer" in tar for tar in tars] == [True, False]
    for name in ("png8", "webdataset"):
        np.testing.assert_array_equal(rows(kept, name)["a"], rows(dropped, name)["a"])


def test_what_a_run_needs_is_told_before_it_starts(tmp_path, capsys, monkeypatch):
    """The size of each release, and a warning where the disk has less."""
    warned = []
    monkeypatch.setattr(look_ahead, "free_bytes", lambda path: 1_100_000)
    monkeypatch.setattr(encode.logging, "warning", lambda text, *values: warned.append(text % values))
    encode_into(tmp_path, "run", **TWO)
    told = capsys.readouterr().out
    assert "float32: about 1.01 MB for 20 images" in told and "png8: about 2" in told
    space, again = warned
    assert space.startswith(f"1.1 MB free in {tmp_path / 'run'}, about 1.2") and "in another artefact too" in again


def test_a_release_is_for_the_images_asked_for(tmp_path):
    """Broken images at the front of the source do not keep the rest from being released."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(70):
        (folder / f"{index:03d}.png").write_bytes(b"")
    Image.effect_noise((30, 30), 60).save(folder / "zebra.png")
    leaves = {"data.kind": "folder", "data.path": str(folder), "data.limit": 0, "release.formats": ("png8", "float32")}
    with opened(tmp_path, "run", **leaves) as job:
        assert encode.run(job) == 70
    assert list(rows(job, "png8")) == list(rows(job, "float32")) == ["zebra"]


def test_the_config_keeps_its_workdir(encoded):
    """Another config does not quietly change a release that was begun with the first."""
    config = small_config(encoded.workdir.parent, **EVERY, **{"recode.psnr_db": 3.0})
    with pytest.raises(UserError, match=r"made with another config \(recode.psnr_db: was 0.0, is 3.0\)"):
        open_job(config, encoded.workdir)
