"""Tars of PNG files, read a few images at a time."""

import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ne_jax.release import tar
from ne_jax.release.blocks import Expected
from ne_jax.release.reasons import Unreadable
from tests import hostile

SHAPE = (6, 5, 3)


def written(folder, count):
    images = np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)
    names = [f"a.b/{'ü' * (number % 120)}{number}" for number in range(count)]
    with ThreadPoolExecutor(2) as pool:
        (relative,) = tar.write(folder, 0, 1, names, images, [{}] * count, pool)
    return folder / relative, names, images


@pytest.mark.parametrize("count", [0, 1, 64, 65, 150])
def test_blocks_are_the_whole_file(tmp_path, count):
    """In order, names with dots and of any length too; a tar of no image is one empty block."""
    path, names, images = written(tmp_path, count)
    with open(path, "rb") as file:
        found = list(tar.read(file, "", Expected(SHAPE, np.uint8, count)))
    assert max(len(block) for block, _ in found) <= 64
    assert [name for block, _ in found for name in block] == names
    np.testing.assert_array_equal(np.concatenate([block for _, block in found]), images)


def test_memory_does_not_grow_with_members(tmp_path):
    """Members that were read are forgotten, which tarfile's own list would not."""
    path, *_ = written(tmp_path, 800)
    tracemalloc.start()
    with open(path, "rb") as file:
        assert sum(len(names) for names, _ in tar.read(file, "", Expected(SHAPE, np.uint8, 800))) == 800
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 600_000


@pytest.mark.parametrize(
    "name", ["a sparse member of 6 GB", "a name of 8 GB", "a link", "a PAX head of 6 GB", "an empty member", "noise"]
)
def test_what_is_not_such_a_file_is_told(tmp_path, name):
    """Of the many in tests/hostile.py, by this reader alone."""
    (tmp_path / "x.tar").write_bytes(hostile.TARS[name]())
    with open(tmp_path / "x.tar", "rb") as file, pytest.raises((Unreadable, tarfile.TarError)):
        list(tar.read(file, "", Expected((112, 112, 1), np.uint8, 4)))
