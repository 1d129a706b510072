"""What was certified, in words."""

from ne_jax.release.certificates import decibels


def test_images_left_as_they_were_have_a_strength_that_can_be_told():
    """Their PSNR is infinite, which JSON has no number for; and nothing is ever told as -0.0 dB."""
    assert decibels(None) == "infinite" and decibels(14.06) == "14.1" and decibels(-0.01) == "0.0"
