"""Key pairs of owners."""

import pathlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def pair(path: pathlib.Path) -> pathlib.Path:
    """Write PATH and PATH.pub as ssh-keygen -t ed25519 -N "" -f PATH does; gives PATH."""
    key, encoding = Ed25519PrivateKey.generate(), serialization.Encoding
    private = (encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*private))
    public = key.public_key().public_bytes(encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_name(f"{path.name}.pub").write_bytes(public + b" owner\n")
    return path
