"""Whose a workdir is: one run's at a time, and one config's from its first file of a release on."""

from __future__ import annotations

import os
import pathlib

from ne_jax import config as configs
from ne_jax import files
from ne_jax.errors import UserError
from ne_jax.release import owner_files
from ne_jax.stages import multihost

CONFIG = "config.json"
# What stages write of a config before anything is released.
_OF_A_CONFIG = ("inspect.json", "analysis.json")
_NAMES = f"private/{owner_files.NAMES}"


def lock(config: configs.Config, workdir: pathlib.Path) -> multihost.Lock:
    """Lock the workdir; refuse one that another run is in, or that is among the images."""
    images = config.data.path
    if config.data.kind == "folder" and images and _real(workdir).is_relative_to(_real(images)):
        raise UserError(
            f"workdir {workdir} lies in data.path {images}, so its files would pass for images; give another"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        return multihost.lock(workdir)
    except OSError as error:
        raise UserError(f"workdir {workdir}: cannot write ({error.strerror}); give another --workdir") from error


def is_known(config: configs.Config, workdir: pathlib.Path) -> bool:
    """Whether the workdir was opened before with this very config. Raises UserError if it holds files of a release that another
    config made."""
    stored = _stored(workdir)
    difference = None if stored is None else configs.first_difference(stored, config)
    if difference and _is_begun(workdir):
        raise UserError(f"workdir {workdir} was made with another config ({difference}); give another --workdir")
    return stored == configs.leaves(config)


def claim(config: configs.Config, workdir: pathlib.Path) -> None:
    """Write the config into the workdir, for which it was found to be good. Where nothing is released yet, what was written of another
    config or of other images goes."""
    stored = _stored(workdir)
    if stored is not None and not _is_begun(workdir):
        other = configs.first_difference(stored, config) is not None
        for name in (_NAMES, *(_OF_A_CONFIG if other else ())):
            (workdir / name).unlink(missing_ok=True)
    files.write_json(workdir / CONFIG, configs.leaves(config))


def _stored(workdir: pathlib.Path) -> dict | None:
    path = workdir / CONFIG
    return files.read_json(path, dict) if path.is_file() else None


def _is_begun(workdir: pathlib.Path) -> bool:
    found = (path for part in ("releases", "progress") for path in (workdir / part).rglob("*"))
    return any(path.is_file() for path in found)


def _real(path: pathlib.Path | str) -> pathlib.Path:
    return pathlib.Path(os.path.realpath(path))
