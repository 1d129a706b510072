"""Which images the report shows, and everything that it draws."""

from __future__ import annotations

import pathlib

import numpy as np

from ne_jax.core.pixels import from_bytes
from ne_jax.core.subspace import remove_subspace
from ne_jax.measure.records import Attacked
from ne_jax.report import analysis_section, attack_sections, figures
from ne_jax.report.gathered import Gathered
from ne_jax.stages.attack import pictures_of
from ne_jax.stages.job import Job
from ne_jax.stages.pairs import pairs

_CAPTION = 20  # letters that fit beside a picture


def draw(job: Job, found: Gathered) -> bool:
    """All figures, into the workdir; False where no attack gives images to show."""
    folder = job.workdir / "figures"
    _release(job, folder / "pictures.png")
    figures.spectrum(folder / "spectrum.png", found.inspected)
    if found.curve:
        figures.curve(folder / "curve.png", found.curve)
    if found.growth:
        figures.growth(folder / "attack_curves.png", found.growth)
    if found.analysis is not None:
        analysis_section.draw(folder, found.analysis)
    return bool(found.attacked) and _attacks(job, found.attacked, folder / "attacks.png")


def _release(job: Job, path: pathlib.Path) -> None:
    """clean | NE of each format | what the authorized model effectively sees of the last one."""
    columns: dict[str, np.ndarray] = {}
    for name in job.config.release.formats:
        pair = next(pairs(job, name, limit=job.config.report.pictures))
        columns.setdefault("clean", from_bytes(pair.clean[: pair.kept]))
        columns[f"NE, {name}\n({job.design(name).name})"] = pair.stored[: pair.kept]
    seen = remove_subspace(pair.stored[: pair.kept], job.space)
    columns["what the authorized\nmodel sees of it"] = np.asarray(seen)
    figures.pictures(path, columns, _captions(pair.names))


def _attacks(job: Job, attacked: list[Attacked], path: pathlib.Path) -> bool:
    """clean | NE | the best attack of each kind, of the last release; False where no attack gives images."""
    name = job.config.release.formats[-1]
    pair = next(pairs(job, name, limit=job.config.report.pictures))
    columns = {"clean": from_bytes(pair.clean[: pair.kept]), f"NE, {name}": pair.stored[: pair.kept]}
    shown = [row for row in attacked if pictures_of(job, name, row.attack).is_file()]
    for tier in (1, 2, 3, 4):
        row = attack_sections.worst(shown, name, (tier,))
        if row:
            images = np.load(pictures_of(job, name, row.attack), allow_pickle=False)
            columns[f"tier {tier}:\n{attack_sections.title(row.attack)}"] = from_bytes(images)
    count = min(map(len, columns.values()))
    figures.pictures(path, {title: images[:count] for title, images in columns.items()}, _captions(pair.names[:count]))
    return len(columns) > 2


def _captions(names: list[str]) -> list[str]:
    return [name if len(name) <= _CAPTION else name.rsplit("/", 1)[-1] for name in names]
