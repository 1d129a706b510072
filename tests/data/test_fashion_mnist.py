from __future__ import annotations

import gzip
import re
import shutil

import numpy as np
import pytest

from ne_jax import UserError
from ne_jax.data import fashion_mnist

IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


@pytest.fixture
def folder(tmp_path):
    """A folder with a copy of the two embedded files."""
    for name in (IMAGES, LABELS):
        shutil.copy(fashion_mnist.ASSETS / name, tmp_path)
    return tmp_path


def idx(array: np.ndarray) -> bytes:
    """The IDX format of unsigned bytes, gzipped."""
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def test_the_embedded_test_set_is_whole():
    """10,000 images of 28 x 28 bytes, 1,000 of each of ten classes, in the published order."""
    images, labels = fashion_mnist.load("test")
    assert images.shape == (10_000, 28, 28) and images.dtype == np.uint8
    assert labels.shape == (10_000,) and labels.dtype == np.int32
    assert np.bincount(labels).tolist() == 10 * [1000]
    assert labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert len(fashion_mnist.CLASSES) == 10
    # The published test images: mean .2868, standard deviation .3524 of the range; black corners, white somewhere.
    assert (images.mean() / 255, images.std() / 255) == pytest.approx((0.2868, 0.3524), abs=5e-5)
    assert (images.min(), images.max()) == (0, 255)
    # Trousers (1) are dark between the legs and at the sides: the images are upright and belong to their labels.
    trousers = images[labels == 1].mean(0)
    assert trousers[:, 13:15].mean() > 3 * trousers[:, :5].mean()


def test_the_training_set_is_read_from_a_folder(tmp_path):
    """The split `train` reads the published names from the folder given, in order."""
    images = np.random.default_rng(0).integers(0, 256, (300, 28, 28))
    labels = np.arange(300) % 10
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(images))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    found_images, found_labels = fashion_mnist.load("train", tmp_path)
    assert np.array_equal(found_images, images) and np.array_equal(found_labels, labels)
    assert np.array_equal(fashion_mnist.load("train", str(tmp_path))[1], labels)


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_missing_files_are_named(folder, name):
    """Either file missing is told with its path and what the folder should hold."""
    (folder / name).unlink()
    with pytest.raises(UserError, match=re.escape(f"{folder / name}: no such file; give the folder")):
        fashion_mnist.load("test", folder)


@pytest.mark.parametrize("name", [IMAGES, LABELS])
@pytest.mark.parametrize("kept", [0, 5, 3000, -4])
def test_truncated_files_are_named(folder, name, kept):
    """A file cut anywhere is told with its path: never half a data set."""
    path = folder / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=re.escape(str(path)) + ": not .*; fetch it again"):
        fashion_mnist.load("test", folder)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>404</html>",
        gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01abcd"),
        gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x09abc"),
        gzip.compress(b"\x00\x00\x08\x03\x00"),
        gzip.compress(b"\x00\x00\x08"),
    ],
    ids=["web page", "floats", "fewer labels than announced", "half a header", "quarter of a header"],
)
def test_foreign_files_are_named(folder, content):
    """A web page, other numbers and an IDX file cut before it was packed are told with the path."""
    path = folder / LABELS
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path)) + ": not .*; fetch it again"):
        fashion_mnist.load("test", folder)


@pytest.mark.parametrize("position", [1000, 2000, 4000])
def test_corrupted_files_are_named(folder, position):
    """A changed byte in the middle is told with the path: by the checksum, or where unpacking breaks."""
    path = folder / LABELS
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=re.escape(str(path)) + ": not .*; fetch it again"):
        fashion_mnist.load("test", folder)
