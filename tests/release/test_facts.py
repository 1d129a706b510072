"""The schema of a manifest's block: what a release needs is there and can be, and nothing else is asked."""

import msgspec
import pytest

from ne_jax.release.facts import Facts
from tests.facts import FACTS


def test_the_facts_of_a_release_are_valid():
    """What encode writes is what the schema takes."""
    assert msgspec.convert(msgspec.to_builtins(FACTS), Facts) == FACTS


WRONG = {
    "images": (-1, 0.5, "1", 10**9, None, True),
    "image_shape": ([1, 1], [0, 1, 1], [70_000, 1, 1], [65_000, 65_000, 1], "112", [1, 1, "1"]),
    "window": ([0, 0, 0], [1.5, 1, 1]),
    "directions": (-1, 10**12, "all"),
    "design": ("", "a\nb", "\x1b[0m", "x" * 201, 1, "a\u2028b", "a\u202eb", "a\u2066b"),
    "format": (None, "\0"),
    "replace": ("no", 0),
    "psnr_db_realised": ({"min": 0, "median": 0}, {"min": -1e6, "median": 0, "max": 0}, [0, 0, 0]),
    "authorized": ({"name": "a"}, {"name": "a\r", "checkpoint_sha256": "b"}, "a"),
    "preprocess": ([], "squash"),
    "warning": ("x" * 4001, []),
    "limits": ("none", [1]),
}


@pytest.mark.parametrize("entry", WRONG)
def test_what_cannot_be_is_refused_by_name(entry):
    """The error says which entry; none of these values reaches what would trip over it."""
    for value in WRONG[entry]:
        with pytest.raises(msgspec.ValidationError, match=entry):
            msgspec.convert(msgspec.to_builtins(FACTS) | {entry: value}, Facts)
