"""Tars in WebDataset's form, read at random."""

import gzip
import io
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from ne_jax.data import webdataset
from ne_jax.data.images import BrokenImage
from ne_jax.errors import UserError

LIMIT = 10**8


def picture(level: int, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 2), level).save(file, file_format)
    return file.getvalue()


def write_tar(path: pathlib.Path, members: list[tuple[str, bytes]], tar_format: int = tarfile.PAX_FORMAT) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def levels(samples: webdataset.Samples) -> dict[str, int]:
    """Key -> the grey level of its image, as read."""
    return {
        key: int(np.asarray(webdataset.read(samples, place, LIMIT))[0, 0]) for place, key in enumerate(samples.keys)
    }


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_and_classes_are_found(tmp_path, tar_format):
    """KEY goes to the first dot of the last part, below folders too, in each format of tar, with long and foreign names."""
    long = "very/" * 18 + "long"
    members = [("a.PNG", picture(1)), ("a.cls", b"7\n"), ("x.y/b.png", picture(2)), ("x.y/b.cls", b" 0 ")]
    members += [(f"{long}.png", picture(3)), (f"{long}.cls", b"12"), ("./ü 猫.png", picture(4)), ("./ü 猫.cls", b"5")]
    samples = webdataset.index(write_tar(tmp_path / "one.tar", members, tar_format))
    assert levels(samples) == {"a": 1, "x.y/b": 2, long: 3, "ü 猫": 4}
    assert samples.labels.tolist() == [7, 0, 12, 5] and samples.labels.dtype == np.int32


def test_the_image_is_the_first_known_ending(tmp_path):
    """jpg before png, whatever their order in the tar; other endings, hidden and foreign members are no image."""
    members = [("a.png", picture(9)), ("a.seg.png", picture(8)), ("a.jpg", picture(1, "JPEG")), ("a.json", b"{}")]
    members += [("b.tiff", picture(2, "TIFF")), ("b.txt", b"x"), ("c.txt", b"x"), ("._d.png", b"x"), ("README", b"x")]
    samples = webdataset.index(write_tar(tmp_path / "one.tar", members))
    assert levels(samples) == {"a": 1, "b": 2} and samples.labels is None


def test_links_are_broken_images(tmp_path):
    """A tar holds a link where its maker saw one image twice: it is told with the way out, not lost. Folders are nothing."""
    with tarfile.open(tmp_path / "one.tar", "w") as tar:
        for name, kind in (("d.png", tarfile.DIRTYPE), ("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.png"
            tar.addfile(member)
        for name, content in (("a.png", picture(1)), ("a.cls", b"3")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    samples = webdataset.index(str(tmp_path / "one.tar"))
    assert samples.keys == ["l", "h", "a"] and samples.labels.tolist() == [0, 0, 3] and not samples.left_out
    for place, key in enumerate("lh"):
        with pytest.raises(
            BrokenImage, match=f"one.tar/{key}: a link in the tar; make the tar with --dereference --hard-der"
        ):
            webdataset.read(samples, place, LIMIT)
    assert np.asarray(webdataset.read(samples, 2, LIMIT))[0, 0] == 1


def test_a_key_ends_at_its_first_dot(tmp_path):
    """As WebDataset splits names. An image with further dots is broken, with what to do, where the key has no other; beside one it
    is another field. No member is dropped without being counted."""
    members = [("x/a.v2.jpg", picture(1)), ("x/a.cls", b"1"), ("b.001.png", picture(2)), ("b.002.png", picture(3))]
    members += [("c.png", picture(4)), ("c.seg.png", picture(5)), ("c.cls", b"2"), ("d.tar.gz", b""), ("e.cls", b"7")]
    samples = webdataset.index(write_tar(tmp_path / "one.tar", members))
    assert samples.keys == ["x/a", "b", "c"] and samples.labels.tolist() == [1, 0, 2]
    assert samples.left_out == {".002.png": 1, ".seg.png": 1, ".tar.gz": 1, ".cls": 1}
    told = "WebDataset ends a key at its first dot, so its ending is .v2.jpg; rename it to one dot"
    with pytest.raises(BrokenImage, match=f'one.tar/x/a: "x/a.v2.jpg": {told}$'):
        webdataset.read(samples, 0, LIMIT)
    assert np.asarray(webdataset.read(samples, 2, LIMIT))[0, 0] == 4


def test_every_member_is_an_image_a_class_or_counted(tmp_path):
    """Whatever the names: samples, their classes and what is left out add up to the members."""
    names = [
        f"{key}.{ending}"
        for key in ("a", "b/c", "d e", "ü")
        for ending in ("png", "jpg", "json", "x.jpg", "cls", "CAP")
    ]
    names += ["README", ".hidden.png", "._a.png", "f/.g", "h.txt", "i.cls", "j.a.b.tiff"]
    samples = webdataset.index(write_tar(tmp_path / "one.tar", [(name, b"1") for name in names]))
    assert len(samples.keys) == 5 and samples.labels is not None
    assert len(samples.keys) + 4 + sum(samples.left_out.values()) == len(names)


def test_the_remark_is_short():
    """The most frequent endings by name and the rest as a number, in one line."""
    line = webdataset.remark("set/*.tar", {".json": 9, **{f".{number}.jpg": 1 for number in range(10)}})
    assert line.startswith(
        'data.path "set/*.tar": members that are no image (jpg, jpeg, png, webp, bmp, tif, tiff) and no class'
    )
    assert (
        line.endswith("left out: 9 .json, 1 .0.jpg, 1 .1.jpg, 1 .2.jpg, 1 .3.jpg, 6 of 6 other endings")
        and "\n" not in line
    )


def test_labels_are_of_all_or_of_none(tmp_path):
    """A set in which one image has no class has no labels: nothing is made up."""
    members = [("a.png", picture(1)), ("a.cls", b"3"), ("b.png", picture(2))]
    assert webdataset.index(write_tar(tmp_path / "one.tar", members)).labels is None
    members += [("b.cls", b"-99999999999")]
    assert webdataset.index(write_tar(tmp_path / "one.tar", members)).labels.tolist() == [3, -1]


def test_a_path_may_be_a_folder_a_file_a_pattern_or_a_range(tmp_path):
    """Tars in the order of their names, or of the range, each time the same."""
    for number in (0, 1, 2, 10):
        write_tar(tmp_path / "set [1]" / f"{number:02d}.tar", [(f"k{number}.png", picture(number))])
    (tmp_path / "set [1]" / "notes.txt").write_text("no tar")
    found = {
        place: webdataset.index(str(tmp_path / place)).keys
        for place in ("set [1]", "set [1]/02.tar", "set ?1]/0*.tar", "set [1]/{00..02}.tar", "set [1]/{0..1}{0..0}.tar")
    }
    assert list(found.values()) == [
        ["k0", "k1", "k2", "k10"],
        ["k2"],
        ["k0", "k1", "k2"],
        ["k0", "k1", "k2"],
        ["k0", "k10"],
    ]


@pytest.mark.parametrize("place", ["", "*.tar", "{00..02}.tar", "{3..1}.tar"])
def test_a_path_without_tars_is_named(tmp_path, place):
    """An empty folder, a pattern that nothing fits, a range with a gap or backwards: one line that names it."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.tar.gz").write_bytes(b"")
    with pytest.raises(
        UserError, match=r'^data.path "[^\n]+": no such .tar file; give a folder of them, a file, a pattern'
    ):
        webdataset.index(str(tmp_path / "empty" / place))


def test_a_key_that_is_not_utf8_can_be_printed(tmp_path):
    """Members are found by their place, so their names need not be text; what is shown of them is."""
    path = write_tar(tmp_path / "one.tar", [("caf\udce9.png", picture(1))], tarfile.GNU_FORMAT)
    assert levels(webdataset.index(path)) == {"caf\\xe9": 1}


def _cut(path: pathlib.Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


WHOLE = [("a.png", picture(1)), ("b.png", picture(2))]
BAD = {
    "missing": (lambda path: path.unlink(), 'one.tar": no such .tar file; give a folder of them'),
    "empty file": (lambda path: _cut(path, 0), "one.tar: not a whole tar file (empty file); fetch it again"),
    "text": (lambda path: path.write_text("x" * 2000), "one.tar: not a whole tar file"),
    "cut in the first header": (lambda path: _cut(path, 100), "one.tar: not a whole tar file"),
    "cut in an image": (lambda path: _cut(path, 520), "one.tar: not a whole tar file (unexpected end of data)"),
    "cut in a later header": (
        lambda path: _cut(path, 1024 + 100),
        "one.tar: not a whole tar file (no mark of its end)",
    ),
    "cut between members": (lambda path: _cut(path, 1024), "one.tar: not a whole tar file (no mark of its end)"),
    "cut after the last member": (lambda path: _cut(path, 2048), "one.tar: not a whole tar file (no mark of its end)"),
    "damaged header": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"b.png\0", b"c.png\0")),
        "one.tar: not a whole tar file (no mark of its end)",
    ),
    "gzip": (
        lambda path: path.write_bytes(gzip.compress(path.read_bytes())),
        "one.tar: compressed (gzip), so nothing in it can be found; unpack it to a plain tar",
    ),
    "no member": (lambda path: write_tar(path, []), "one.tar: no member is an image (jpg, jpeg, png"),
    "no image": (lambda path: write_tar(path, [("a.txt", b"x"), ("a.cls", b"1")]), "one.tar: no member is an image"),
    "twice": (lambda path: write_tar(path, [*WHOLE, ("./b.PNG", b"")]), 'one.tar: member "./b.PNG" is there twice'),
    "upwards": (
        lambda path: write_tar(path, [("x/../../b.png", b"")]),
        'member "x/../../b.png" lies outside of the tar',
    ),
    "absolute": (lambda path: write_tar(path, [("/b.png", b"")]), 'member "/b.png" lies outside of the tar'),
    "class out of range": (
        lambda path: write_tar(path, [*WHOLE, ("b.cls", b"99999999999")]),
        "one.tar: b.cls holds b'99999999999', and class numbers end at 999999; write numbers from 0 on, or leave the .cls",
    ),
    "class of a million": (
        lambda path: write_tar(path, [*WHOLE, ("b.cls", b"1000000")]),
        "one.tar: b.cls holds b'1000000', and class numbers end at 999999",
    ),
    "class of many digits": (
        lambda path: write_tar(path, [*WHOLE, ("b.cls", b"1" * 5000)]),
        f"one.tar: b.cls holds {b'1' * 20!r}, not a class number",
    ),
    "class with a line in it": (
        lambda path: write_tar(path, [*WHOLE, ("b.cls", b"1_0")]),
        "one.tar: b.cls holds b'1_0', not a class number",
    ),
    "empty class": (
        lambda path: write_tar(path, [*WHOLE, ("b.cls", b"")]),
        "one.tar: b.cls holds b'', not a class number",
    ),
    "class of letters": (
        lambda path: write_tar(path, [*WHOLE, ("b.cls", b"cat")]),
        "one.tar: b.cls holds b'cat', not a class number; write numbers, or leave the .cls members out",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_tar_is_told_in_one_line(tmp_path, name):
    """A tar that cannot be indexed stops the run with its name, what is wrong, and the way out."""
    damage, part = BAD[name]
    path = tmp_path / "one.tar"
    write_tar(path, WHOLE, tarfile.USTAR_FORMAT)
    assert len(path.read_bytes()) > 2048 and len(webdataset.index(str(path)).keys) == 2
    damage(path)
    with pytest.raises(UserError) as caught:
        webdataset.index(str(path))
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_an_image_that_cannot_be_read_is_broken(tmp_path):
    """An empty or damaged member, and a tar that went away or was cut after it was indexed, cost their images only."""
    members = [("a.png", b""), ("b.png", b"no image"), ("c.png", picture(3))]
    path = tmp_path / "one.tar"
    samples = webdataset.index(write_tar(path, members))
    for place, part in ((0, "a: empty file"), (1, "b: not an image")):
        with pytest.raises(BrokenImage, match=f"^{path}/{part}$"):
            webdataset.read(samples, place, LIMIT)
    assert webdataset.read(samples, 2, LIMIT).size == (3, 2)
    _cut(path, int(samples.offset[2]) + 20)
    with pytest.raises(BrokenImage, match=f"^{path}/c: [^\n]+$"):
        webdataset.read(samples, 2, LIMIT)
    path.unlink()
    with pytest.raises(BrokenImage, match=f"^{path}/c: No such file or directory$"):
        webdataset.read(samples, 2, LIMIT)
