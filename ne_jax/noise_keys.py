"""One random key for each image, from a secret and the image's content (contract 4).

The same image under the same secret always gets the same noise, whatever the batch, the order, the number of devices or a
restart: two releases of one picture cannot be averaged or subtracted. The secret never enters a public file.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import pathlib
import secrets

import jax
import numpy as np
from jaxtyping import Array, Key, UInt8

from ne_jax.errors import UserError

_PURPOSE = b"ne_jax noise 1"  # keeps these keys apart from any other use of the secret
_SECRET_BYTES = 32


def load_secret(path: pathlib.Path) -> bytes:
    """The secret in the file; a new one, readable by its owner only (0600), where there is no file yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_name(path.name + ".partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(_SECRET_BYTES) + "\n")
        os.replace(partial, path)
    text = path.read_text().strip()
    try:
        secret = bytes.fromhex(text)
    except ValueError as error:
        raise UserError(f"secret {path}: not hexadecimal; give {2 * _SECRET_BYTES} hexadecimal digits") from error
    if len(secret) < _SECRET_BYTES:
        raise UserError(
            f"secret {path}: {len(secret)} bytes; give at least {_SECRET_BYTES} ({2 * _SECRET_BYTES} digits)"
        )
    return secret


def noise_keys(secret: bytes, images: UInt8[np.ndarray, "n height width channels"]) -> Key[Array, " n"]:
    """HMAC-SHA256(secret, purpose, shape, pixels) of each image, its first 8 bytes as a threefry key; shape (n,)."""
    head = _PURPOSE + repr(images.shape[1:]).encode()
    digests = [
        hmac.digest(secret, head + np.ascontiguousarray(image).tobytes(), hashlib.sha256)[:8] for image in images
    ]
    words = np.frombuffer(b"".join(digests), ">u4").astype(np.uint32).reshape(len(images), 2)
    return jax.random.wrap_key_data(words, impl="threefry2x32")
