"""Commands without a process of their own: what a person would see, without the seconds that imports and compilers take."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from unittest import mock

import absl.logging
from absl import flags
from absl.testing import flagsaver

from ne_jax.errors import UserError
from tests.jobs import ENVIRONMENT, ROOT


def call(*arguments: object) -> CompletedProcess:
    """The main job: what `jobs.run(jobs.main(*arguments))` gives."""
    from ne_jax import main  # its flags are in the way of scripts that have the same

    with mock.patch("ne_jax.stages.compilation_cache.use"):  # this process keeps its own options
        return finished(lambda words: main.main(main._parse(words)), *arguments)


def finished(run: Callable[[list[str]], None], *arguments: object) -> CompletedProcess:
    """What came of `run`, given the words of a command: its output, its status, and a mistake told in a line."""
    out, err, log = io.StringIO(), io.StringIO(), absl.logging.get_absl_logger()
    handler, status, words = logging.StreamHandler(err), 0, ["command", *map(str, arguments)]
    log.addHandler(handler)
    with (
        mock.patch.dict(os.environ, ENVIRONMENT),
        mock.patch.object(sys, "argv", words),  # where ml_collections looks for leaves of the config
        contextlib.chdir(ROOT),
        warnings.catch_warnings(),
        _flags(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.filterwarnings("ignore", "the load_module")  # of ml_collections' own
        try:
            run(words)
        except SystemExit as end:
            status = end.code
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
    log.removeHandler(handler)
    return CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _flags() -> Iterator[None]:
    """absl's flags as they were, afterwards, but for those that modules defined which were imported in between."""
    before = flagsaver.save_flag_values()
    try:
        yield
    finally:
        defined = flagsaver.save_flag_values()
        of_modules = {name: value for name, value in defined.items() if not name.startswith("config.")}
        flagsaver.restore_flag_values(of_modules | before)


@contextlib.contextmanager
def script(name: str) -> Iterator[types.ModuleType]:
    """The module of scripts/NAME.py. Its flags end with it, and those of the main job stand back for them meanwhile."""
    others = list(flags.FLAGS.flags_by_module_dict().get("ne_jax.main", []))
    for flag in others:
        delattr(flags.FLAGS, flag.name)
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    try:
        with mock.patch.dict(sys.modules, {name: module}):  # where dataclasses look for the annotations of their class
            spec.loader.exec_module(module)
            yield module
    finally:
        for flag in list(flags.FLAGS.flags_by_module_dict()[name]):
            delattr(flags.FLAGS, flag.name)
        for flag in others:
            flags.FLAGS[flag.name] = flag
            flags.FLAGS.register_flag_by_module("ne_jax.main", flag)
