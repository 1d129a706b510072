"""Which process runs which tests, and with what it begins: a fixture that takes long is made once, and no process ends long after others.

pytest-xdist has marks for the first, by which it renames tests; pytest 9.2 does not let it.
"""

from __future__ import annotations

from typing import Any

import pytest

# Files that share a fixture of the session.
_TOGETHER = {"release/test_verify.py": "release/test_diagnosis.py"}
# Files whose tests share nothing but what is made for each value in brackets.
_APART = ("models/test_parity.py", "test_pins.py")
# What takes longest comes first.
_FIRST = (
    "stages/test_attack.py",
    "core/test_polyphase.py",
    "stages/test_encode.py",
    "core/test_bounds.py",
    "test_pins.py",
    "attacks/test_trained_networks.py",
    "recoding/test_subspace_noise.py",
    "recoding/test_guided.py",
    "test_main.py",
    "core/test_bounds_nearness.py",
    "models/test_parity.py",
    "models/test_convnext.py",
    "recoding/test_deep.py",
    "data/test_photographs.py",
    "models/test_choose_format.py",
)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")


def group(nodeid: str) -> str:
    """What goes to one process: the tests of a file, of files that share a fixture, or of a value that nothing is shared with."""
    file = _file(nodeid)
    return f"{file} {nodeid.partition('[')[2]}" if file in _APART else _TOGETHER.get(file, file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort tests by when they should begin."""
    places = {file: place for place, file in enumerate(_FIRST)}
    items.sort(key=lambda item: places.get(_file(item.nodeid), len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`group` to a process, in the order of tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log)
