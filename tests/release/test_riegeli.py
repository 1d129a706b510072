"""What an ArrayRecord file says that it unpacks to: every honest one passes, and none that says too much is given to its reader."""

import struct

import numpy as np
import pytest
from array_record.python import array_record_module

from ne_jax.release import riegeli
from ne_jax.release.blocks import Expected
from ne_jax.release.reasons import Reason, Unreadable


def written(path, sizes, options="group_size:1"):
    rng = np.random.default_rng(len(sizes))
    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for size in sizes:
        writer.write(rng.bytes(size))
    writer.close()
    return path


def check(path, expected):
    with open(path, "rb") as file:
        riegeli.check(file, expected)


@pytest.mark.parametrize("size", [0, 1, 100, 65_400, 65_512, 65_536, 131_024, 400_000, 3_000_000])
@pytest.mark.parametrize("count", [1, 7])
def test_honest_files_pass(tmp_path, size, count):
    """Records that end in, at and behind the heads of blocks; and none at all."""
    path = written(tmp_path / "x", [size] * count)
    check(path, Expected((size // 2 + 1, 1, 1), np.uint8, count))
    assert array_record_module.ArrayRecordReader(str(path)).num_records() == count


@pytest.mark.parametrize("seed", range(6))
def test_files_of_records_of_any_size_pass(tmp_path, seed):
    """Chunk by chunk to the last byte, wherever blocks begin."""
    rng = np.random.default_rng(seed)
    sizes = [int(size) for size in rng.choice((0, 10, 1000, 65_000, 66_000, 200_000), 60) + rng.integers(0, 100, 60)]
    check(written(tmp_path / "x", sizes), Expected((200_100, 1, 1), np.uint8, 60))
    check(written(tmp_path / "y", []), Expected((1, 1, 1), np.uint8, 0))
    check(written(tmp_path / "z", sizes, "group_size:7"), Expected((200_100, 1, 1), np.uint8, 60))


def test_a_record_of_many_bytes_is_refused(tmp_path):
    """Zeros pack to next to nothing, and unpack to gigabytes."""
    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "x"), "group_size:1")
    writer.write(bytes(1 << 26))
    writer.close()
    assert (tmp_path / "x").stat().st_size < 1 << 20
    with pytest.raises(Unreadable) as caught:
        check(tmp_path / "x", Expected((112, 112, 1), np.uint8, 1))
    assert caught.value.reason == Reason("unpacks", (2 * 112 * 112 + (1 << 24),))


@pytest.mark.parametrize(
    ("place", "value", "kind"),
    [
        (8, 1 << 62, "cut short"), (8, 0, "no array_record"), (24, ord("t"), "no array_record"), (24, (1 << 40) + ord("r"), "unpacks"),
        (32, 1 << 50, "unpacks"),
    ],
)  # fmt: skip
def test_lying_heads_are_told(tmp_path, place, value, kind):
    """Stored size, kind, number of records and unpacked size of the first record's chunk."""
    data = bytearray(written(tmp_path / "x", [100] * 3).read_bytes())
    data[64 + place : 72 + place] = struct.pack("<Q", value)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(Unreadable) as caught:
        check(tmp_path / "x", Expected((100, 1, 1), np.uint8, 3))
    assert caught.value.reason.kind == kind
