"""What running the authorized model says of an image."""

import dataclasses

import numpy as np
import pytest

from ne_jax.models.loading import load_model
from ne_jax.models.model import Model, Outputs
from ne_jax.release.certificates import SMALL_CHANGE
from ne_jax.stages.check import _execution
from ne_jax.stages.pairs import Pairs

CLEAN = np.zeros((3, 112, 112, 1), np.uint8)
PAIR = Pairs(["a", "b", "c"], np.arange(3), CLEAN, np.ones(CLEAN.shape, np.float32), 3)


def model(head: bool) -> Model:
    """Features of norm 5 on clean images; of the stored ones, the second changes by just less than is allowed, the third by just
    more. With a head, the second is predicted otherwise."""
    before = np.tile(np.float32([3, 4]), (3, 1))
    after = before + np.float32([[0, 0], [0.99 * 5 * SMALL_CHANGE, 0], [0, 1.01 * 5 * SMALL_CHANGE]])
    logits = [np.float32([[1, 0], [1, 0], [1, 0]]), np.float32([[1, 0], [0, 1], [1, 0]])]

    def answer(pixels):
        stored = bool(pixels.max() > 0)
        return Outputs(logits[stored] if head else None, after if stored else before)

    return dataclasses.replace(load_model("vit_a"), forward=answer)


@pytest.mark.parametrize(("head", "kept"), [(True, [True, False, True]), (False, [True, True, False])])
def test_utility_is_the_prediction_or_without_a_head_the_features(head, kept):
    """Kept is what the model still does: its class, or features within a tenth of their norm."""
    assert np.asarray(_execution(model(head), PAIR)["utility_kept"]).tolist() == kept
