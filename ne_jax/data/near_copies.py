"""What a picture is known by, and which pictures of a set are nearly the same: frames of a video, a picture saved twice.

Each of them gets noise of its own, so the difference of their files is two noises and little else, which gives the directions away.
Equal pictures get the same noise, and give nothing away.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt64
from PIL import Image

_SIDE = 16  # a perceptual hash has 16 x 16 bits
_BANDS = 16  # of 16 bits each
# Bits of 256. Seen: JPEG of quality 30, half size, other brightness and a crop of 1 % change at most 18, 4, 8 and 30; the nearest two of
# 4,000 Fashion-MNIST images are 30 apart, the nearest crops of one photograph 82.
_NEAR = 25
_MOST = 256  # neighbours that are looked at in a band of which many pictures have the same, such as a plain background


class Known(NamedTuple):
    """content: SHA-256 of size, mode and pixels. look: a perceptual hash, 32 bytes, of which few bits change when the picture changes
    little."""

    content: bytes
    look: bytes


def known_by(picture: Image.Image) -> Known:
    """What an upright picture of mode "L" or "RGB" is known by."""
    import imagehash  # here, because it takes a third of a second

    digest = hashlib.sha256(f"{picture.mode} {picture.size}".encode())
    digest.update(picture.tobytes())
    return Known(digest.digest(), np.packbits(imagehash.phash(picture, hash_size=_SIDE).hash).tobytes())


def near_copies(looks: list[bytes], contents: list[bytes]) -> Int[np.ndarray, "pairs 2"]:
    """Places of pictures that are not equal but at most 25 bits of 256 apart, in pairs (lower, higher), sorted.

    Finds all pairs up to 15 bits apart, where no band of equal bits is shared by more than 256 pictures, and most of the others.
    """
    if len(looks) < 2:
        return np.empty((0, 2), np.int64)
    words = np.frombuffer(b"".join(looks), np.uint64).reshape(len(looks), -1)
    numbers: dict[bytes, int] = {}
    bands, same = words.view(np.uint16), np.array([numbers.setdefault(content, len(numbers)) for content in contents])
    found: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        order = np.lexsort((*words.T, bands[:, band]))
        for shift in range(1, min(len(order), _MOST)):
            one, other = order[:-shift], order[shift:]
            shared = bands[one, band] == bands[other, band]
            if not shared.any():
                break
            one, other = one[shared], other[shared]
            near = _near(words[one], words[other]) & (same[one] != same[other])
            found |= set(zip(np.minimum(one, other)[near].tolist(), np.maximum(one, other)[near].tolist(), strict=True))
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def _near(one: UInt64[np.ndarray, "n words"], other: UInt64[np.ndarray, "n words"]) -> Bool[np.ndarray, " n"]:
    return np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64) <= _NEAR
