"""How much of a file is in memory at once."""

import io

import numpy as np
import pytest

from ne_jax.release.blocks import Budget, Expected
from ne_jax.release.reasons import Reason, Unreadable


@pytest.mark.parametrize(
    ("shape", "block"), [((1, 1, 1), 64), ((112, 112, 1), 64), ((512, 512, 3), 10), ((9000, 9000, 3), 1)]
)
def test_a_block_is_small(shape, block):
    """At most 64 images and 32 MiB, and at least one image."""
    assert Expected(shape, np.float32, 5).block == block


def test_more_images_than_the_release_has_are_refused():
    """As many are fine."""
    Expected((1, 1, 1), np.uint8, 5).check(5)
    with pytest.raises(Unreadable) as caught:
        Expected((1, 1, 1), np.uint8, 5).check(6)
    assert caught.value.reason == Reason("too many", (5,))


@pytest.mark.parametrize("sizes", [(11,), (5, 6), (4, 4, 4), (10**12,), (-1,)])
def test_a_budget_is_not_overdrawn(sizes):
    """Whatever a reader asks for, it gets no more than is left; to its last byte it does."""
    budget = Budget(io.BytesIO(bytes(100)), 10)
    with pytest.raises(Unreadable) as caught:
        for size in sizes:
            budget.read(size)
    assert caught.value.reason == Reason("too long a list")
    budget = Budget(io.BytesIO(bytes(10)), 10)
    assert len(budget.read(4)) == 4 and len(budget.read()) == 6 and budget.left == 0
    budget = Budget(io.BytesIO(bytes(100)), None)
    assert len(budget.read(60)) == 60 and len(budget.read()) == 40
