"""Files of a stranger's folder: only plain ways to ordinary files of its size lead anywhere."""

import os

import pytest

from ne_jax.release import confined
from ne_jax.release.confined import Limits
from ne_jax.release.reasons import Reason, Unreadable

OUT = ["", ".", "..", "../a", "a/../../b", "a/..", "/", "/a", "//a", "./a", "a//b", "a/", "a/./b", "a\0b", "../../a"]
IN = ["a", "a/b", ".a", "..a", "a..", "...", "a\\b", "C:a", "~/a", "a\nb", "\udcff", "a/...", " ", "-"]


@pytest.mark.parametrize("name", [*OUT, *IN])
def test_names_that_lead_out(name):
    """What is not written as the one plain way to a file below is refused; what only looks odd is a name."""
    assert confined.leads_out(name) is (name in OUT)


@pytest.fixture
def folder(tmp_path):
    """A file, one behind a linked folder, links, a pipe, a folder; and a file outside."""
    (tmp_path / "outside").write_text("outside")
    root = tmp_path / "folder"
    (root / "real").mkdir(parents=True)
    (root / "real" / "file").write_text("inside")
    (root / "linked").symlink_to("real")
    (root / "link").symlink_to("../outside")
    (root / "inner").symlink_to("real/file")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    return root


FAULTS = {
    "../outside": Reason("outside"),
    "link": Reason("a link"),
    "inner": Reason("a link"),
    "loop": Reason("a link"),
    "linked/file": Reason("a link"),
    "link/file": Reason("a link"),
    "pipe": Reason("no file", ("a pipe",)),
    "real": Reason("missing"),
    "nothing": Reason("missing"),
    "nothing/at/all": Reason("missing"),
    "real/file/below": Reason("missing"),
    "a" * 300: Reason("unreadable", ("File name too long",)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_only_ordinary_files_are_opened(folder, name):
    """Links, also to files inside, pipes, folders and nothing are told for what they are; no open waits."""
    for opening in (
        confined.open_inside,
        confined.sha256_inside,
        lambda *given: confined.read_inside(*given, 100),
        confined.look,
    ):
        with pytest.raises(Unreadable) as caught:
            opening(folder, name)
        assert caught.value.reason == FAULTS[name]


def test_a_file_is_read_up_to_its_limit(folder):
    """As many bytes as allowed, and not one more."""
    assert confined.read_inside(folder, "real/file", 6) == b"inside"
    with pytest.raises(Unreadable) as caught:
        confined.read_inside(folder, "real/file", 5)
    assert caught.value.reason == Reason("too large", (5,))
    with confined.open_inside(folder, "real/file") as file:
        assert file.read() == b"inside"


def test_a_file_that_becomes_a_pipe_is_not_read(folder, monkeypatch):
    """What was looked at and what is opened may be two things."""
    monkeypatch.setattr(confined, "look", lambda *_: None)
    with pytest.raises(Unreadable) as caught:
        confined.open_inside(folder, "pipe")
    assert caught.value.reason == Reason("no file", ("a pipe",))
    with pytest.raises(Unreadable) as caught:
        confined.open_inside(folder, "link")
    assert caught.value.reason.kind == "unreadable"


def test_sizes_follow_from_the_manifest(tmp_path):
    """A file, and all of them, may have what images of that size can take; more is not read, and the rest is."""
    limits = Limits(images=2, image_bytes=1000)
    most = limits.file_bytes(1)
    for name, size in (("a", 10), ("b", most + 1), ("c", most)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
    assert confined.survey(tmp_path, "abc", limits, lambda _: 1) == {"b": Reason("too large", (most,))}
    many = [f"{number:02d}" for number in range(limits.release_bytes // most + 2)]
    for name in many:
        os.link(tmp_path / "c", tmp_path / name)
    faults = confined.survey(tmp_path, many, limits, lambda _: 1)
    assert set(faults.values()) == {Reason("too much", (limits.release_bytes, 2))} and 1 <= len(faults) < len(many)


def test_a_large_file_of_nothing_is_not_read(tmp_path, monkeypatch):
    """A hole of gigabytes costs its maker nothing; a small one, and a large file that is all there, are read."""
    huge = Limits(images=10**6, image_bytes=10**6)
    for name, size in (("small", 1 << 20), ("large", 1 << 33)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
    assert confined.survey(tmp_path, ["small", "large"], huge, lambda _: 10**6) == {"large": Reason("hollow")}
    (tmp_path / "full").write_bytes(os.urandom(1 << 20))
    told = os.stat_result((0,) * 6 + (1 << 20,) + (0,) * 3, {"st_blocks": 0})  # as some file systems do of every file
    monkeypatch.setattr(confined, "_WITH_HOLES", 1 << 19)
    assert not confined._is_hollow(tmp_path / "full", told)


def test_surplus_files_are_found_and_limited(folder, monkeypatch):
    """Every file and link that is not known, whatever it is, behind no link; and not more of them than are listed, and one."""
    found = set(confined.surplus(folder, {"real/file"}.__contains__))
    assert found == {"linked", "link", "inner", "loop", "pipe"}
    monkeypatch.setattr(confined, "MOST_SURPLUS", 3)
    assert len(list(confined.surplus(folder, lambda _: False))) == 4
