"""What ascent brings down: margins, of logits or of features, of the reader that still reads most."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax.data.sources import batches, open_source
from ne_jax.models.as_reader import reading
from ne_jax.models.loading import load_model
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
    assert float(alike) == pytest.approx(2.0)


@pytest.fixture(scope="module")
def images():
    """Twelve of Fashion-MNIST, float32 in [0, 1]."""
    found = next(batches(open_source("fashion_mnist", limit=12), load_model("vit_b").preprocess, 12, range(12), print))
    return jnp.asarray(found.pixels, jnp.float32) / 255


@pytest.mark.parametrize(("with_head", "without"), [("vit_b", "resnet_a"), ("resnet_a", "vit_b")])
def test_readers_with_and_without_a_head_both_count(images, with_head, without):
    """Margins and cosines are on one scale: at a typical clean image, where ascent sets out, each kind of reader has from 5 % to 95 %
    of the gradient. Cosines as they are had 1 % and 2 %."""
    headed, other = (reading(load_model(name), images.shape[1:]) for name in (with_head, without))

    def headless(image, warp=None):
        return Outputs(None, other(image, warp).features)

    def still(reader):
        return lambda image, warp=None: jax.lax.stop_gradient(reader(image, warp))

    @jax.jit
    def share(image, key):
        clean = [headed(image), headless(image)]
        pull = jax.grad(lambda image, *readers: likeness(readers, clean, image, key))
        one = jnp.linalg.norm(pull(image, headed, still(headless)))
        two = jnp.linalg.norm(pull(image, still(headed), headless))
        return two / (one + two)

    looks = jax.random.split(jax.random.key(0), 4)
    shares = [float(share(image, key)) for image in images for key in looks]
    assert 0.05 <= np.median(shares) <= 0.95
