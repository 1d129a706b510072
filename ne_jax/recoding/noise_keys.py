"""One random key for each image, from a secret, the image's content and all else that decides its pixels (contract 4).

The same image in the same artefact always gets the same noise, whatever the batch, the order, the number of devices or a restart:
two releases of one picture cannot be averaged or subtracted. Another strength, model, design or number format draws noise of its own,
so that no two different recodings share any.
"""

from __future__ import annotations

import hashlib
import hmac

import jax
import numpy as np
from jaxtyping import Array, Key, UInt8

_PURPOSE = b"ne_jax noise 2"  # keeps these keys apart from any other use of the secret
_RELEASE_PURPOSE = b"ne_jax release 2"


def noise_keys(
    secret: bytes, artefact: bytes, images: UInt8[np.ndarray, "n height width channels"]
) -> Key[Array, " n"]:
    """HMAC-SHA256(secret, purpose, artefact, shape, pixels) of each image, its first 8 bytes as a threefry key; shape (n,).

    artefact: whatever stands for all that decides an image's pixels beside the image and the secret, such as `stages.artefact` makes.
    """
    head = _PURPOSE + len(artefact).to_bytes(8, "big") + artefact + repr(images.shape[1:]).encode()
    digests = []
    for image in images:
        digest = hmac.new(secret, head, hashlib.sha256)
        digest.update(np.ascontiguousarray(image))
        digests.append(digest.digest()[:8])
    return _keys(b"".join(digests))


def release_key(secret: bytes, artefact: bytes) -> Key[Array, ""]:
    """A key for what all images of an artefact share, such as the amplitudes of hardened noise: HMAC-SHA256(secret, purpose, artefact), 8
    bytes."""
    return _keys(hmac.digest(secret, _RELEASE_PURPOSE + artefact, "sha256")[:8])[0]


def _keys(digests: bytes) -> Key[Array, " n"]:
    words = np.frombuffer(digests, ">u4").astype(np.uint32).reshape(-1, 2)
    return jax.random.wrap_key_data(words, impl="threefry2x32")
