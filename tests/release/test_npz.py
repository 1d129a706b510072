"""npz files, read a few images at a time."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from ne_jax.release import npz
from ne_jax.release.blocks import Expected
from ne_jax.release.reasons import Unreadable
from tests import hostile


def saved(images: np.ndarray, names: list[str], save=np.savez) -> io.BytesIO:
    buffer = io.BytesIO()
    save(buffer, images=images, names=np.array(names, np.str_))
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_blocks_are_the_whole_file(count, save):
    """In order, each name with its image, packed or not, none twice; a file of no image is one empty block."""
    images = np.random.default_rng(0).normal(size=(count, 4, 5, 3)).astype(np.float32)
    names = [f"ü/{number}\U0001f600" for number in range(count)]
    found = list(npz.read(saved(images, names, save), "", Expected((4, 5, 3), np.float32, count)))
    assert max(len(block) for block, _ in found) <= 64 and len(found) == max(1, -(-count // 64))
    assert [name for block, _ in found for name in block] == names
    np.testing.assert_array_equal(np.concatenate([block for _, block in found]), images)


def test_memory_is_that_of_a_block():
    """32 MiB of images, whatever the file has, and no more for what it says."""
    images = np.ones((256, 256, 256, 3), np.float16)
    file = saved(images, [str(number) for number in range(256)])
    tracemalloc.start()
    for _ in npz.read(file, "", Expected((256, 256, 3), np.float16, 256)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2**25 + 2**22 < images.nbytes * 1.1


def test_packed_names_may_be_long():
    """Names are padded to the longest, so they pack to much less; this is no bomb."""
    images = np.random.default_rng(0).normal(size=(300, 4, 5, 3)).astype(np.float32)
    names = ["x" * 2000] + [str(number) for number in range(299)]
    found = list(npz.read(saved(images, names, np.savez_compressed), "", Expected((4, 5, 3), np.float32, 300)))
    assert [name for block, _ in found for name in block] == names


@pytest.mark.parametrize(
    "name", ["shape larger than its data", "objects", "not finite", "names beyond Unicode", "a head of minus signs"]
)
def test_what_is_not_such_a_file_is_told(name):
    """Of the many in tests/hostile.py, by this reader alone."""
    with pytest.raises((Unreadable, ValueError)):
        list(npz.read(io.BytesIO(hostile.NPZ[name]()), "", Expected((112, 112, 1), np.float32, 4)))


def test_bytes_that_were_changed_are_found():
    """The zip file's own checksum counts, though images are given out before its end."""
    images = np.random.default_rng(0).normal(size=(100, 4, 5, 3)).astype(np.float32)
    data = bytearray(saved(images, [str(number) for number in range(100)]).getvalue())
    data[2000] ^= 1
    with pytest.raises(zipfile.BadZipFile):
        list(npz.read(io.BytesIO(data), "", Expected((4, 5, 3), np.float32, 100)))
