"""Stage analyse: a record for analysis.json of every model of the job."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec import UNSET

from ne_jax.files import read_json
from ne_jax.measure.analysis_records import Analysis
from ne_jax.stages import analyse
from tests.jobs import OVERLAPPING, opened

# Small numbers everywhere; the Jacobian of the first layer alone, as a deeper one takes seconds to compile.
FEW = {"images": 12, "bases": 3, "draws": 12, "depths": 1, "jacobian_images": 1, "directions": 2}


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """The workdir and what was found: vit_a, with readers of its geometry and of another."""
    folder = tmp_path_factory.mktemp("analyse")
    readers = ("vit_a", "vit_b", "vit_a_tuned", "resnet_a")
    with opened(folder, "work", readers=readers) as job:
        return job, analyse.run(job, **FEW)


def test_the_file_is_the_record(analysed):
    """analysis.json is read back as what the stage returned."""
    job, found = analysed
    assert read_json(job.workdir / analyse.ANALYSIS, Analysis) == found


def test_each_model_is_analysed_once_with_the_unit_of_its_spectrum(analysed):
    spectra = analysed[1].spectra
    assert list(spectra) == ["vit_a", "vit_b", "vit_a_tuned", "resnet_a"]
    assert (spectra["vit_a"].unit, spectra["vit_a"].rank, spectra["vit_a"].directions) == ("patch", 128, 784)
    assert (spectra["resnet_a"].unit, spectra["resnet_a"].directions) == ("image", 112 * 112)
    for row in spectra.values():
        assert 1 <= row.effective_rank <= row.rank and 0 < row.flatness <= 1


def test_a_model_without_low_directions_says_why(analysed):
    """resnet_a has no direction under the job's rule: no noise is made for it."""
    found = analysed[1]
    assert list(found.without_subspace) == ["resnet_a"]
    assert "resnet_a" not in {row.noise_for for row in found.pairs}
    assert found.without_subspace["resnet_a"].startswith("no low-sensitivity direction")


def test_noise_is_null_for_its_own_model_small_for_its_sibling_and_full_for_strangers(analysed):
    rows = {(row.noise_for, row.reader): row for row in analysed[1].pairs}
    own, sibling = rows["vit_a", "vit_a"], rows["vit_a", "vit_a_tuned"]
    assert own.measured_gain <= 1e-9 and own.exposure <= 1e-4
    assert 1e-5 <= sibling.measured_gain <= 0.01 and sibling.exposure <= 0.01
    for reader in ("vit_b", "resnet_a"):
        assert 0.8 <= rows["vit_a", reader].measured_gain <= 1.25
    assert rows["vit_a", "resnet_a"].relative_gain is None and rows["vit_a", "resnet_a"].exposure is UNSET


def test_the_link_compares_all_pairs_of_different_models(analysed):
    """Nine pairs with resnet_a as a reader, six of the same windows, where the exact prediction meets the measurement."""
    link = analysed[1].link
    assert len(link.pairs) == 9 and sum(row.same_windows for row in link.pairs) == 6
    for row in link.pairs:
        if row.same_windows:
            assert row.exact_energy == pytest.approx(row.measured_energy, rel=0.15)
    exact = [row for row in link.correlations if row.predictor == "exact_energy"]
    assert exact[0].pearson.value > 0.99 and exact[0].pearson.n == 6


def test_overlapping_windows_and_a_network_without_inner_layers(tmp_path):
    """An authorized model whose windows overlap has all items; without Flax parts the deeper layers are left out, with the reason."""
    with opened(tmp_path, "work", **OVERLAPPING) as job:
        foreign = dataclasses.replace(job.authorized, graphdef=None)
        found = analyse.run(job._replace(authorized=foreign), **FEW)
    (row,) = found.pairs
    assert row.relative_gain == pytest.approx(row.measured_gain, rel=0.3) and row.measured_gain < 0.5
    assert "no Flax network" in found.depths.left_out
    assert found.depths.rows is UNSET
    assert found.link.pairs == []
