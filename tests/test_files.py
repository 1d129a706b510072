"""Records: what is written is read back by the same class, and anything else is told in one line."""

import json

import numpy as np
import pytest
from msgspec import UNSET, UnsetType

from ne_jax.errors import UserError
from ne_jax.files import Record, read_json, read_json_lines, write_json, write_json_lines


class Part(Record):
    share: float


class Row(Record, kw_only=True):
    name: str
    n: int
    psnr_db: float | None
    ci95: tuple[float, float]
    parts: dict[str, Part]
    margin: float | UnsetType = UNSET


ROW = Row(name="a", n=2, psnr_db=None, ci95=(0.0, 1.0), parts={"x": Part(share=0.5)})
JSON = {"name": "a", "n": 2, "psnr_db": None, "ci95": [0.0, 1.0], "parts": {"x": {"share": 0.5}}}


def test_a_record_is_its_fields_in_order_and_comes_back(tmp_path):
    """An absent field stays absent; NumPy's numbers become Python's."""
    assert json.dumps(ROW.to_json()) == json.dumps(JSON) and Row.from_json(JSON, "here") == ROW
    assert type(Part(share=np.float32(0.5)).to_json()["share"]) is float
    write_json(tmp_path / "one.json", ROW)
    assert json.loads((tmp_path / "one.json").read_text()) == JSON and read_json(tmp_path / "one.json", Row) == ROW
    write_json_lines(tmp_path / "rows.jsonl", [ROW, ROW])
    assert read_json_lines(tmp_path / "rows.jsonl", Row) == [ROW, ROW]
    write_json(tmp_path / "list.json", [ROW])
    assert read_json(tmp_path / "list.json", list[Row]) == [ROW]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n": True}, "n: expected `int`, got `bool`"),
        ({"n": "2"}, "n: expected `int`, got `str`"),
        ({"ci95": [1]}, "ci95: expected `array` of length 2, got 1"),
        ({"parts": {"x": {"share": 1, "more": 2}}}, r"parts\[...\]: object contains unknown field `more`"),
        ({"surplus": 1}, "object contains unknown field `surplus`"),
    ],
)
def test_what_is_no_such_record_is_told_with_its_field(change, told):
    with pytest.raises(UserError, match=f"^here: {told}$"):
        Row.from_json(JSON | change, "here")


def test_a_broken_line_is_told_with_its_number(tmp_path):
    """Also NaN, which is no JSON; and nothing that is no JSON can be written."""
    path = tmp_path / "rows.jsonl"
    for broken in ("{", '{"share": NaN}'):
        path.write_text(f'{{"share": 1}}\n\n{broken}\n')
        with pytest.raises(UserError, match=r"rows\.jsonl line 3: no JSON"):
            read_json_lines(path, Part)
    with pytest.raises(ValueError):
        write_json(path, Part(share=float("nan")))
