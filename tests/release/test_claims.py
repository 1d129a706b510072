"""A manifest's claims against the model: percentiles beside missing images, without making these up."""

import numpy as np
import pytest

from ne_jax.release import claims
from ne_jax.release.certificates import PERCENTILES, SetCertificate, StoredStatistics
from ne_jax.release.reasons import words


@pytest.mark.parametrize("missing", [0, 1, 3, 40, 1000])
@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_percentiles_with_missing_images(count, missing):
    """What NumPy gives of the column with as many values below all others, or above."""
    column = np.random.default_rng(count).normal(10, 1, count).astype(np.float32)
    for end, below in ((-claims._END, True), (claims._END, False)):
        expected = np.percentile(np.append(column.astype(np.float64), np.full(missing, end)), PERCENTILES)
        np.testing.assert_allclose(claims._with_missing(column, missing, below), expected, rtol=1e-6)


def certificate(n: int) -> SetCertificate:
    """Of n images, whose features have the norms 1, 2 and 3."""
    zeros = dict.fromkeys(
        ("feature_cosine_median", "feature_cosine_min", "feature_gap_median", "feature_gap_expected", "relative_gap_median",
         "relative_gap_max", "bound_median"), 0.0
    )  # fmt: skip
    return SetCertificate(
        n=n, bound_holds=n, psnr_db_median=None, stored=StoredStatistics(feature_norm=(1.1, 2.0, 2.9)), **zeros
    )


def test_a_forged_number_takes_no_memory():
    """A certificate of 10 ** 15 images is compared as fast as one of three."""
    columns = {"feature_norm": np.array([1.0, 2.0, 3.0], np.float32)}
    assert list(claims._moved(certificate(3), columns, 0)) == []
    assert list(claims._moved(certificate(10**15), columns, 10**15 - 3)) == []  # nothing is known of so many
    (reason,) = claims._moved(certificate(3), {"feature_norm": np.array([1.0, 2.0, 9.0])}, 0)
    assert words(reason).startswith("its certificate says feature_norm 1.1, 2, 2.9, and the model gives 1.1, 2, 8.3")
