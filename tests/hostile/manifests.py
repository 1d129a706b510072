"""Manifests with anything wrong at any place, without end and always the same."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

# Whatever may stand where something else is expected; texts of JSON that Python cannot write stand as such.
_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 10**9, 2**31, 2**63, 2**64, -(2**63) - 1, 10**19, 0.5, -0.0, 1e-320, 1e30, -1e308, 1.7e308,
    "", "a", "x" * 5000, "\x1b[2J", "\n", "é\u2028", "../../etc/passwd", "\0", [], {}, [None], [[]], [1, 2, 3], [1e308] * 3,
    [112, 112, 1], [0, 0, 0], [65535, 65535, 65535], [-1, -1, -1], ["a"] * 100, {"a": 1}, {"": {}}, {"@id": "SHA256SUMS"},
    [{"@id": "SHA256SUMS"}],
]  # fmt: skip
_RAW = [
    "NaN", "Infinity", "-Infinity", "1e400", "-1e999", "9" * 400, "-" + "9" * 5000, '"\\ud800"', '"\\udfff\\ud800"', "[" * 100_000,
    '{"a":' * 100_000, "[" * 500 + "]" * 500, "[" * 33 + "]" * 33, '{"a": 1, "a": 2}', "0x1", "01", "1.", "'a'", "nul", "tru", "[1,]",
    "{,}", '"\\x"', '"' + "\\" * 4001, "/* */1", "",
]  # fmt: skip
_MARK = "\ue000here\ue000"


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inside:
        yield from _places(below, (*path, key))


def _put(whole: Any, path: tuple, value: Any) -> Any:
    if not path:
        return value
    whole = copy.deepcopy(whole)
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return whole


def _drop(whole: Any, path: tuple) -> Any:
    whole = copy.deepcopy(whole)
    place = whole
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return whole


def manifests(whole: dict[str, Any]) -> Iterator[bytes]:
    """Manifests with something wrong, without end and always the same: every place in turn with every value, bytes flipped, cut."""
    chance = random.Random(0)
    # The block's own places first and most: nothing reads the context.
    places = [path for path in _places(whole) if path[:1] not in (("@context",), ("recordSet",))]
    data = json.dumps(whole).encode()
    while True:
        path = chance.choice(places)
        kind = chance.random()
        if kind < 0.55:
            yield json.dumps(_put(whole, path, chance.choice(_VALUES)), ensure_ascii=False).encode(errors="replace")
        elif kind < 0.75:
            text = json.dumps(_put(whole, path, _MARK), ensure_ascii=False)
            yield text.replace(json.dumps(_MARK, ensure_ascii=False), chance.choice(_RAW)).encode()
        elif kind < 0.85 and path:
            yield json.dumps(_drop(whole, path)).encode()
        elif kind < 0.95:
            spoilt = bytearray(data)
            for _ in range(chance.choice((1, 1, 2, 8))):
                spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
            yield bytes(spoilt)
        else:
            yield data[: chance.randrange(len(data))] + chance.choice((b"", b"\xff\xfe", b"\0", data))
