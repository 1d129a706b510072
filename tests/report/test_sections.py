"""Sections of the report: predictions stand only where they are made, and a lonely release says so."""

from __future__ import annotations

from ne_jax.recoding.designs import DESIGNS
from ne_jax.release.certificates import ReaderDeviation, SetCertificate, StoredStatistics
from ne_jax.report import page, sections
from ne_jax.report.gathered import Gathered
from tests.rows import INSPECTED, RESULT

DEVIATION = ReaderDeviation(
    measured_over_predicted=16.3, relative_gain=0.5, below_lower_limit=0.0, above_upper_limit=1.0, limit_allows=0.05,
    spectral_gap_not_sufficient=2.0,
)  # fmt: skip
CERTIFIED = SetCertificate(
    n=20, bound_holds=20, feature_cosine_median=1.0, feature_cosine_min=0.999, psnr_db_median=6.2, feature_gap_median=0.1,
    feature_gap_expected=0.1, relative_gap_median=0.01, relative_gap_max=0.02, bound_median=0.3,
    stored=StoredStatistics(feature_norm=(1.0, 2.0, 3.0)), deviation={"vit_b": DEVIATION},
)  # fmt: skip


def certificates(**designs: str) -> str:
    rows = {name: DESIGNS[design] for name, design in designs.items()}
    return page.render("certificates", sections._certificates(rows, dict.fromkeys(designs, CERTIFIED)))


def test_a_prediction_is_printed_where_it_is_made():
    """For Gaussian noise: measured, predicted, and the shares outside of the limits."""
    text = certificates(float32="gaussian")
    assert (
        "measured / predicted" in text and "16.300" in text and "100.00%" in text and "nothing is predicted" not in text
    )


def test_other_designs_are_not_measured_against_a_prediction_that_is_none():
    """What readers see of them is told as a multiple of Gaussian noise's, without limits that they would seem to break."""
    for design in set(DESIGNS) - {"gaussian"}:
        text = certificates(png8=design)
        assert f"png8 is `{design}`" in text and "in the subspace: vit_b 16.3." in text
        assert "limit" not in text and "100.00%" not in text and "measured / predicted" not in text
    both = certificates(float32="gaussian", png8="boxed")
    assert "| float32   | vit_b" in both and "| png8      | vit_b" not in both and "png8 is `boxed`" in both


def test_a_headline_without_other_readers_says_so():
    """Instead of an empty list of them."""
    nothing = Gathered(INSPECTED, {"png8": CERTIFIED}, [], [], [], [], [], [], None)
    for records, expected in (
        ([], "No other reader was asked."),
        ([RESULT], "Accuracy of other readers of the same files: vit_b 25.0%."),
    ):
        found = nothing._replace(records=records)
        values = sections._headline("vit_a", {"png8": DESIGNS["boxed"]}, found, [])
        assert page.render("headline", values).endswith(expected)
