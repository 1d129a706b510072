"""Releases that strangers made to harm: whatever stands in them, verify says what is wrong, opens nothing outside, and takes little."""

import ast
import itertools
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from ne_jax.errors import UserError
from ne_jax.models.loading import load_model
from ne_jax.release import verify
from ne_jax.release.manifest import MANIFEST
from tests import hostile, in_process, jobs
from tests.pins import OLD_RELEASE

MOST_SECONDS, MOST_MEBIBYTES = 20, 400
# What takes long to make; of each kind there is one that does not.
_WORDS = ("1 GiB", "lines, as claimed", "bzip2", "lzma", "long names", "100 files")
LONG = [name for name in hostile.FOLDERS if any(word in name for word in _WORDS)]


@pytest.fixture(scope="module")
def model():
    return load_model("vit_a")


@pytest.fixture(scope="module")
def good(tmp_path_factory, model):
    """good(format): a release as it should be, beside the bait, verified once so that all programs are compiled."""
    root = tmp_path_factory.mktemp("strangers")
    (root / hostile.BAIT).write_text("bait")
    for name in ("png8", "float32", "webdataset", "array_record"):
        hostile.honest(root / name, name)
        hostile.watched(root / name, model)
    return lambda name: root / name


@pytest.fixture
def place(good, tmp_path_factory):
    """A folder below the bait, removed afterwards also where Python's own way would not get to its end."""
    folder = good("bait").parent / "made"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


# In a process of its own: the checks of types that tests have would take longer than what they check, a million times.
APART = """
import pathlib, sys
from ne_jax.models.loading import load_model
from tests import hostile
from tests.pins import OLD_RELEASE
model = load_model("vit_a")
hostile.watched(OLD_RELEASE / "png8", model)
seen = hostile.watched(pathlib.Path(sys.argv[1]), model)
print(repr(tuple(seen)))
"""


def apart(folder: pathlib.Path) -> hostile.Seen:
    command = [sys.executable, "-c", APART, str(folder)]
    done = subprocess.run(command, cwd=jobs.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return hostile.Seen(*ast.literal_eval(done.stdout))


def held(folder: pathlib.Path, model, watched=hostile.watched) -> hostile.Seen:
    seen = watched(folder, model)
    assert seen.outside == [], seen
    assert seen.seconds < MOST_SECONDS and seen.waited < 5 * MOST_SECONDS and seen.mebibytes < MOST_MEBIBYTES, seen
    assert not seen.refused or ("\n" not in seen.told and seen.told.isprintable()), seen.told
    assert all(line.isprintable() for line in seen.told.splitlines())
    return seen


@pytest.mark.parametrize("release_format", ["png8", "float32", "webdataset", "array_record"])
def test_an_honest_release_holds(good, model, release_format):
    """What finds hostile ones has nothing to say against a good one."""
    seen = held(good(release_format), model)
    assert seen.told.endswith("the release holds")


def changed_manifests(good, place, model, count):
    """What verify told of that many manifests of a certified release."""
    folder = pathlib.Path(shutil.copytree(OLD_RELEASE / "png8", place / "release"))
    whole = json.loads((folder / MANIFEST).read_text())
    for data in itertools.islice(hostile.manifests(whole), count):
        (folder / MANIFEST).write_bytes(data)
        yield held(folder, model)


def test_changed_manifests(good, place, model):
    """T2: a manifest with anything anywhere is told in one line, or found wanting, and never a traceback."""
    found = list(changed_manifests(good, place, model, 400))
    assert sum(seen.refused for seen in found) > 200 and sum("is BROKEN" in seen.told for seen in found) > 20


@pytest.mark.slow
def test_five_thousand_changed_manifests(good, place, model):
    """T2, in full; the sibling above has the first 400."""
    assert len(list(changed_manifests(good, place, model, 5000))) == 5000


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in hostile.FOLDERS]
)
def test_hostile_folders(good, place, model, name):
    """T3, T4: names that lead out, links, pipes, holes, bombs, lying heads: the release is broken or refused, within the limits."""
    folder = pathlib.Path(shutil.copytree(good(hostile.FOLDERS[name].format), place / "release"))
    hostile.FOLDERS[name].make(folder)
    watched = (lambda folder, _: apart(folder)) if name == "sums: a million lines, as claimed" else hostile.watched
    seen = held(folder, model, watched)
    assert seen.refused or "the release is BROKEN" in seen.told or name in HARMLESS, seen.told


# Odd, and yet the pixels that the sums name.
HARMLESS = ("png8: right size, 1 GiB of data", "png8: a head after another")

TOLD = {
    "sums: up": f"../{hostile.BAIT}: is no plain path to a file of the release, and is not opened",
    "a file is a link": "images/test/00001.png: is a link or lies behind one, and is not followed: put the file itself there, as by cp -rL",
    "a folder is a link": "every image file: is a link or lies behind one",
    "a file is a pipe": "images/test/00001.png: is a pipe and no file",
    "sums: a million lines": "has more lines than manifest.json has images",
    "sums: a line of 300 MB": "SHA256SUMS: line 5 is no line of sha256sum",
    "sums: all names again": "SHA256SUMS: line 5 names a file again",
    "a file of 6 GB": "images/test/00001.png: has more than 17,850,880 bytes, the most that such a file can have",
    "a tar of 6 GB": "shards/00000.tar: is not read: it is large, and nearly all of it is a hole that takes no disk",
    "float32: shape of a billion": "it holds more than the 4 images that the release has",
    "float32: the largest float": "shards/00000.npz: image a makes the model give numbers that are not finite",
    "webdataset: a sparse member of 6 GB": "it has a member a.png that is no whole file of its own",
    "webdataset: a PAX head of 6 GB, as claimed": "it has a longer list of its content than can be",
    "array_record: many records of 64 MiB": "it unpacks to more than 16,802,304 bytes at once",
    "TFDS: another number": "it tells of 1000000000 images and not 4 images",
    "the manifest has 6 GB": "manifest.json has more than 1,048,576 bytes, the most that such a file can have",
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_what_is_told(good, place, model, name):
    """Each faulty file is listed with what is wrong with it, in words that say what to do or why."""
    folder = pathlib.Path(shutil.copytree(good(hostile.FOLDERS[name].format), place / "release"))
    hostile.FOLDERS[name].make(folder)
    seen = hostile.watched(folder, model)
    assert TOLD[name] in seen.told, seen.told


def test_the_command_tells_in_a_line_or_a_verdict(good, place):
    """Exit status 1 and the file for a release that is broken, 2 and one line for a manifest that is none."""
    folder = pathlib.Path(shutil.copytree(good("png8"), place / "release"))
    hostile.FOLDERS["a file is a pipe"].make(folder)
    done = in_process.call("--stage=verify", f"--release={folder}")
    assert done.returncode == 1 and "images/test/00001.png: is a pipe and no file\n" in done.stdout
    (folder / MANIFEST).write_text("[" * 100_000)
    told = jobs.told(in_process.call("--stage=verify", f"--release={folder}"))
    assert told.endswith("not a whole JSON file (more than 32 brackets in each other); restore it as it was made")


ABSURD = {
    "a billion images": ({"images": 10**9}, "images: expected `int` <= 100000000"),
    "a square of 65,535": ({"image_shape": [65535, 65535, 3]}, "image_shape: an image of more than 268,435,456 numbers"),
    "a side of 10 ** 9": ({"image_shape": [10**9, 1, 1]}, "image_shape[0]: expected `int` <= 65535"),
    "no image side": ({"image_shape": [0, 1, 1]}, "image_shape[0]: expected `int` >= 1"),
    "loud": ({"psnr_db_realised": {"min": -1e9, "median": 0, "max": 0}}, "psnr_db_realised.min: expected `float` >= -1000"),
    "a terminal's commands": ({"design": "\x1b[2J"}, "design: expected `str` matching regex"),
}  # fmt: skip


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_claims_are_refused_by_name(good, place, model, name):
    """A manifest that claims what no release can be is not followed into the files."""
    change, told = ABSURD[name]
    folder = pathlib.Path(shutil.copytree(good("png8"), place / "release"))
    hostile.reseal(folder, **change)
    seen = held(folder, model)
    assert seen.refused and told in seen.told, seen.told


CLAIMS = {
    "a forged n": ({"n": 10**8, "bound_holds": 10**8, "prediction_kept": 10**8}, "its certificate says n 1e+08, counted anew it is 4"),
    "n beyond all": ({"n": 10**12}, "its certificate is not as --stage=check writes it (n: expected `int` <= 100000000)"),
    "more kept than there are": ({"prediction_kept": 5}, "counts more than 4 images"),
    "less than none": ({"prediction_kept": -1}, "prediction_kept: expected `int` >= 0"),
    "a spread that allows all": ({"stored": {"margin": [-1e308, 0, 1e308], "feature_norm": [0, 0, 0]}}, "expected `float` >= -1e+30"),
    "a share of 2": ({"prediction_lost_at_most": 2.0}, "prediction_lost_at_most: expected `float` <= 1.0"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_forged_certificates_are_found(place, model, name):
    """A certificate of a number that takes memory to count with is a fault of the manifest, found without taking it."""
    change, told = CLAIMS[name]
    folder = pathlib.Path(shutil.copytree(OLD_RELEASE / "png8", place / "release"))
    whole = json.loads((folder / MANIFEST).read_text())
    hostile.reseal(folder, certificate=whole["ne"]["certificate"] | change)
    seen = held(folder, model)
    assert not seen.refused and seen.mebibytes < 50 and told in seen.told, seen.told


@pytest.mark.parametrize("directions", [0, 784, 10**8])
def test_directions_that_a_layer_has_not(place, model, directions):
    """T2: with `directions: 0` and a damaged file there is a verdict all the same."""
    folder = pathlib.Path(shutil.copytree(OLD_RELEASE / "png8", place / "release"))
    hostile.reseal(folder, directions=directions)
    shutil.copy(folder / "images/test/00000.png", folder / "images/test/00001.png")
    (folder / "images/test/00002.png").write_bytes((folder / "images/test/00000.png").read_bytes() + b"more")
    seen = held(folder, model)
    assert "images/test/00001.png: is the file that was released as images/test/00000.png" in seen.told
    assert "images/test/00002.png: other bytes: its pixels changed" in seen.told


def test_the_watch_sees(tmp_path, monkeypatch, model):
    """The tests above would see a file that is opened outside, one behind a link, a list of a folder, and memory that is taken."""
    outside, behind = tmp_path / hostile.BAIT, tmp_path / "release" / "link"
    outside.write_text("bait")
    behind.parent.mkdir()
    behind.symlink_to(outside)

    def reckless(folder, *_):
        bytes(bytearray(b"1") * (1 << 27))
        list(tmp_path.iterdir())
        raise UserError(outside.read_text() + behind.read_text() + (folder / "own").read_text())

    (behind.parent / "own").write_text("own")
    monkeypatch.setattr(verify, "run", reckless)
    seen = hostile.watched(behind.parent, model)
    assert sorted(seen.outside) == sorted(map(str, (tmp_path, outside, behind)))
    assert seen.refused and seen.told == "baitbaitown" and seen.mebibytes > 100
