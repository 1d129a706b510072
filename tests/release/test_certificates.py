"""What was certified, in words."""

import numpy as np
import pytest

from ne_jax import UserError
from ne_jax.release.certificates import (
    ImageCertificate,
    SetCertificate,
    StoredStatistics,
    bound_in_words,
    decibels,
    utility_in_words,
)
from ne_jax.release.writing import check_finite


def test_images_left_as_they_were_have_a_strength_that_can_be_told():
    """Their PSNR is infinite, which JSON has no number for; and nothing is ever told as -0.0 dB."""
    assert decibels(None) == "infinite" and decibels(14.06) == "14.1" and decibels(-0.01) == "0.0"


def summary(**changes) -> SetCertificate:
    """Of ten images, with changes."""
    stored = StoredStatistics(feature_norm=(1.0, 2.0, 3.0))
    figures = dict.fromkeys(
        ("feature_cosine_median", "feature_cosine_min", "psnr_db_median", "feature_gap_median", "feature_gap_expected")
        + ("relative_gap_median", "relative_gap_max", "bound_median"),
        1.0,
    )
    return SetCertificate(n=10, bound_holds=9, stored=stored, **figures, **changes)


def test_a_bound_that_holds_and_utility_kept_are_two_words():
    """Each is told with its own count; of version 0.1.0, which told the bound alone, nothing is made up."""
    now, before = summary(utility_kept=7, bound_over_gap_median=4.25), summary()
    assert utility_in_words(now) == "utility kept on 7 of 10; " and utility_in_words(before) == ""
    assert bound_in_words(now) == "the bound holds for the gap on 9 of 10, at a median of 4.25 times it"
    assert bound_in_words(before) == "the bound holds for the gap on 9 of 10"
    assert "utility_kept" not in before.to_json() and now.to_json()["utility_kept"] == 7


def test_an_image_is_lost_where_its_utility_is():
    """utility_kept decides where it is told, whatever the bound; else the prediction; without either nothing was lost."""
    numbers = dict.fromkeys(
        (
            "psnr_db",
            "delta_norm",
            "feature_gap",
            "bound",
            "subspace_term",
            "residual_term",
            "precision_term",
            "border_term",
        )
        + ("expected_gap", "relative_gap", "feature_cosine", "feature_norm"),
        1.0,
    )

    def image(**changes) -> ImageCertificate:
        return ImageCertificate(release_format="png8", image="a", holds=True, pixels_sha256="0", **numbers, **changes)

    assert image().not_lost and image(utility_kept=True).not_lost and not image(utility_kept=False).not_lost
    assert not image(kept=False, predicted=1, margin=0.0).not_lost


def test_numbers_that_a_file_cannot_hold_are_refused():
    """One line that names the format, its largest number and the way out; bytes and ordinary numbers pass."""
    check_finite(np.ones((1, 2, 2, 1), np.uint8), "png8")
    check_finite(np.full((1, 2, 2, 1), 6e4, np.float16), "float16")
    with np.errstate(over="ignore"):
        stored = np.array([[[[1e5], [1.0]]]]).astype(np.float16)
    with pytest.raises(
        UserError, match=r"float16 holds numbers up to 65504, .* 50.00% of them become infinite; raise recode.psnr_db"
    ):
        check_finite(stored, "float16")
