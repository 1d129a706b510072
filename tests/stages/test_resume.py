"""A run that is killed, anywhere, goes on where it was, to the very bytes of a run that was not (contract 7)."""

import os
import pathlib
import random
import signal
import time

import pytest

from ne_jax.stages import encode
from tests import jobs
from tests.jobs import contents, encode_into, opened

FORMATS = {"release.formats": ("png8", "array_record", "float32")}
SIXTY = FORMATS | {"data.limit": 60, "release.shard_size": 4, "batch_size": 16}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """20 images in shards of 8, without an accident."""
    return contents(encode_into(tmp_path_factory.mktemp("unbroken"), "run", **FORMATS).workdir)


def leftovers(workdir: pathlib.Path) -> list[pathlib.Path]:
    return list(workdir.rglob("*.partial"))


class Died(BaseException):
    """What stands for SIGKILL in this process: nothing catches it."""


def dies_at(monkeypatch, number: int) -> list[str]:
    """From the `number`th file on, none is put under its name and no leftover is cleared away. Gives what was, until then."""
    done, replace, unlink = [], os.replace, pathlib.Path.unlink

    def replaced(source, target):
        if len(done) + 1 >= number:
            raise Died
        replace(source, target)
        done.append(str(target))

    def unlinked(path, missing_ok=False):
        if len(done) + 1 < number:
            unlink(path, missing_ok)

    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(pathlib.Path, "unlink", unlinked)
    return done


@pytest.mark.parametrize("step", [16, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_may_end_at_any_file(unbroken, tmp_path, monkeypatch, step):
    """Before each so manieth of the files that a run writes: config, names, images, shards, records, sums, manifest, problems."""
    whole = dies_at(monkeypatch, 10_000)
    encode_into(tmp_path, "whole", **FORMATS)
    monkeypatch.undo()
    # config, names; 20 PNGs and twice 3 shards; 3 records, near copies, sums and a manifest of each format; two files of TFDS; problems
    assert len(whole) == 2 + 20 + 6 + 3 * 6 + 2 + 1
    left = 0
    for number in range(1, len(whole) + 1, step):
        dies_at(monkeypatch, number)
        with pytest.raises(Died):
            encode_into(tmp_path, f"{number}", **FORMATS)
        monkeypatch.undo()
        workdir = tmp_path / f"{number}"
        left += len(leftovers(workdir))
        for path in workdir.rglob("manifest.json"):  # complete is what is said to be
            assert all(
                contents(workdir).get(name) == digest for name, digest in unbroken.items() if path.parent.name in name
            )
        encode_into(tmp_path, f"{number}", **FORMATS)
        assert contents(workdir) == unbroken and not leftovers(workdir)
    assert left > 40 / step


def test_what_is_written_is_not_written_again(unbroken, tmp_path, monkeypatch):
    """Of two shards that were there, no file changes; one format of the third shard was there and stays, too."""
    dies_at(monkeypatch, 2 + 2 * (8 + 1 + 1 + 3) + 4 + 1 + 1)
    with pytest.raises(Died):
        encode_into(tmp_path, "run", **FORMATS)
    monkeypatch.undo()
    records = sorted((tmp_path / "run" / "progress").rglob("*.json"))
    assert [str(path.relative_to(tmp_path / "run" / "progress")) for path in records] == [
        *(f"array_record/0000{number}.json" for number in range(2)),
        *(f"float32/0000{number}.json" for number in range(2)),
        *(f"png8/0000{number}.json" for number in range(3)),
    ]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "releases").rglob("*") if path.is_file()}
    encode_into(tmp_path, "run", **FORMATS)
    after = {path: path.stat().st_mtime_ns for path in before if path.exists()}
    assert {path: time for path, time in before.items() if path.suffix != ".partial"} == after
    assert contents(tmp_path / "run") == unbroken


def test_what_is_written_is_not_recoded_again(tmp_path, monkeypatch):
    """Only images of missing shards are decoded and recoded."""
    with opened(tmp_path, "run", **FORMATS) as job:
        encode.run(job)
        for name in FORMATS["release.formats"]:
            (job.release_dir(name) / "manifest.json").unlink()
        job.record("png8", 1).unlink()
        seen, decoded = [], encode.sources.decoded
        monkeypatch.setattr(
            encode.sources,
            "decoded",
            lambda *given, **named: seen.append((given[2], named)) or decoded(*given, **named),
        )
        encode.run(job)
    taken = [list(indices) for indices, named in seen if named["ahead"] == job.config.batch_size]  # not the sample
    assert taken == [list(range(8, 16))]


DICE = random.Random(7)
NEARLY_ALL = 35  # of 45 records: a kill comes no later, however fast the machine is
ENDS = {
    "once": [("records", 3)],
    "often": [("records", 3), ("seconds", DICE.uniform(0.5, 4)), ("records", 25), ("seconds", DICE.uniform(2, 4))],
}


@pytest.mark.parametrize("ends", ["once", pytest.param("often", marks=pytest.mark.slow)])
def test_kill_9(tmp_path, ends):
    """The command itself, killed when some, and when many shards are there, and at random moments before; then left to end."""
    secret = jobs.small_leaves(tmp_path, **SIXTY)
    config, workdir = jobs.write_config(tmp_path / "config.py", secret), tmp_path / "killed"
    command = jobs.main(f"--config={config}", f"--workdir={workdir}", "--stage=encode")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    left = []
    for what, amount in ENDS[ends]:
        with jobs.start(command, **cache) as process:
            until = time.monotonic() + (amount if what == "seconds" else 60)
            while time.monotonic() < until and process.poll() is None:
                written = len(list(workdir.rglob("progress/*/*.json")))
                if written >= (amount if what == "records" else NEARLY_ALL):
                    break
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        left.append(len(list(workdir.rglob("progress/*/*.json"))))
        assert process.returncode == -signal.SIGKILL
    assert left == sorted(left) and 3 <= left[0] <= left[-1] < 45 and (ends == "once" or left[2] >= 25)
    done = jobs.run(command, **cache)
    assert done.returncode == 0, done.stderr
    assert contents(workdir) == contents(encode_into(tmp_path, "whole", **SIXTY).workdir)
    assert not leftovers(workdir)
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("releases/**/*") if path.is_file()}
    encode_into(tmp_path, "killed", **SIXTY)
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("releases/**/*") if path.is_file()}
