"""What ascent brings down: margins and cosines, of the reader that still reads most."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax.models.model import Outputs
from ne_jax.recoding.surrogate_views import cosine, likeness, margin, unit


def test_margin_is_in_standard_deviations():
    """Above 0 for the class that is said, below for any other, and the same for logits that are scaled or shifted."""
    logits = jnp.array([3.0, 1.0, -1.0, -3.0])
    assert float(margin(logits, 0)) == pytest.approx(2 / np.sqrt(5)) and float(margin(logits, 1)) == pytest.approx(
        -2 / np.sqrt(5)
    )
    assert float(margin(10 * logits + 5, 0)) == pytest.approx(float(margin(logits, 0)))


def test_nothing_is_divided_by_zero():
    """Features and changes of zero give zero, with a finite gradient."""
    zero = jnp.zeros((2, 2, 1))
    assert float(cosine(zero.ravel(), zero.ravel())) == 0 and not np.asarray(unit(zero)).any()


def test_the_reader_that_still_reads_counts_most():
    """Of two readers, one already misled, the gradient follows the other; a reader without a head counts by its features."""
    image = jnp.array([[[0.2], [0.9]]])

    def first(image, warp=None):
        return Outputs(jnp.stack([image[0, 0, 0], 1.0, -1.0]) * 9, image.ravel())

    def second(image, warp=None):
        return Outputs(jnp.stack([9 * image[0, 1, 0], 0.0, -5.0]), image.ravel())

    clean = [Outputs(jnp.array([9.0, 0.0, 0.0]), image.ravel())] * 2
    gradient = jax.grad(lambda image: likeness((first, second), clean, image, jax.random.key(0)))(image)
    assert float(jnp.abs(gradient[0, 1, 0])) > 2 * float(jnp.abs(gradient[0, 0, 0])) > 0

    def headless(image, warp=None):
        return Outputs(None, image.ravel())

    alike = likeness((headless,), [Outputs(None, image.ravel())], image, jax.random.key(0))
    assert float(alike) == pytest.approx(1.0)
