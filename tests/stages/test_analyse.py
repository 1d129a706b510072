from __future__ import annotations

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ne_jax import FirstLayer, load_model, low_sensitivity, spectrum
from ne_jax.measure import analysis as items
from ne_jax.measure.analysis import Subject
from ne_jax.report import analysis_section
from ne_jax.stages import analyse
from tests.jobs import OVERLAPPING, opened
from tests.photos import photographs

# Small numbers everywhere; the Jacobian of the first layer alone, as a deeper one takes seconds to compile.
FEW = {"images": 12, "bases": 3, "draws": 12, "depths": 1, "jacobian_images": 1, "directions": 2}
SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """The workdir and what was found: vit_a, with readers of its geometry and of another."""
    folder = tmp_path_factory.mktemp("analyse")
    readers = ("vit_a", "vit_b", "vit_a_tuned", "resnet_a")
    with opened(folder, "work", readers=readers) as job:
        return job, analyse.run(job, **FEW)


def subject(layer: FirstLayer, name: str, count: int) -> Subject:
    """A first layer as the whole model under analysis, with its `count` least sensitive directions."""
    base = load_model("vit_a")
    rules = dataclasses.replace(base.preprocess, size=16, resize_to=None, mean=(0.5,) * 3, std=(0.25,) * 3)
    found = spectrum(layer, SHAPE)
    model = dataclasses.replace(base, name=name, first_layer=layer, preprocess=rules)
    return Subject(model, found, low_sensitivity(found, "count", count))


def test_the_stage_writes_what_it_returns_and_its_figures(analysed):
    """analysis.json is the returned dict, and every figure that the text shows is a picture in figures/."""
    job, found = analysed
    stored = json.loads((job.workdir / analyse.ANALYSIS).read_text())
    assert stored == json.loads(json.dumps(found))
    shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", analysis_section.describe(stored))
    assert len(shown) == 6
    for alternative, path in shown:
        with Image.open(job.workdir / path) as picture:
            assert len(alternative) > 30 and min(picture.size) > 200


def test_each_model_is_analysed_once_with_the_unit_of_its_spectrum(analysed):
    spectra = analysed[1]["spectra"]
    assert list(spectra) == ["vit_a", "vit_b", "vit_a_tuned", "resnet_a"]
    assert (spectra["vit_a"]["unit"], spectra["vit_a"]["rank"], spectra["vit_a"]["directions"]) == ("patch", 128, 784)
    assert (spectra["resnet_a"]["unit"], spectra["resnet_a"]["directions"]) == ("image", 112 * 112)
    for row in spectra.values():
        assert 1 <= row["effective_rank"] <= row["rank"] and 0 < row["flatness"] <= 1


def test_a_model_without_low_directions_says_why(analysed):
    """resnet_a has no direction under the job's rule: no noise is made for it, and the text gives the reason."""
    found = analysed[1]
    assert list(found["without_subspace"]) == ["resnet_a"]
    assert "resnet_a" not in {row["noise_for"] for row in found["pairs"]}
    assert "resnet_a has no subspace here: no low-sensitivity direction" in analysis_section.describe(found)


def test_noise_is_null_for_its_own_model_small_for_its_sibling_and_full_for_strangers(analysed):
    rows = {(row["noise_for"], row["reader"]): row for row in analysed[1]["pairs"]}
    own, sibling = rows["vit_a", "vit_a"], rows["vit_a", "vit_a_tuned"]
    assert own["measured_gain"] <= 1e-9 and own["exposure"] <= 1e-4
    assert 1e-5 <= sibling["measured_gain"] <= 0.01 and sibling["exposure"] <= 0.01
    for reader in ("vit_b", "resnet_a"):
        assert 0.8 <= rows["vit_a", reader]["measured_gain"] <= 1.25
    assert rows["vit_a", "resnet_a"]["relative_gain"] is None and "exposure" not in rows["vit_a", "resnet_a"]


def test_the_link_compares_all_pairs_of_different_models(analysed):
    """Nine pairs with resnet_a as a reader, six of the same windows, where the exact prediction meets the measurement."""
    link = analysed[1]["link"]
    assert len(link["pairs"]) == 9 and sum(row["same_windows"] for row in link["pairs"]) == 6
    for row in link["pairs"]:
        if row["same_windows"]:
            assert row["exact_energy"] == pytest.approx(row["measured_energy"], rel=0.15)
    exact = [row for row in link["correlations"] if row["predictor"] == "exact_energy"]
    assert exact[0]["pearson"]["value"] > 0.99 and exact[0]["pearson"]["n"] == 6


def test_the_gap_does_not_tell_a_rotated_copy_from_a_scaled_one(graded, make_layer):
    """A rotated copy has gap 0 and takes all the noise in; ten times the layer has a huge gap and takes in none."""
    layer = graded.layer
    turned = make_layer(np.geomspace(1, 1e-3, 40), (4, 4, 3), outputs=40, seed=9).layer
    scaled = FirstLayer(10 * layer.kernel, layer.strides, layer.padding, layer.mean, layer.std)
    subjects = [subject(each, name, 8) for each, name in ((layer, "own"), (turned, "turned"), (scaled, "scaled"))]
    rows = items.link_rows(subjects, items.pair_rows(subjects, 8))["pairs"]
    found = {row["reader"]: row for row in rows if row["noise_for"] == "own"}
    assert found["turned"]["spectral_gap"] <= 1e-6 and found["turned"]["measured_gain"] >= 0.1
    assert found["scaled"]["spectral_gap"] >= 100 and found["scaled"]["measured_gain"] <= 1e-9


def test_depths_of_a_linear_map_are_its_singular_values(graded):
    """First layer and its double: largest sigma_1 = 1 and 2, stable rank sum sigma^2 over all patches, no gain of null noise."""
    space = low_sensitivity(spectrum(graded.layer, SHAPE), "count", 8)
    image = jnp.full((1, *SHAPE), 0.5)
    rows = items.depth_rows(
        lambda x: (graded.layer.apply(x), 2 * graded.layer.apply(x)), image, space, 2, 3, 48, probes=64
    )
    assert [row["depth"] for row in rows] == [0, 1] and rows[0]["outputs"] == 16 * 40
    for row, scale in zip(rows, (1, 2), strict=True):
        assert np.allclose(row["largest"], scale, rtol=1e-3)  # each of the 16 patches has sigma_1
        assert row["stable_rank"][0] == pytest.approx(16 * np.sum(graded.sigma**2), rel=0.1)
        assert row["subspace_gain"][0] <= 1e-9


def test_image_processing_takes_small_details_away():
    """JPEG, resize and blur of photographs: the pictures stay the same size, and blurs lose differences between neighbours."""
    pixels = np.stack([np.asarray(photo.resize((64, 64))) for photo in photographs()[:4]])
    detail = {}
    for name in items.PREPARATIONS:
        made = items.prepared(pixels, name)
        assert made.shape == pixels.shape and made.dtype == np.uint8
        assert (name == "clean") == np.array_equal(made, pixels)
        assert np.abs(made.astype(int) - pixels).mean() <= 20
        detail[name] = np.square(np.diff(made.astype(float), axis=2)).mean()
    assert detail["Gaussian blur, 1 pixel"] < 0.7 * detail["clean"]
    assert detail["half the size and back"] < 0.9 * detail["clean"]


def test_overlapping_windows_and_a_network_without_inner_layers(tmp_path):
    """An authorized model whose windows overlap has all items; without Flax parts the deeper layers are left out, with the reason."""
    with opened(tmp_path, "work", **OVERLAPPING) as job:
        foreign = dataclasses.replace(job.authorized, graphdef=None)
        found = analyse.run(job._replace(authorized=foreign), **FEW)
        assert not (job.workdir / "figures" / "depths.png").exists()
    (row,) = found["pairs"]
    assert row["relative_gain"] == pytest.approx(row["measured_gain"], rel=0.3) and row["measured_gain"] < 0.5
    assert "no Flax network" in found["depths"]["left_out"]
    text = analysis_section.describe(found)
    assert "Not measured: resnet_a is no Flax network" in text and "depths.png" not in text
    assert found["link"]["pairs"] == []


def test_a_first_layer_without_a_spectrum_of_images_is_that_of_windows(make_layer):
    """Windows with gaps: flattened windows stand in, and say so; there is no subspace."""
    layer = make_layer([3.0, 2.0, 1.0], (2, 2, 3), outputs=3).layer
    gaps = FirstLayer(layer.kernel, (3, 3), "VALID", layer.mean, layer.std)
    model = dataclasses.replace(load_model("vit_a"), first_layer=gaps)
    row = items.spectrum_row(Subject(model, None, None, "windows leave pixels out"))
    assert (row["unit"], row["rank"], row["directions"]) == ("window", 3, 12)
    assert np.allclose(row["singular_values"][:3], [3, 2, 1], rtol=1e-5)
    images = np.asarray(jax.random.uniform(jax.random.key(0), (4, 112, 112, 1)))
    assert items.alignment_row(load_model("resnet_a"), images, 2)["unit"] == "window"
