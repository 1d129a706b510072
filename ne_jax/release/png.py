"""8-bit PNG, grey or RGB: one image of a release as bytes, and read back with what it is instead."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from ne_jax.files import line
from ne_jax.release.blocks import FAULTS
from ne_jax.release.reasons import Reason, Unreadable

_MODES = {"L": "grey", "P": "a palette image", "1": "black and white"}
_TEXTS = 16  # each may unpack to a mebibyte; ours has none
_BEGINS = b"\x89PNG"
# How files of other types begin. Nothing looks further into them: the less of a stranger's file is read, the better.
_TYPES = {
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG2000",
}


def encode_png(pixels: UInt8[np.ndarray, "height width channels"], metadata: dict[str, Any]) -> bytes:
    """An 8-bit PNG, grey or RGB, with the bytes "exif" and "icc_profile" of `metadata`, if it holds any."""
    kept = {key: metadata[key] for key in ("exif", "icc_profile") if metadata.get(key)}
    buffer = io.BytesIO()
    # Runs only: noise has no longer matches, and looking for them takes a third of the time.
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(buffer, "PNG", compress_type=zlib.Z_RLE, **kept)
    return buffer.getvalue()


def decode_png(data: bytes, shape: tuple[int, ...]) -> UInt8[np.ndarray, "height width channels"]:
    """The pixels of a PNG file of `shape`, (height, width, channels). Raises Unreadable for anything else, with what it is; nothing
    of another size is unpacked."""
    height, width, channels = shape
    mode = {1: "L", 3: "RGB"}.get(channels, "")
    if not data.startswith(_BEGINS):
        other = next((name for begin, name in _TYPES.items() if data.startswith(begin)), None)
        other = "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else other
        raise Unreadable(Reason("another type", (other,)) if other else Reason("no image"))
    if sum(data.count(kind) for kind in (b"zTXt", b"iTXt")) > _TEXTS:
        raise Unreadable(Reason("broken", (f"more than {_TEXTS} packed texts",)))
    try:
        with _opened(data) as image:
            if image.size != (width, height):
                raise Unreadable(Reason("resized", (image.width, image.height, width, height)))
            if image.mode != mode:
                found, wanted = (_MODES.get(name, name) for name in (image.mode, mode))
                raise Unreadable(Reason("recoloured", (found, wanted)))
            return np.asarray(image).reshape(shape)
    except FAULTS as error:
        raise Unreadable(Reason("broken", (line(error),))) from error


def _opened(data: bytes) -> Image.Image:
    """Its head alone. Not by `Image.open`, which warns of bombs: whoever calls looks at the size before anything is unpacked."""
    try:
        return PngImagePlugin.PngImageFile(io.BytesIO(data))
    except (SyntaxError, EOFError) as error:  # which is all that Pillow says of half a head
        raise Unreadable(Reason("cut short")) from error
