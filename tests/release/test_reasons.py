"""Reasons why a file is not what was released: kinds and details, which are words only where they are printed."""

import pathlib
import re

import ne_jax.release
from ne_jax.release.reasons import WORDS, Reason, words


def test_every_kind_has_words_and_every_word_a_use():
    """A kind that is misspelt where the fault is found would stop a verify at its last line."""
    (folder,) = map(pathlib.Path, ne_jax.release.__path__)
    sources = {path.name: path.read_text() for path in folder.glob("*.py")}
    made = {kind for text in sources.values() for kind in re.findall(r'Reason\(\s*"([^"]+)"', text)}
    assert made <= WORDS.keys()
    without = "".join(text for name, text in sources.items() if name != "reasons.py") + 'Reason("differs")'
    assert [kind for kind in WORDS if f'"{kind}"' not in without] == []


def test_what_is_true_of_one_file_only_keeps_no_group_apart():
    """Members of tars, lengths of shards and images of files differ where one thing was done to them all; sizes that differ do not."""
    shrunk = ("float32", (56, 56, 1), "float32", (112, 112, 1))
    one, other = (
        Reason("other arrays", shrunk, own=("float32", (n, 56, 56, 1), "float32", (n, 112, 112, 1))) for n in (16, 8)
    )
    assert one != other and one.alike() == other.alike()
    assert words(one) == "holds images of another kind: float32 (16, 56, 56, 1) and not float32 (16, 112, 112, 1)"
    assert words(one.alike()) == "holds images of another kind: float32 (56, 56, 1) and not float32 (112, 112, 1)"
    member = Reason("resized", (56, 56, 112, 112), member="a.png")
    assert words(member) == "has a member a.png that was resized: 56 x 56 and not 112 x 112"
    assert member.alike() == Reason("resized", (56, 56, 112, 112)) != Reason("resized", (28, 28, 112, 112))
    some = Reason("changed", changed=("a", "b", "c", "d"), images=16)
    assert words(some) == "its pixels changed, in 4 of 16 images: a, b, c, ..." and some.alike() == Reason("changed")
