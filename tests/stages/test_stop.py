"""Ctrl-C and SIGTERM: one line with the way to go on, the shell's exit status, nothing half-written, and the same bytes afterwards."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

from tests import jobs

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
LINE = "stopped; the same command goes on where it was"
# The main thread is in a call that no Python handler ends, and another one is in the middle of a file.
_HELD = """
import pathlib, sys, threading, time
from ne_jax import files
from ne_jax.stages import stop
stop.watch()
def write(partial):
    partial.write_text("half")
    print("under way", flush=True)
    time.sleep(60)
path = pathlib.Path(sys.argv[1])
threading.Thread(target=files.write_file, args=(path, write)).start()
held = threading.Lock()
held.acquire()
while True:
    try:
        held.acquire()
    except BaseException:
        pass
"""


def stopped(process: subprocess.Popen, number: signal.Signals) -> tuple[str, float]:
    """What a process that is sent `number` tells, and after how many seconds it is gone."""
    start = time.monotonic()
    process.send_signal(number)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()  # else a test that failed would wait for it
    assert process.returncode == STATUS[number] and "Traceback" not in err, err
    return err, time.monotonic() - start


@pytest.mark.parametrize("number", STATUS)
def test_whatever_threads_do_a_run_ends_at_once(tmp_path, number):
    """Though the main thread would swallow any exception; and the file that was half-written is gone."""
    with jobs.start(["python", "-c", _HELD, str(tmp_path / "file")]) as process:
        assert process.stdout.readline() == "under way\n" and os.listdir(tmp_path) == ["file.partial"]
        told, seconds = stopped(process, number)
    assert told == f"{LINE}\n" and seconds < 5 and not os.listdir(tmp_path)


@pytest.mark.parametrize("wait", [0.0, 0.4])
def test_ctrl_c_while_the_program_still_starts(tmp_path, wait):
    """Imports are no exception: from the first of them on, one line."""
    code = "import runpy, sys; from ne_jax.stages import stop; kept = stop.watch\n"
    code += "def watch():\n    kept()\n    print('watched', flush=True)\n"
    code += "stop.watch = watch; sys.argv[0] = 'main'; runpy.run_module('ne_jax.main', run_name='__main__')"
    words = ["python", "-c", code, "--config=configs/quickstart.py", f"--workdir={tmp_path}/run"]
    with jobs.start(words) as process:
        assert process.stdout.readline() == "watched\n"
        time.sleep(wait)
        assert stopped(process, signal.SIGINT)[0] == f"{LINE}\n"


def test_what_was_ignored_stays_ignored(tmp_path):
    """A run under nohup, or in the background of a script, is not ended by what its starter kept from it."""
    code = "import os, signal; from ne_jax.stages import stop\n"
    code += "signal.signal(signal.SIGINT, signal.SIG_IGN); stop.watch(); os.kill(os.getpid(), signal.SIGINT); print('goes on')"
    assert jobs.run(["python", "-c", code]).stdout == "goes on\n"


def test_a_stopped_encode_goes_on_to_the_same_bytes(tmp_path: pathlib.Path):
    """As after a kill, and it says so; --stage=verify, which keeps nothing, does not."""
    leaves = {"release.formats": ("png8", "float32"), "data.limit": 60, "release.shard_size": 4, "batch_size": 16}
    whole = jobs.contents(jobs.encode_into(tmp_path, "whole", **leaves).workdir)
    config = jobs.write_config(tmp_path / "config.py", jobs.small_leaves(tmp_path, **leaves))
    workdir = tmp_path / "run"
    with jobs.start(jobs.main(f"--config={config}", f"--workdir={workdir}", "--stage=encode")) as process:
        while not list(workdir.rglob("progress/*/*.json")):
            assert process.poll() is None, "it ended before it was stopped"
            time.sleep(0.005)
        told, _ = stopped(process, signal.SIGINT)
    assert told.splitlines()[-1] == LINE and not list(workdir.rglob("*.partial"))
    assert jobs.contents(workdir).items() < whole.items()
    assert jobs.contents(jobs.encode_into(tmp_path, "run", **leaves).workdir) == whole
    code = "from ne_jax.stages import stop; import time; stop.watch(); stop.begins_anew(); print(flush=True); time.sleep(60)"
    with jobs.start(["python", "-c", code]) as process:
        process.stdout.readline()
        assert stopped(process, signal.SIGTERM)[0] == "stopped\n"
