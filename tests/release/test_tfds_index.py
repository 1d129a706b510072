"""Metadata of TensorFlow Datasets: what whoever reads the set by it would believe."""

import json

import pytest

from ne_jax.release import formats, tfds_index
from ne_jax.release.array_record import TFDS_FOLDER
from ne_jax.release.reasons import words

SHAPE = (6, 5, 3)


@pytest.fixture
def folder(tmp_path):
    formats.write_index(tmp_path, "array_record", SHAPE, [4, 0, 2], "What it is.")
    return tmp_path


def told(folder, shape=SHAPE, images=6):
    found = tfds_index.faults(folder, TFDS_FOLDER, shape, images)
    return {path.rpartition("/")[2]: words(reason) for path, reason in found.items()}


def test_what_encode_writes_is_true(folder):
    """Shards without an image too."""
    assert (
        told(folder)
        == {}
        == formats.index_faults(folder, "array_record", SHAPE, 6)
        == formats.index_faults(folder, "png8", SHAPE, 9)
    )


def test_what_is_not_so_is_told(folder):
    """Another number of images, another shape."""
    assert told(folder, images=7) == {"dataset_info.json": "tells of 6 images and not 7 images"}
    assert told(folder, shape=(6, 5, 1)) == {"features.json": "tells of uint8 (6, 5, 3) and not uint8 (6, 5, 1)"}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[" * 1000, '{"splits": 3, "featuresDict": 3}', '{"splits": [{"shardLengths": ["-1"]}]}', "\0"],
)
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_what_is_no_metadata_is_told(folder, name, text):
    """One line, whatever stands there; a file that is not there is missing."""
    (folder / TFDS_FOLDER / name).write_text(text)
    assert told(folder)[name].startswith("is no metadata of TensorFlow Datasets (")
    (folder / TFDS_FOLDER / name).unlink()
    assert told(folder) == {name: "is missing"}


def test_another_type_of_numbers_is_told(folder):
    """An image that is said to be something else than 8 bits."""
    path = folder / TFDS_FOLDER / "features.json"
    whole = json.loads(path.read_text())
    whole["featuresDict"]["features"]["image"]["tensor"]["dtype"] = "float32"
    path.write_text(json.dumps(whole))
    assert told(folder) == {"features.json": "tells of float32 (6, 5, 3) and not uint8 (6, 5, 3)"}
