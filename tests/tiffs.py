"""TIFF files written number by number, and what is read of them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest

from ne_jax.data.images import BrokenImage, open_image

RNG = np.random.default_rng(0)


TYPES = {1: "B", 3: "H", 4: "I", 5: "II"}


WHITE, BLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6


def packed(values: np.ndarray, bits: int, order: str) -> bytes:
    """Rows of numbers, each of `bits` bits, each row filled up to a whole byte."""
    if bits in (8, 16, 32, 64):
        return values.astype(f"{order}i{bits // 8}").tobytes()
    each = values.reshape(len(values), -1, 1) >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(each.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def tiff(
    values: np.ndarray, bits: int, photometric: int, order="<", planar=1, rows=5, pack=None, fill=1, tags=None
) -> bytes:
    """A TIFF of `values` (height, width, samples). tags: number -> (type, values), further ones or others."""
    height, width, samples = values.shape
    planes = np.moveaxis(values, -1, 0)[..., None] if planar == 2 else [values]
    strips = [packed(plane[top : top + rows], bits, order) for plane in planes for top in range(0, height, rows)]
    if fill == 2:
        strips = [
            np.packbits(np.unpackbits(np.frombuffer(strip, np.uint8)), bitorder="little").tobytes() for strip in strips
        ]
    strips = [zlib.compress(strip) for strip in strips] if pack == 8 else strips
    places = np.cumsum([8, *map(len, strips)])
    entries = {256: (3, [width]), 257: (3, [height]), 258: (3, [bits] * samples), 259: (3, [pack or 1])}
    entries |= {262: (3, [photometric]), 266: (3, [fill]), 273: (4, places[:-1]), 277: (3, [samples]), 278: (3, [rows])}
    entries |= {279: (4, list(map(len, strips))), 284: (3, [planar]), **(tags or {})}
    return header(order, places[-1]) + b"".join(strips) + directory(entries, order, int(places[-1]))


def header(order: str, first: int) -> bytes:
    return {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, first)


def directory(entries: dict, order: str, place: int, following: int = 0) -> bytes:
    """Tags in their order, as they lie at `place` of the file, and behind them the values that do not fit."""
    kept = {tag: entry for tag, entry in sorted(entries.items()) if entry is not None}
    table, more, far = [struct.pack(f"{order}H", len(kept))], [], place + 6 + 12 * len(kept)
    for tag, (kind, values) in kept.items():
        content = struct.pack(
            f"{order}{TYPES[kind] * (len(values) if kind != 5 else len(values) // 2)}", *map(int, values)
        )
        count = len(values) // 2 if kind == 5 else len(values)
        if len(content) > 4:
            more.append(content)
            content = struct.pack(f"{order}I", far)
            far += len(more[-1])
        table.append(struct.pack(f"{order}HHI", tag, kind, count) + content.ljust(4, b"\0"))
    return b"".join((*table, struct.pack(f"{order}I", following), *more))


def read(data: bytes) -> np.ndarray:
    return np.asarray(open_image(io.BytesIO(data), "x"))


def refused(data: bytes) -> str:
    with pytest.raises(BrokenImage) as caught:
        read(data)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("x: ")


def numbers(bits: int, samples: int = 1, shape=(11, 13)) -> np.ndarray:
    values = RNG.integers(0, 2**bits, (*shape, samples), np.int64)
    values[0, :2] = [[0], [2**bits - 1]]
    return values


def eight(values: np.ndarray, bits: int) -> np.ndarray:
    """The rule of `images`: grey rounded, of 16 bits of colour the upper byte."""
    return (
        values >> 8
        if bits == 16 and values.shape[2:] > (2,)
        else np.floor(values * 255 / (2**bits - 1) + 0.5).astype(int)
    )


# (photometric, samples, tags) -> picture, of values of 8 bits.
EXTRA, ASSOCIATED, ALPHA = ({338: (3, [kind])} for kind in range(3))


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return colour * (alpha / 255) + (255 - alpha)


SIGNED, FLOATING = {339: (3, [2])}, {339: (3, [3])}
