"""The report's section on why a release works: what the records say, in words, tables and pictures."""

from __future__ import annotations

import re

import pytest
from msgspec import structs
from PIL import Image

from ne_jax.measure.analysis_records import (
    AlignmentRow,
    Analysis,
    Chance,
    CorrelationRow,
    DepthRow,
    Depths,
    Link,
    LinkRow,
    PairRow,
    PreparationRow,
    SpectrumRow,
    Tenth,
)
from ne_jax.measure.spectra_and_angles import Correlation
from ne_jax.report import analysis_section, page

CURVE = [0.5, 1.0]


def alignment(unit: str) -> dict:
    """What rows of alignment and of preparations have in common, of two directions."""
    sizes = {
        "directions": 2,
        "rank": 2,
        "images": 12,
        "windows": 3000,
        "total_variance": 0.125,
        "data_effective_rank": 1.5,
    }
    curves = {"places": [1, 2], "most": CURVE, "variances": [0.1, 0.025], "variance": CURVE, "overlap": CURVE}
    return {"unit": unit, **sizes, **curves}


def pair(noise_for: str, reader: str, gain: float | None, **angles) -> PairRow:
    return PairRow(
        noise_for=noise_for, reader=reader, draws=7, measured_gain=0.5, measured_ci95=(0.25, 0.75), measured_energy=3.0,
        relative_gain=gain, **angles,
    )  # fmt: skip


def text(found: Analysis) -> str:
    """The section in Markdown."""
    return page.render("analysis", analysis_section.section(found))


@pytest.fixture
def found() -> Analysis:
    """Two models; b has no subspace, and windows of another form than a."""
    spectrum = {"directions": 2, "rank": 1, "sigma_1": 4.0, "effective_rank": 1.5, "flatness": 0.75}
    tenth = Tenth(
        directions=1, most=0.8, variance=0.5, overlap=0.25, random_variance=(0.25, 0.375), random_overlap=(0.125, 0.5)
    )
    chance = Chance(draws=5, variance=(CURVE, CURVE), overlap=(CURVE, CURVE))
    units = {"a": "patch", "b": "window"}
    strong = Correlation(value=0.875, interval=(0.5, 0.96), n=6)
    link = [
        CorrelationRow(predictor=one, pairs="all", target=other, pearson=strong, spearman=Correlation(value=None, interval=None, n=6))
        for one in ("spectral_gap", "exact_energy")
        for other in ("measured_energy", "measured_gain")
    ]  # fmt: skip
    row = LinkRow(
        noise_for="a", reader="b", measured_energy=3.0, measured_gain=0.5, same_windows=False, spectral_gap=2.0, exact_energy=None
    )  # fmt: skip
    depth = DepthRow(
        depth=0, name="first layer", outputs=3, numbers=5, largest=[[4.0, 2.0]], residual=1e-6, stable_rank=[9.0], subspace_gain=[0.0]
    )  # fmt: skip
    return Analysis(
        authorized="a",
        rule="relative 0.01",
        images=12,
        without_subspace={"b": "no low-sensitivity direction"},
        spectra={name: SpectrumRow(unit=unit, places=[1, 2], singular_values=[4.0, 0.0], **spectrum) for name, unit in units.items()},
        alignment={name: AlignmentRow(**alignment(unit), tenth=tenth, random=chance) for name, unit in units.items()},
        pairs=[pair("a", "a", 0.5, exposure=0.0, exposure_by_chance=0.5, cosines=[1.0, 1.0]), pair("a", "b", None)],
        preparations={"clean": PreparationRow(**alignment("patch"), tenth=tenth, energy_in_subspace=0.125)},
        depths=Depths(rows=[depth]),
        link=Link(pairs=[row], correlations=link),
    )  # fmt: skip


def test_every_figure_of_the_text_is_drawn(found, tmp_path):
    """With a description for those who do not see it; also from what was read back."""
    stored = Analysis.from_json(found.to_json(), "here")
    assert stored == found
    analysis_section.draw(tmp_path / "figures", stored)
    shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", text(stored))
    assert len(shown) == 6
    for alternative, path in shown:
        with Image.open(tmp_path / path) as picture:
            assert len(alternative) > 30 and min(picture.size) > 200


def test_the_tables_say_what_the_records_say(found):
    """A row of each table; what a pair has not is a dash, and so is a correlation that there is not."""
    lines = text(found).splitlines()
    rows = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("|")}
    for cells in (
        ("b", "flattened windows", "1 of 2", "1.5", "0.750", "4"),
        ("a", "1 of 2", "3,000", "50.0%", "25.0% to 37.5%", "80.0%", "25.0%", "12.5% to 50.0%"),
        ("a", "a", "0.5 [0.25, 0.75]", "0.5", "0", "0.5"),
        ("a", "b", "0.5 [0.25, 0.75]", "-", "-", "-"),
        ("clean", "0.125", "1.5", "50.00%", "25.00%", "12.50%"),
        ("first layer", "2 of 5", "4", "0.5", "9", "0", "1e-06"),
        ("exact trace", "energy", "all", "6", "0.88 [0.50, 0.96]", "-"),
    ):
        assert cells in rows


def test_what_is_missing_is_said_with_its_reason(found, tmp_path):
    """A model without a subspace, and a network whose inner layers cannot be measured: no figure of them either."""
    assert "- b has no subspace here: no low-sensitivity direction" in text(found).splitlines()
    without = structs.replace(found, depths=Depths(left_out="a is no Flax network"))
    analysis_section.draw(tmp_path, without)
    said = text(without)
    assert "Not measured: a is no Flax network." in said and "depths.png" not in said
    assert not (tmp_path / "depths.png").exists()
