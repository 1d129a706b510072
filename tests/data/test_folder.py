"""Files of a folder, and names that no file system mixes up."""

import itertools
import os
import pathlib

import pytest

from ne_jax.data import folder

OUT = "a symbolic link out of the folder; copy the file, or set data.follow_links=True"
OF_FOLDER = "a symbolic link to a folder; copy the folder, or set data.follow_links=True"


def make(root: pathlib.Path, *paths: str) -> pathlib.Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def scan(root: pathlib.Path, follow_links: bool = False) -> dict[str, str]:
    return dict(folder.scan(str(root), follow_links))


def test_files_come_sorted_by_the_parts_of_their_paths(tmp_path):
    """As pathlib sorts paths, folders among files, hidden ones left out, spaces and other alphabets kept."""
    make(
        tmp_path,
        "b.png",
        "a/z.png",
        "a.b/x.png",
        "a/b/c.png",
        "a b/ü 猫.jpg",
        ".git/x.png",
        "a/.x.png",
        "B/1",
        "a0.png",
    )
    files = [file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()]
    expected = sorted(file for file in files if not any(part.startswith(".") for part in file.parts))
    assert list(scan(tmp_path)) == [file.as_posix() for file in expected]
    assert set(scan(tmp_path).values()) == {""}


def test_links_are_told_unless_they_are_to_be_followed(tmp_path):
    """Inside links to files are files; others need follow_links, without which each is one entry that says so."""
    inside, outside = make(tmp_path / "in", "cat/1.png"), make(tmp_path / "out", "2.png", "more/3.png")
    (inside / "cat" / "again.png").symlink_to(inside / "cat" / "1.png")
    (inside / "dog.png").symlink_to(outside / "2.png")
    (inside / "emu").symlink_to(outside / "more")
    (inside / "fox").symlink_to(inside / "cat")
    (inside / "gnu.png").symlink_to(tmp_path / "nothing.png")
    (inside / "self.png").symlink_to("self.png")
    files = {"cat/1.png": "", "cat/again.png": "", "gnu.png": "no such file", "self.png": "no such file"}
    assert scan(inside) == files | {"dog.png": OUT, "emu/": OF_FOLDER, "fox/": OF_FOLDER}
    more = {"dog.png": "", "emu/3.png": "", "fox/1.png": "", "fox/again.png": ""}
    assert scan(inside, follow_links=True) == files | more


def test_a_root_that_is_a_link_is_a_folder_as_any(tmp_path):
    """A data folder that is itself a link has its own files inside."""
    inside = make(tmp_path / "in", "cat/1.png")
    (inside / "2.png").symlink_to(inside / "cat" / "1.png")
    (tmp_path / "link").symlink_to(inside)
    assert scan(tmp_path / "link") == {"2.png": "", "cat/1.png": ""}


def test_loops_of_links_end(tmp_path):
    """Links upwards, to the root and to each other, show every file once a way, and then end."""
    root = make(tmp_path, "a/1.png", "b/2.png")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "b" / "to_a").symlink_to(root / "a")
    assert set(scan(root, follow_links=True)) == {"a/1.png", "b/2.png", "b/to_a/1.png"}


def test_pipes_are_not_read(tmp_path):
    """What is no file would be waited for without end."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    assert scan(tmp_path) == {"pipe.png": "not a file", "link.png": "not a file"}


def test_a_folder_that_may_not_be_listed_is_told(tmp_path, monkeypatch):
    """Its files are lost, not the others; but a root that cannot be listed is an error."""
    make(tmp_path, "a/1.png", "b/2.png")
    real = os.scandir

    def scandir(path):
        if str(path).rstrip("/").endswith(locked):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    locked = "/a"
    assert scan(tmp_path) == {"a/": "the folder cannot be listed (Permission denied)", "b/2.png": ""}
    locked = tmp_path.name
    with pytest.raises(PermissionError):
        scan(tmp_path)


def test_names_that_are_not_utf8_are_told_and_can_be_printed(tmp_path):
    """A Latin-1 name from another system is one broken entry; what is shown of it is text."""
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    for name in (b"/caf\xe9/1.png", b"/\xff.png"):
        with open(os.fsencode(tmp_path) + name, "wb"):
            pass
    found = scan(tmp_path)
    assert set(found.values()) == {"the name is not UTF-8; rename it"}
    assert [folder.printable(path) for path in found] == ["caf\\xe9/1.png", "\\xff.png"]
    assert folder.printable("ü 猫") == "ü 猫"


# Paths -> classes; "?" is a file without an ending that begins as an image.
CLASSES = {
    ("cat/1.png", "dog/2.JPG"): ["cat", "dog"],
    ("__MACOSX/x.txt", "cat/1.png", "dog/2.png"): ["cat", "dog"],
    ("README.md", "cat/1.png", "dog/2.png", "labels.csv"): ["cat", "dog"],
    ("cat/1.png", "cat/Thumbs.db", "lists/train.txt", "lists/deep/val.txt"): ["cat"],
    ("cat/deep/er/1.png", "cat/x.txt"): ["cat"],
    ("cat/1.png", "loose.png"): None,
    ("cat/1.png", "loose?"): None,
    ("cat/1?", "dog/2", "dog/3?", "notes/4"): ["cat", "dog"],
    ("cat/1.png", "dog/2.gif", "emu/3.HEIC"): ["cat", "dog", "emu"],
    ("cat/1.png", "locked/", "dog/deep/"): ["cat", "dog", "locked"],
    ("notes/1.txt",): [],
    ("1.txt",): [],
    ("1.png",): None,
}


@pytest.mark.parametrize("paths", CLASSES)
def test_classes_are_the_folders_that_hold_images(paths):
    """Notes, lists and an archiver's leavings are no class and do not keep the others from being classes; broken images, folders
    that may not be entered and images without an ending belong to one; a file is opened only where no name tells."""
    asked = []
    found = folder.classes(paths, lambda place: asked.append(paths[place]) or paths[place].endswith("?"))
    assert found == CLASSES[paths]
    assert not any(path.endswith((".png", ".JPG", ".gif", "/")) for path in asked)


# Paths -> names.
NAMES = {
    ("a.png", "b/c.jpg"): ("a", "b/c"),
    ("a.jpg", "a.png", "b.png"): ("a.jpg", "a.png", "b"),
    ("A.png", "a.jpg", "b/X.png", "b/x.png"): ("A.png", "a.jpg", "b/X.png", "b/x.png~2"),
    ("a.jpg", "a.jpg.png", "a.png"): ("a.jpg", "a.jpg.png", "a.png"),
    ("caf\u00e9.png", "cafe\u0301.jpg"): ("caf\u00e9.png", "cafe\u0301.jpg"),
    ("caf\u00e9.png", "cafe\u0301.png"): ("caf\u00e9.png", "cafe\u0301.png~2"),
    ("STRASSE.png", "stra\u00dfe.png"): ("STRASSE.png", "stra\u00dfe.png~2"),
    ("a.jpg", "a.png/b.png"): ("a.jpg", "a.png/b"),
    ("a.jpg", "A.PNG/deep/b.png"): ("a.jpg", "A.PNG/deep/b"),
    ("a.jpg", "a.jpg.png/1.jpg", "a.png/2.jpg"): ("a.jpg~2", "a.jpg.png/1", "a.png/2"),
    ("x.png", "X.png", "x.png~2.png"): ("x.png", "X.png~3", "x.png~2"),
    ("README",): ("README",),
}


@pytest.mark.parametrize("paths", NAMES)
def test_names_are_as_short_as_they_can_be(paths):
    """No ending, unless two would be one file or a file would be a folder; then the ending; then a number."""
    assert tuple(folder.unique_names([os.path.splitext(path)[0] for path in paths], paths)) == NAMES[paths]


def test_any_names_become_files_that_keep_apart():
    """All of them fit into one tree of files NAME.png, in which no two paths are one, however case is handled."""
    parts = ["a", "A", "a.png", "a.jpg", "a.png.png", "a~2", "a.png~2"]
    paths = [*parts, *("/".join(pair) for pair in itertools.product(parts, parts))]
    names = folder.unique_names([os.path.splitext(path)[0] for path in paths], paths)
    files = [f"{name}.png".lower() for name in names]
    folders = {str(parent) for file in files for parent in pathlib.PurePosixPath(file).parents}
    assert len(set(files)) == len(paths) and not folders & set(files)
