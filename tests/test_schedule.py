"""What is left out of the fast run has a smaller sibling that is not."""

import pathlib
import re

from tests import schedule

TESTS = pathlib.Path(__file__).parent


def named(file: str, start: str) -> list[str]:
    """The functions of a test file that a name, with or without one of its values, is of."""
    functions = re.findall(r"^def (test_\w+)", (TESTS / file).read_text(), re.M)
    return [each for each in functions if each.startswith(start.partition("[")[0])]


def test_slow_ones_and_their_siblings_exist():
    """A test that is renamed would come back into the fast run, or leave nothing behind, without a word."""
    for file, tests in schedule.SLOW.items():
        for slow, sibling in tests.items():
            place, _, smaller = sibling.rpartition("::")
            assert named(file, slow), (file, slow)
            left = [each for each in named(place or file, smaller) if each not in schedule.SLOW.get(place or file, {})]
            assert left, (file, sibling)
