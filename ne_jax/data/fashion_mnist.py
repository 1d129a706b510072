"""Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747; MIT licence) in the format of the four published files.

The test set is shipped with this package, as Debian's dataset-fashion-mnist packs it. The training set is read from a folder that
holds the published .gz files, or Debian's.
"""

from __future__ import annotations

import gzip
import pathlib
import zlib
from typing import Literal

import numpy as np
from jaxtyping import Int32, UInt8

from ne_jax.errors import UserError

ASSETS = pathlib.Path(__file__).parent.parent / "assets" / "fashion_mnist"
CLASSES = (
    "t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_PREFIX = {"train": "train", "test": "t10k"}


def _read_idx(path: pathlib.Path) -> UInt8[np.ndarray, "..."]:
    """Read one gzipped IDX file of unsigned bytes (magic 00 00 08 rank, then big-endian sizes)."""
    try:
        with gzip.open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; give the folder with the four published Fashion-MNIST .gz files"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    rank = data[3] if len(data) > 3 and data[:3] == b"\x00\x00\x08" else 0
    head = 4 + 4 * rank
    shape = tuple(int(size) for size in np.frombuffer(data[4:head], ">u4")) if rank and len(data) >= head else ()
    if not shape or len(data) - head != np.prod(shape):
        raise UserError(f"{path}: not a whole IDX file of unsigned bytes; fetch it again")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def load(
    split: Literal["train", "test"], folder: str | pathlib.Path = ASSETS
) -> tuple[UInt8[np.ndarray, "n 28 28"], Int32[np.ndarray, " n"]]:
    """Images (uint8) and labels (0..9) of a split, in the published order."""
    folder, prefix = pathlib.Path(folder), _PREFIX[split]
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    if len(images) != len(labels):
        raise UserError(f"{folder}: {len(images)} {split} images and {len(labels)} labels; fetch the files again")
    return images, labels.astype(np.int32)
