"""Fields of a preprocessing as people write them: the wrong one is named, before a model is loaded."""

import pytest

from ne_jax.config.schema import Config
from ne_jax.data.preprocess import Preprocess, from_fields
from ne_jax.errors import UserError

GOOD = {"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
WRONG = {
    "size is 0; give a whole number of pixels": {"size": 0},
    "size is 224.0; give a whole number": {"size": 224.0},
    "size is True; give a whole number": {"size": True},
    "size is None; give a whole number": {"size": None},
    "resize_to is 2.5; give a whole number": {"resize_to": 2.5},
    "mean is 0.5; give a list of one number a channel": {"mean": 0.5},
    "mean is [0.5, 0.5]; give": {"mean": [0.5, 0.5]},
    "mean is [nan, 0.5, 0.5]; give": {"mean": [float("nan"), 0.5, 0.5]},
    "mean is ['a', 0.5, 0.5]; give": {"mean": ["a", 0.5, 0.5]},
    "std is [inf]; give": {"std": [float("inf")]},
    "std is [0.2]; give as many numbers as mean has": {"std": [0.2]},
    "std is [0.2, 0, 0.2]; give as many numbers as mean has, none of them 0": {"std": [0.2, 0, 0.2]},
    "interpolation is spline; choose from nearest": {"interpolation": "spline"},
    "resize is crop; choose from squash": {"resize": "crop"},
    "crop is up; choose from floor": {"crop": "up"},
    "means is unknown; its fields are crop, ": {"means": 1},
}


@pytest.mark.parametrize("expected", WRONG)
def test_a_wrong_field_is_named(expected):
    """By itself, and in a config, whose file could not be written with a NaN in it."""
    fields = GOOD | WRONG[expected]
    with pytest.raises(UserError) as caught:
        from_fields(fields)
    assert str(caught.value).startswith(f"preprocess: {expected}")
    with pytest.raises(UserError) as caught:
        Config(models={"mine": {"architecture": "vit_b16", "preprocess": fields}})
    assert str(caught.value).startswith(f"models.mine.preprocess: {expected}")


def test_good_fields_are_taken():
    """Lists as tuples, whole numbers as means, and nothing for what has a default."""
    assert from_fields(GOOD | {"resize_to": None}) == Preprocess(224, (0.5,) * 3, (0.2,) * 3)
    assert from_fields({"size": 28, "mean": (0,), "std": (1,)}).image_shape == (28, 28, 1)
    with pytest.raises(UserError, match="^preprocess: std is missing"):
        from_fields({"size": 28, "mean": [0]})
