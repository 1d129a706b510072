"""Ctrl-C and SIGTERM end a run at once, in one line, with nothing half-written.

A thread of its own waits for them: Python's handlers run between two steps of the main thread, which may be in a compiler or a
decomposition for minutes, and what they raise there is lost in callbacks or comes out as some library's error.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_words = ["stopped", "the same command goes on where it was"]


def watch() -> None:
    """From now on the first of these signals tells that the run stopped and ends the process: 130 after Ctrl-C, 143 after SIGTERM.

    One that whoever started the process had it ignore, as nohup does, stays ignored. Call it once, in the main thread.
    """
    heard, write = os.pipe()
    os.set_blocking(write, False)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # so that it is written to the pipe
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(heard,), name="stop", daemon=True).start()


def begins_anew() -> None:
    """The same command would begin anew: say no more than that it stopped."""
    del _words[1:]


def _wait(heard: int) -> None:
    number = os.read(heard, 1)[0]
    while number not in _SIGNALS:
        number = os.read(heard, 1)[0]
    files, bars = sys.modules.get("ne_jax.files"), sys.modules.get("tqdm")  # what is not loaded has nothing under way
    if files is not None:
        files.abandon()
    below = "\n" if bars is not None and len(bars.tqdm._instances) else ""  # a bar's line has no end yet
    os.write(2, f"{below}{'; '.join(_words)}\n".encode())
    os._exit(128 + number)  # every thread with it, whatever it waits for
