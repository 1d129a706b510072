"""Several processes: their shares, their agreement, their locks, and the launcher of this machine."""

import os
import signal
import subprocess
import threading
import time

import jax
import numpy as np
import pytest

from ne_jax.errors import UserError
from ne_jax.stages import multihost
from tests import jobs

LAUNCHER = ["bash", "scripts/launch_local.sh"]


@pytest.mark.parametrize("count", [0, 1, 5, 12])
@pytest.mark.parametrize("several", [1, 2, 5])
def test_shares_are_all_of_it_and_no_more(monkeypatch, count, several):
    """Every piece of work has one process, and shares differ by one piece at most."""
    monkeypatch.setattr(jax, "process_count", lambda: several)
    shares = []
    for index in range(several):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        shares.append(list(multihost.share(count)))
        assert multihost.first() == (index == 0) and multihost.several() == (several > 1)
    assert sorted(number for share in shares for number in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_difference_between_processes_is_told(monkeypatch):
    """What must be the same everywhere, and is not in one process, is named in each."""
    one, other = bytes(32), bytes(31) + b"x"
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    for everyone, same in (([one, one, one], True), ([one, one, other], False), ([other, one, one], False)):
        gathered = np.stack([np.frombuffer(digest, np.uint8) for digest in everyone])
        monkeypatch.setattr(multihost.multihost_utils, "process_allgather", lambda _, gathered=gathered: gathered)
        if same:
            multihost.agree("secret", one)
        else:
            with pytest.raises(UserError, match="^the 3 processes do not have the same secret; give each the same$"):
                multihost.agree("secret", one)


START = """
from ne_jax.stages import multihost
from ne_jax.errors import UserError
for arguments in ((), ("here", 1, 0), ("here:", 1, 0), (":123", 1, 0), ("here:0", 1, 0), ("here:99999", 1, 0), ("here:1234", 2),
                  ("here:1234", 2, 2)):
    try:
        multihost.start(*arguments)
    except UserError as error:
        print(error)
"""


def test_processes_that_cannot_be_joined_are_told():
    """Outside of a cluster, without an address, a port or a number: one line each that says what to give."""
    done = jobs.run(["python", "-c", START])
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 8 and told[0].startswith("--distributed: ") and "give --coordinator=HOST:PORT" in told[0]
    for line, address in zip(told[1:6], ("here", "here:", ":123", "here:0", "here:99999"), strict=True):
        assert line == f"--coordinator={address}: give HOST:PORT of process 0, with a port from 1 to 65535"
    assert all("--process_id=I" in line for line in told[6:])


# --- Locks ---


HOLD = """
import pathlib, sys, time
from ne_jax.stages import multihost
lock = multihost.lock(pathlib.Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""


def test_a_lock_ends_with_its_process(tmp_path):
    """A second run is refused while the first is in, and let in when it was killed, whatever it left."""
    with jobs.start(["python", "-c", HOLD, str(tmp_path)]) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"^workdir {tmp_path}: another run is at work in it; wait for it, or"):
            multihost.lock(tmp_path)
        process.kill()
    multihost.lock(tmp_path).close()


def test_a_lock_is_for_each_process_of_a_job(tmp_path, monkeypatch):
    """Processes of one job are in a workdir together; a second process 1 is not let in."""
    with multihost.lock(tmp_path):
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        with multihost.lock(tmp_path), pytest.raises(UserError, match="another run"):
            multihost.lock(tmp_path)


def test_one_at_a_time(tmp_path):
    """What is done once is not begun while another does it; a failure lets the next one in."""
    inside, seen = [], []

    def work(fail: bool) -> None:
        try:
            with multihost.one_at_a_time(tmp_path):
                inside.append(1)
                time.sleep(0.01)
                seen.append(len(inside))
                inside.pop()
                if fail:
                    raise ValueError
        except ValueError:
            pass

    threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 6


def test_a_lock_that_cannot_be_made_is_told(tmp_path):
    """One line that names the file."""
    with (
        pytest.raises(UserError, match=f"^{tmp_path}/none/lock-publish: cannot write"),
        multihost.one_at_a_time(tmp_path / "none"),
    ):
        pass


# --- The launcher ---


FAKE = """#!/usr/bin/env bash
# Stands for python: prints a port, or does in process I what the test wants.
[ "$1" = -c ] && { echo 1234; exit; }
index=${6#--process_id=}
echo "$@" > "$TMP_PLACE/arguments-$index"
echo $$ > "$TMP_PLACE/pid-$index"
[ "$index" = 1 ] && { echo told >&2; until [ -e "$TMP_PLACE/pid-0" ] && [ -e "$TMP_PLACE/pid-2" ]; do sleep 0.01; done; exit "$STATUS"; }
[ "$STATUS" = 0 ] || exec sleep 60
"""


@pytest.fixture
def fake(tmp_path):
    """launch_local.sh with a stand-in for Python, of which process 1 ends with a status."""
    (tmp_path / "python").write_text(FAKE)
    (tmp_path / "python").chmod(0o755)

    def launch(*arguments: str, status: int = 0) -> subprocess.Popen:
        places = {"PYTHON": str(tmp_path / "python"), "TMP_PLACE": str(tmp_path), "STATUS": str(status)}
        return jobs.start([*LAUNCHER, *arguments], **places)

    return launch


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_launcher_gives_each_process_its_number(fake, tmp_path):
    """One address, the count, a number each, and the arguments as they are, spaces and all; what they say is theirs to see."""
    with fake("3", "--workdir=a place", "--stage=encode") as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "[1] told" in err
    for index in range(3):
        given = (tmp_path / f"arguments-{index}").read_text().strip()
        expected = f"--num_processes=3 --process_id={index} --workdir=a place --stage=encode"
        assert given == f"-m ne_jax.main --distributed --coordinator=127.0.0.1:1234 {expected}"


def test_the_launcher_ends_all_with_the_first_that_fails(fake, tmp_path):
    """Nobody waits for a process that is gone; the status is its own."""
    with fake("3", status=7) as process:
        process.communicate(timeout=30)
    assert process.returncode == 7
    assert not [index for index in (0, 2) if alive(int((tmp_path / f"pid-{index}").read_text()))]


def test_the_launcher_takes_its_processes_with_it(fake, tmp_path):
    """Ctrl-C, or the end of a session, leaves nothing at work."""
    (tmp_path / "python").write_text(FAKE.replace("echo told >&2;", "exec sleep 60;"))
    with fake("2", status=1) as process:
        deadline = time.monotonic() + 20
        while not all((tmp_path / f"pid-{index}").exists() for index in range(2)) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert not [index for index in range(2) if alive(int((tmp_path / f"pid-{index}").read_text()))]


@pytest.mark.parametrize("arguments", [[], ["0"], ["two"], ["--config=configs/quickstart.py"]])
def test_the_launcher_asks_for_a_number(arguments):
    """A forgotten count is told with an example."""
    done = jobs.run([*LAUNCHER, *arguments])
    assert done.returncode == 2 and done.stderr.startswith("error: give the number of processes first: bash scripts/")
