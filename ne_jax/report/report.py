"""Stage report: what was measured, as report.md and as report.html that needs no other file."""

from __future__ import annotations

import pathlib

from ne_jax.files import write_atomic
from ne_jax.report import page, pictures, sections
from ne_jax.report.gathered import gather
from ne_jax.stages.job import Job


def run(job: Job) -> pathlib.Path:
    """Write the figures, report.md and report.html; returns the path of the latter."""
    found = gather(job.workdir, job.config.attack.external)
    attack_pictures = pictures.draw(job, found)
    text = sections.text(job, found, attack_pictures)
    write_atomic(job.workdir / "report.md", text)
    path = job.workdir / "report.html"
    write_atomic(path, page.to_html(text, job.workdir))
    return path


def told(path: pathlib.Path) -> str:
    """What `run` wrote, for a terminal."""
    return f"report: {path}"
