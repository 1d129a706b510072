"""Stage report on a small job: the page has what the records have."""

import pytest

from ne_jax.files import read_json_lines
from ne_jax.measure.records import Result
from ne_jax.report import report
from ne_jax.stages import check, encode, evaluate, inspect_model
from tests.jobs import opened

LEAVES = {
    "data.limit": 8, "batch_size": 8, "readers": ("vit_a", "resnet_a"), "evaluate.curve_psnr_db": (10.0,),
    "attack.suite": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Every stage but the attacks and the analyses, on 8 images."""
    with opened(tmp_path_factory.mktemp("report"), "run", **LEAVES) as job:
        for stage in (inspect_model, encode, check, evaluate, report):
            stage.run(job)
    return job


def test_the_report_holds_the_records_and_needs_no_other_file(reported):
    """The page is self-contained and shows the figures of results.jsonl."""
    page = (reported.workdir / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "figures/" not in page and "<script" not in page
    assert "http://" not in page and "https://" not in page
    text = (reported.workdir / "report.md").read_text()
    for row in read_json_lines(reported.workdir / evaluate.RESULTS, Result):
        form = ".4f" if row.metric == "feature_cosine" else ".1%"
        assert f"{row.value:{form}} [{row.ci95[0]:{form}}, {row.ci95[1]:{form}}]" in text


def test_the_report_says_what_a_release_does_not_stop(reported):
    """Contract 8, and that nothing was attacked here; sections of stages that did not run are left out."""
    text = (reported.workdir / "report.md").read_text()
    assert "If the checkpoint is public, that is everybody" in text and "No attack was measured here" in text
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "Who can read the files", "Pictures", "Certificates", "Spectrum", "Strength", "What this does not stop",
        "How to reproduce",
    ]  # fmt: skip
    assert "\n\n\n" not in text and "recode.psnr_db = 0.0" in text and "attack.suite = none" in text
