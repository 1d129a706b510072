"""What a stage takes beside models and images, looked for before these are opened: importing this module takes no time."""

from __future__ import annotations

import pathlib

from ne_jax.config import Config
from ne_jax.errors import UserError

_OF_A_RELEASE = ("check", "evaluate", "attack")
# What the report reads -> the stage that writes it.
_OF_THE_REPORT = {
    "inspect.json": "inspect",
    "check.json": "check",
    "results.jsonl": "evaluate",
    "curve.jsonl": "evaluate",
}


def look(stage: str, config: Config, workdir: pathlib.Path) -> None:
    """Raise UserError for what `stage`, or one of "all", would miss at its start or after hours: what a former stage writes, an attack
    that there is none of, a file of others' attacks or another release that is not there."""
    for name in config.release.formats if stage in _OF_A_RELEASE else ():
        folder = workdir / "releases" / name
        if not (folder / "manifest.json").is_file():
            raise UserError(f"{folder}: no manifest.json, so no complete release; run --stage=encode first")
    for name, first in _OF_THE_REPORT.items() if stage == "report" else ():
        if not (workdir / name).is_file():
            raise UserError(f"{workdir / name}: no such file; run --stage={first} first")
    if config.attack.only and stage in ("attack", "all"):
        from ne_jax.stages.attack import wanted

        wanted(config.attack.only)
    other = config.attack.other
    if other and stage in ("attack", "all") and not (pathlib.Path(other) / "manifest.json").is_file():
        raise UserError(
            f"attack.other {other}: no manifest.json, so no complete release; give the folder of one, or nothing"
        )
    external = config.attack.external
    if external and stage in ("report", "all") and not pathlib.Path(external).is_file():
        raise UserError(f"attack.external {external}: no such file; give a file of JSON lines, or nothing")
