"""JSON from strangers, read strictly: what has two meanings or none is refused before anything is made of it."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

MOST_BYTES = 1 << 20  # of a manifest: it does not grow with its release
_DEPTH, _DIGITS = 32, 20  # of brackets in brackets, and of a whole number: more than any manifest has
# A text, or what begins as one and does not end: so no quotation mark is looked at twice.
_TEXT = re.compile(rb'"(?:[^"\\]|\\.?)*(?:"|\Z)', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


def parse(data: bytes) -> Any:
    """The value of JSON in UTF-8. Raises ValueError, in one line, for what is no JSON; and for NaN and infinity, numbers too large for
    a float, whole numbers of more than 20 digits, a name that stands twice in one object, halves of characters, more than a
    mebibyte, and more than 32 brackets in each other."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    steps = (1 if bracket[0] in b"[{" else -1 for bracket in _BRACKET.findall(_TEXT.sub(b"", data)))
    if max(itertools.accumulate(steps), default=0) > _DEPTH:
        raise ValueError(f"more than {_DEPTH} brackets in each other")
    value = json.loads(
        data.decode(), object_pairs_hook=_once, parse_constant=_refused, parse_float=_finite, parse_int=_short
    )
    json.dumps(value, ensure_ascii=False).encode()  # of half a character: a ValueError
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"{twice[:100]!r} stands twice in one object")
    return found


def _refused(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:_DIGITS]} is too large a number")
    return number


def _short(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"{text[:_DIGITS]}... is too long a number")
    return int(text)
