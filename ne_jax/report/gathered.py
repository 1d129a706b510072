"""What a report tells of: everything that stages wrote into a workdir, read once."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from ne_jax.errors import UserError
from ne_jax.files import read_json, read_json_lines
from ne_jax.measure.analysis_records import Analysis
from ne_jax.measure.records import Attacked, Growth, NotRun, Result
from ne_jax.release.certificates import SetCertificate
from ne_jax.stages import analyse, attack
from ne_jax.stages.check import SUMMARY
from ne_jax.stages.evaluate import CURVE, RESULTS
from ne_jax.stages.inspect_model import INSPECTION, Inspection


class Gathered(NamedTuple):
    """What stages found. attacked: by our attacks, and by stronger ones that others sent. analysis: None where stage analyse did not
    run; where attack did not, its lists are empty."""

    inspected: Inspection
    summary: dict[str, SetCertificate]
    records: list[Result]
    curve: list[Result]
    attacked: list[Attacked]
    grid: list[Attacked]
    growth: list[Growth]
    not_run: list[NotRun]
    analysis: Analysis | None


def gather(workdir: pathlib.Path, external: str) -> Gathered:
    """`external`: a file of attacks by others; empty for none. Raises UserError that names the stage to run first, or the line of a
    file that is wrong."""
    not_run, analysis = workdir / attack.NOT_RUN, workdir / analyse.ANALYSIS
    return Gathered(
        inspected=read_json(_needed(workdir, INSPECTION, "inspect"), Inspection),
        summary=read_json(_needed(workdir, SUMMARY, "check"), dict[str, SetCertificate]),
        records=read_json_lines(_needed(workdir, RESULTS, "evaluate"), Result),
        curve=read_json_lines(_needed(workdir, CURVE, "evaluate"), Result),
        attacked=_lines(workdir / attack.RESULTS, Attacked) + _sent(external),
        grid=_lines(workdir / attack.PREPROCESSING, Attacked),
        growth=_lines(workdir / attack.CURVES, Growth),
        not_run=read_json(not_run, list[NotRun]) if not_run.is_file() else [],
        analysis=read_json(analysis, Analysis) if analysis.is_file() else None,
    )


def _needed(workdir: pathlib.Path, name: str, stage: str) -> pathlib.Path:
    path = workdir / name
    if not path.is_file():
        raise UserError(f"{path}: no such file; run --stage={stage} first")
    return path


def _lines(path: pathlib.Path, kind: type) -> list:
    return read_json_lines(path, kind) if path.is_file() else []


def _sent(external: str) -> list[Attacked]:
    if external and not pathlib.Path(external).is_file():
        raise UserError(f"attack.external {external}: no such file; give a file of JSON lines, or nothing")
    return _lines(pathlib.Path(external), Attacked) if external else []
