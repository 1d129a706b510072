"""Several processes, on one machine or many, that make one release: each takes a share of the shards, in a workdir that all see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import weakref
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from ne_jax.errors import UserError

_DAY = 24 * 3600


def start(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Join the other processes; before anything else of JAX. Without arguments the cluster's own environment tells (SLURM, TPU pods,
    Kubernetes, Open MPI); else `coordinator` is HOST:PORT of process 0. Raises UserError where that cannot be.
    """
    host, _, port = (coordinator or "").rpartition(":")
    if coordinator is not None and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"--coordinator={coordinator}: give HOST:PORT of process 0, with a port from 1 to 65535")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from ending the process
    try:
        # A process that is done waits for the slowest; one that dies takes the others down, and the next start goes on.
        jax.distributed.initialize(coordinator, count, index, shutdown_timeout_seconds=_DAY)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--distributed: {reason}; give --coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from error


def share(count: int) -> range:
    """This process's of `count` numbered pieces of work."""
    return range(jax.process_index(), count, jax.process_count())


def several() -> bool:
    """Whether this is one of several processes."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this process does what is done once."""
    return jax.process_index() == 0


def wait_for_first(name: str) -> None:
    """Return when every process is here: what the first did before, all of them see."""
    if several():
        multihost_utils.sync_global_devices(name)


def agree(what: str, digest: bytes) -> None:
    """Raise UserError unless `digest` is the same in every process. For several processes only."""
    everyone = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    if (everyone != everyone[0]).any():
        raise UserError(f"the {jax.process_count()} processes do not have the same {what}; give each the same")


@contextlib.contextmanager
def one_at_a_time(workdir: pathlib.Path) -> Iterator[None]:
    """What is done inside, no other process does meanwhile."""
    path = workdir / "lock-publish"
    try:
        file = open(path, "w")  # noqa: SIM115  # closed below
    except OSError as error:
        raise UserError(
            f"{path}: cannot write ({error.strerror}); put that right and give the same command again"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Lock:
    """Keeps other runs out of a workdir until it is closed, nobody holds it any more, or the process ends in any way."""

    def __init__(self, descriptor: int):
        self.close = weakref.finalize(self, os.close, descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def lock(workdir: pathlib.Path) -> Lock:
    """Lock the workdir for this process of the run. Raises UserError if another run is in it."""
    descriptor = os.open(workdir / f"lock-{jax.process_index()}", os.O_RDWR | os.O_CREAT, 0o644)
    held = Lock(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        held.close()
        raise UserError(
            f"workdir {workdir}: another run is at work in it; wait for it, or give another --workdir"
        ) from error
    return held
