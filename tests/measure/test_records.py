"""Records of results and attacks: one class says what a line is, to those who write it here and to outsiders."""

import json
from math import inf, nan

import pytest
from msgspec.structs import replace

from ne_jax.errors import UserError
from ne_jax.files import read_json_lines, write_json_lines
from ne_jax.measure.records import Attacked, Attacks, NotRun, joined, strongest
from tests.rows import ATTACKED, GROWTH, RESULT, attacked

WRONG = [
    ({"tier": 9}, "tier: expected `int` <= 5"),
    ({"n": 0}, "n: expected `int` >= 1"),
    ({"n": True}, "n: expected `int`, got `bool`"),
    ({"metric": "luck"}, "metric: invalid enum value 'luck'"),
    ({"parameters": []}, "parameters: expected `object`, got `array`"),
    ({"ci95": [0.6, 0.7]}, r"ci95 \[0.6, 0.7\] does not hold value 0.5"),
    ({"ci95": [0.6]}, "ci95: expected `array` of length 2"),
    ({"value_clean": None}, "value_clean: expected `float`, got `null`"),
    ({"value": nan}, "no JSON"),
    ({"damage_db": inf}, "no JSON"),
    ({"extra": 1}, "object contains unknown field `extra`"),
]


@pytest.mark.parametrize(("change", "told"), WRONG)
def test_an_outsiders_line_that_is_wrong_is_told(tmp_path, change, told):
    """In one line, with the file, the line's number, the field and the reason."""
    path = tmp_path / "theirs.jsonl"
    path.write_text(f"{json.dumps(ATTACKED.to_json())}\n\n{json.dumps(ATTACKED.to_json() | change)}\n")
    with pytest.raises(UserError, match=rf"^{path} line 3: {told}[^\n]*$"):
        read_json_lines(path, Attacked)


def test_a_field_that_is_missing_is_told():
    """Also one whose value may be null: absent is not null."""
    for name in ("attack", "recovery"):
        fields = {key: value for key, value in ATTACKED.to_json().items() if key != name}
        with pytest.raises(UserError, match=f"^line 7: object missing required field `{name}`$"):
            Attacked.from_json(fields, "line 7")


def test_whole_numbers_and_rounded_ends_will_do():
    """Outsiders may write 1 for 1.0, and an interval's ends are rounded: neither is a mistake."""
    fields = ATTACKED.to_json() | {"value": 1, "ci95": [0.9, 0.99995], "seconds": 3}
    found = Attacked.from_json(fields, "line 1")
    assert found.value == 1.0 and found.by == "ne_jax"


def test_lines_are_read_back_as_they_were_written(tmp_path):
    """By the same class, in each file's own order of fields; what one file does not have is absent there, and not null."""
    head = {"authorized": "vit_a", "release_format": "png8", "psnr_db": None}
    lines = [RESULT, replace(RESULT, psnr_db_asked=3.0), ATTACKED, GROWTH, replace(GROWTH, **head)]
    for number, line in enumerate(lines):
        path = tmp_path / f"{number}.jsonl"
        write_json_lines(path, [line])
        assert read_json_lines(path, type(line)) == [line]
    first = [list(line.to_json()) for line in lines]
    assert first[0][:5] == ["authorized", "reader", "condition", "release_format", "psnr_db"]
    assert first[0][-1] == "ci95" and first[1] == [*first[0], "psnr_db_asked"]
    assert first[2][:4] == ["authorized", "release_format", "psnr_db", "reader"] and first[2][-1] == "by"
    assert first[3][0] == "attack" and first[4] == [*head, *first[3]] and lines[4].to_json()["psnr_db"] is None


def test_the_strongest_of_an_attack_is_kept():
    """A higher value takes the place of ours, under its author's name; the same value does not, nor another reader's."""
    ours = attacked(0.5)
    stronger, same = attacked(0.6, by="A. Reader"), attacked(0.5, by="B. Reader")
    other = attacked(0.9, reader="resnet_a")
    assert strongest([ours, same, other])["png8", "vit_b", "jpeg"] is ours
    assert list(strongest([ours, stronger, other]).values()) == [stronger, other]


def test_parts_are_joined_in_order():
    """Nothing of any kind is lost, and no part is changed."""
    why = NotRun(release_format="png8", attack="grey", why="one channel")
    parts = [
        Attacks(records=[ATTACKED]),
        Attacks(not_run=[why]),
        Attacks(growth=[GROWTH]),
        Attacks(records=[attacked(0.7)]),
    ]
    found = joined(iter(parts))
    assert found == Attacks(records=[ATTACKED, attacked(0.7)], growth=[GROWTH], not_run=[why])
    assert parts[0].records == [ATTACKED] and joined([]) == Attacks()
