"""The items of an analysis against layers whose spectra are chosen."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import FirstLayer, load_model, low_sensitivity, spectrum
from ne_jax.measure import analysis as items
from ne_jax.measure.analysis import Subject
from ne_jax.measure.analysis_records import LinkRow

SHAPE = (16, 16, 3)


def subject(layer: FirstLayer, name: str, count: int) -> Subject:
    """A first layer as the whole model under analysis, with its `count` least sensitive directions."""
    base = load_model("vit_a")
    rules = dataclasses.replace(base.preprocess, size=16, resize_to=None, mean=(0.5,) * 3, std=(0.25,) * 3)
    found = spectrum(layer, SHAPE)
    model = dataclasses.replace(base, name=name, first_layer=layer, preprocess=rules)
    return Subject(model, found, low_sensitivity(found, "count", count))


def test_the_gap_does_not_tell_a_rotated_copy_from_a_scaled_one(graded, make_layer):
    """A rotated copy has gap 0 and takes all the noise in; ten times the layer has a huge gap and takes in none."""
    layer = graded.layer
    turned = make_layer(np.geomspace(1, 1e-3, 40), (4, 4, 3), outputs=40, seed=9).layer
    scaled = FirstLayer(10 * layer.kernel, layer.strides, layer.padding, layer.mean, layer.std)
    subjects = [subject(each, name, 8) for each, name in ((layer, "own"), (turned, "turned"), (scaled, "scaled"))]
    rows = items.link_rows(subjects, items.pair_rows(subjects, 8)).pairs
    found = {row.reader: row for row in rows if row.noise_for == "own"}
    assert found["turned"].spectral_gap <= 1e-6 and found["turned"].measured_gain >= 0.1
    assert found["scaled"].spectral_gap >= 100 and found["scaled"].measured_gain <= 1e-9


def test_depths_of_a_linear_map_are_its_singular_values(graded):
    """First layer and its double: largest sigma_1 = 1 and 2, stable rank sum sigma^2 over all patches, no gain of null noise."""
    space = low_sensitivity(spectrum(graded.layer, SHAPE), "count", 8)
    image = jnp.full((1, *SHAPE), 0.5)
    rows = items.depth_rows(
        lambda x: (graded.layer.apply(x), 2 * graded.layer.apply(x)), image, space, 2, 3, 48, probes=64
    )
    assert [row.depth for row in rows] == [0, 1] and rows[0].outputs == 16 * 40
    for row, scale in zip(rows, (1, 2), strict=True):
        assert np.allclose(row.largest, scale, rtol=1e-3)  # each of the 16 patches has sigma_1
        assert row.stable_rank[0] == pytest.approx(16 * np.sum(graded.sigma**2), rel=0.1)
        assert row.subspace_gain[0] <= 1e-9


def test_a_first_layer_without_a_spectrum_of_images_is_that_of_windows(make_layer):
    """Windows with gaps: flattened windows stand in, and say so; there is no subspace."""
    layer = make_layer([3.0, 2.0, 1.0], (2, 2, 3), outputs=3).layer
    gaps = FirstLayer(layer.kernel, (3, 3), "VALID", layer.mean, layer.std)
    model = dataclasses.replace(load_model("vit_a"), first_layer=gaps)
    row = items.spectrum_row(Subject(model, None, None, "windows leave pixels out"))
    assert (row.unit, row.rank, row.directions) == ("window", 3, 12)
    assert np.allclose(row.singular_values[:3], [3, 2, 1], rtol=1e-5)
    images = np.asarray(jax.random.uniform(jax.random.key(0), (4, 112, 112, 1)))
    assert items.alignment_row(load_model("resnet_a"), images, 2).unit == "window"


def test_correlations_tell_of_which_pairs_they_are():
    """The exact prediction exists for the same windows alone; four pairs, one of other windows, of which the gap alone knows."""
    rows = [
        LinkRow(
            noise_for="a",
            reader=str(number),
            measured_energy=float(number),
            measured_gain=float(-number),
            same_windows=number < 3,
            spectral_gap=2.0 * number,
            exact_energy=1.0 + number if number < 3 else None,
        )
        for number in range(4)
    ]
    found = {(row.predictor, row.pairs, row.target): row for row in items.correlations(rows)}
    assert len(found) == 6
    every, same = (
        found["spectral_gap", "all", "measured_gain"],
        found["exact_energy", "same windows", "measured_energy"],
    )
    assert (every.pearson.n, same.pearson.n) == (4, 3)
    assert every.spearman.value == pytest.approx(-1) and same.pearson.value == pytest.approx(1)
    assert every.pearson.interval is not None and same.pearson.interval is None
