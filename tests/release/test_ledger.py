"""The ledger: one image, one artefact, whatever the number of processes and wherever one of them is killed (contract 2)."""

import multiprocessing
import os
import sqlite3
import stat

import pytest

from ne_jax.errors import UserError
from ne_jax.release import ledger

SECRET = bytes(range(32))
ONE, OTHER = (ledger.artefact_digest(SECRET, name) for name in (b"one", b"other"))


def images(count: int) -> list[tuple[bytes, bytes]]:
    """Two digests each: of the picture and of its pixels."""
    return [
        (ledger.image_digest(SECRET, b"picture %d" % number), ledger.image_digest(SECRET, b"pixels %d" % number))
        for number in range(count)
    ]


@pytest.fixture
def path(tmp_path):
    return ledger.place(tmp_path / "secret.key")


def test_the_same_artefact_may_be_claimed_again(path):
    """A run that goes on, and further formats of the same pixels, find nothing in their way."""
    for _ in range(2):
        assert ledger.claim(path, images(3), {ONE}, again=False) == [0, 0, 0]
    assert ledger.elsewhere(path, images(3), {ONE}) == [0, 0, 0]


def test_another_artefact_is_refused_and_not_noted(path):
    """All or none: an image that could be released is not claimed beside one that could not."""
    ledger.claim(path, images(1), {ONE}, again=False)
    assert ledger.claim(path, images(3), {OTHER}, again=False) is None
    assert ledger.elsewhere(path, images(3), {OTHER}) == [1, 0, 0]
    assert ledger.claim(path, images(3)[1:], {OTHER}, again=False) == [0, 0]


def test_who_accepts_it_may_and_is_told_how_often(path):
    """Also for two artefacts of one run."""
    ledger.claim(path, images(1), {ONE}, again=False)
    assert ledger.claim(path, images(2), {OTHER}, again=True) == [1, 0]
    assert ledger.claim(path, images(3)[2:], {ONE, OTHER}, again=False) is None
    assert ledger.claim(path, images(3), {ONE, OTHER}, again=True) == [1, 1, 1]


def test_an_image_is_known_by_any_of_its_digests(path):
    """A picture that was cropped before has the pixels of the one that the model's preprocessing crops."""
    (picture, pixels), (other, _) = images(2)
    ledger.claim(path, [(picture, pixels)], {ONE}, again=False)
    assert ledger.claim(path, [(other, pixels)], {OTHER}, again=False) is None
    assert ledger.claim(path, [(picture, other)], {OTHER}, again=False) is None


def _claims(path, number):
    artefact = ledger.artefact_digest(SECRET, b"%d" % number)
    return number, sum(ledger.claim(path, [image], {artefact}, again=False) is not None for image in images(40))


def test_of_processes_that_race_for_an_image_one_gets_it(path):
    """Each image goes to one artefact; nothing is lost and nobody fails."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        won = dict(pool.starmap(_claims, [(path, number) for number in range(3)]))
    assert sum(won.values()) == 40
    with sqlite3.connect(path) as kept:
        assert kept.execute("SELECT COUNT(DISTINCT image), COUNT(*) FROM released").fetchone() == (80, 80)


def test_it_is_private_and_tells_nothing(path):
    """Mode 0600, and no digest in it is one that can be made without the secret."""
    ledger.claim(path, images(2), {ONE}, again=False)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    others = bytes(32)
    content = path.read_bytes()
    assert ledger.image_digest(SECRET, b"picture 0") in content and ONE in content
    assert ledger.image_digest(others, b"picture 0") not in content and b"picture" not in content


@pytest.mark.parametrize("damage", ["no database", "folder"])
def test_a_ledger_that_cannot_be_used_is_told_in_a_line(path, damage):
    """It names the file and the way out, and no image is released without it."""
    path.mkdir() if damage == "folder" else path.write_text("not a database at all, and longer than its head" * 9)
    with pytest.raises(UserError, match="secret.key.ledger: .*; it lies beside the secret") as caught:
        ledger.claim(path, images(1), {ONE}, again=False)
    assert "\n" not in str(caught.value)
