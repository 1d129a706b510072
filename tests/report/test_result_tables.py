"""Tables of results, in the report and in a terminal."""

from msgspec.structs import replace

from ne_jax.report.result_tables import result_table, results_text, table
from tests.rows import RESULT


def test_cells_stay_as_they_are():
    """No number is rewritten, no zero cut, no space lost; columns have one width."""
    assert table(["a", "bb"], [["1.50", "-0"], ["1e3", " x"]]).splitlines() == [
        "| a    | bb   |",
        "|------|------|",
        "| 1.50 | -0   |",
        "| 1e3  |  x   |",
    ]
    assert len(table(["a", "b"], []).splitlines()) == 2


def test_a_table_says_n_interval_and_strength():
    """Contract 8: the head has PSNR and n, a cell its 95 % interval, the authorized model is told apart; a shift of zero has no sign."""
    clean = replace(RESULT, condition="clean", psnr_db=None, value=0.75, ci95=(0.5, 0.9))
    records = [clean, replace(RESULT, psnr_db=-0.01)]
    records += [replace(row, reader="vit_a") for row in records]
    lines = result_table(records, "png8", ["clean", "ne"], "accuracy").splitlines()
    assert lines[0] == "| png8: accuracy         | clean, n = 20        | NE, 0.0 dB, n = 20   |"
    assert lines[2] == "| vit_b                  | 75.0% [50.0%, 90.0%] | 25.0% [11.0%, 47.0%] |"
    assert lines[3].startswith("| **vit_a** (authorized) |")


def test_a_metric_that_no_reader_has_gets_no_table():
    """Tables follow each other with one blank line between; cosines are no percents."""
    cosine = replace(RESULT, metric="feature_cosine", value=0.5, ci95=(0.25, 0.75))
    assert result_table([RESULT], "png8", ["ne"], "agreement") == ""
    text = results_text([RESULT, cosine])
    assert text.count("\n\n") == 1 and "0.5000 [0.2500, 0.7500]" in text and "agreement" not in text
