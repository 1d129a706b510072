"""JSON from strangers: what has one meaning is read, and anything else is told in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ne_jax.release import strict_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_what_json_is_comes_back(value):
    """Every value that Python writes as JSON is read as it was, brackets and quotation marks in texts too."""
    assert strict_json.parse(json.dumps(value).encode()) == value
    assert strict_json.parse(json.dumps(value, ensure_ascii=False, indent=1).encode()) == value


REFUSED = {
    b"[" * 100_000: "more than 32 brackets in each other",
    b'{"a":' * 100_000: "more than 32 brackets in each other",
    b"[" * 33 + b"]" * 33: "more than 32 brackets in each other",
    b'{"a": 1, "a": 2}': "'a' stands twice in one object",
    b'[{"\\u0061": 1, "a": 2}]': "'a' stands twice in one object",
    b"NaN": "NaN is no number of JSON",
    b"[-Infinity]": "-Infinity is no number of JSON",
    b"1e999": "1e999 is too large a number",
    b"9" * 400: "99999999999999999999... is too long a number",
    b"-" + b"9" * 5000: "is too long a number",
    b"\xff": "codec can't decode byte 0xff",
    b'"\\ud800"': "surrogates not allowed",
    b'{"a": "\\udc00"}': "surrogates not allowed",
    b"": "Expecting value",
    b'{"a": 1}{': "Extra data",
    b" " * (strict_json.MOST_BYTES + 1): "more than 1,048,576 bytes",
}


@pytest.mark.parametrize("data", REFUSED, ids=lambda data: ascii(data[:12]))
def test_what_is_no_json_is_told(data):
    """Each is a ValueError of one line; none takes long, fills the stack or becomes another value."""
    with pytest.raises(ValueError) as caught:
        strict_json.parse(data)
    assert REFUSED[data] in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_brackets_in_texts_are_none():
    """Text may hold what it likes; 32 brackets in each other are still read."""
    text = "[" * 1000 + '\\"{"'
    deep = b"[" * 31 + json.dumps([text]).encode() + b"]" * 31
    value = strict_json.parse(deep)
    for _ in range(32):
        (value,) = value
    assert value == text


@pytest.mark.parametrize("data", [b'"' + b'\\"' * 500_000, b'"\\' * 500_000, b"\\" * 1_000_000, b'"' * 1_000_001])
def test_quotation_marks_are_looked_at_once(data):
    """A mebibyte of what might be the end of a text does not take minutes."""
    import time

    begin = time.perf_counter()
    with pytest.raises(ValueError):
        strict_json.parse(data)
    assert time.perf_counter() - begin < 2
