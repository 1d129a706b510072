"""What ten times as many files would give is told by a curve that is right where the growth is logistic, and never falls."""

import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace

from ne_jax.measure.answers import interval
from ne_jax.measure.forecast import forecast, forecasts
from tests.rows import GROWTH

N = 1000


def line(values: dict[int, float], **changes) -> list:
    """Points of one reader, counted on 1,000 images, which reads 10 % as it is and 90 % of clean images."""
    rows = []
    for count, value in values.items():
        ci95 = interval(np.arange(N) < round(value * N))
        rows.append(replace(GROWTH, count=count, value=value, n=N, ci95=ci95, value_ne=0.1, value_clean=0.9, **changes))
    return rows


def logistic(count: float, middle: float, slope: float) -> float:
    """10 to 90 %, half of the way at `middle` files."""
    return 0.1 + 0.8 / (1 + (middle / count) ** slope)


@pytest.mark.parametrize(("middle", "slope"), [(1000, 1.0), (5000, 1.0), (1500, 1.5), (50, 0.7)])
def test_logistic_growth_goes_on(middle, slope):
    """From 2,000 files to 20,000, within the interval, and nearly at the middle of it."""
    made = forecast(line({count: logistic(count, middle, slope) for count in (64, 256, 1024, 2000)}))
    truth = logistic(20000, middle, slope)
    assert made.then == pytest.approx(truth, abs=0.02) and made.then_low <= truth <= made.then_high
    assert made.last.count == 2000 and made.times == 10


@pytest.mark.parametrize(
    ("values", "expected", "measured"), [((18, 48, 71), (86, 88, 89), 91), ((11, 19, 31), (45, 64, 78), 88)]
)
def test_what_readme_says_of_it(values, expected, measured):
    """vit_b and resnet_a on `gaussian` files, n = 300, from 64, 256 and 1,024 files to 9,800: too low, and by how much."""
    clean, rows = (0.90, 0.933)[measured == 88], []
    for count, percent in zip((64, 256, 1024), values, strict=True):
        ci95 = interval(np.arange(300) < 3 * percent)
        row = replace(GROWTH, count=count, value=percent / 100, n=300, ci95=ci95, value_ne=0.09, value_clean=clean)
        rows.append(row)
    made = forecast(rows, 9800 / 1024)
    assert tuple(round(100 * each) for each in (made.then_low, made.then, made.then_high)) == expected
    assert made.then < measured / 100


def test_the_interval_widens_with_the_way():
    rows = line({count: logistic(count, 5000, 1.0) for count in (64, 256, 1024)})
    near, far = (forecast(rows, times) for times in (1, 10))
    assert far.then_high - far.then_low > 2 * (near.then_high - near.then_low)


@pytest.mark.parametrize("values", [(0.1, 0.1, 0.1), (0.05, 0.08, 0.02), (0.5, 0.4, 0.3), (0.9, 0.9, 0.9)])
def test_it_does_not_fall(values):
    """Nothing back, less than as it is, less with more files, everything back: no number is not finite, and more files give no less than
    the points do on the whole."""
    made = forecast(line(dict(zip((64, 256, 1024), values, strict=True))))
    assert np.isfinite([made.then_low, made.then, made.then_high]).all()
    assert made.then_low <= made.then <= made.then_high and 0.1 <= made.then <= 0.9
    assert made.then >= np.mean(values) - 0.02


def test_what_cannot_be_told_from_nothing_is_not_taken_for_a_rise():
    """A reader that reads three images more after 4 times as many files, of a thousand, is not on its way to everything."""
    assert forecast(line({64: 0.1, 256: 0.101, 1024: 0.103})).then_high < 0.3


def test_each_release_has_its_worst():
    """By accuracy, of readers that lost something, from two points on; rows of older versions do not say what was lost."""
    most = line({64: 0.2, 256: 0.6}, reader="vit_b", release_format="png8")
    other = line({64: 0.2, 256: 0.3}, reader="resnet_a", release_format="png8")
    cosine = line({64: 0.2, 256: 0.8}, metric="feature_cosine", release_format="png8")
    single = line({64: 0.8}, reader="resnet_b", release_format="png8")
    relative = [replace(row, value_ne=0.88) for row in line({64: 0.9, 256: 0.9}, release_format="png8")]
    pairs = line({64: 0.9, 256: 0.9}, of="known pairs", release_format="png8")
    old = [replace(row, value_ne=UNSET, value_clean=UNSET) for row in line({64: 0.9, 256: 0.9}, release_format="png8")]
    beside = line({64: 0.2, 256: 0.2}, release_format="float32")
    found = forecasts([*other, *most, *cosine, *single, *relative, *pairs, *old, *beside])
    assert [each.last for each in found] == [most[-1], beside[-1]]
    assert forecasts([*single, *old]) == []
