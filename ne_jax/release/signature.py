"""Who published a release: a signature of manifest.json, which names SHA256SUMS by its hash, which names every other file.

    ssh-keygen -t ed25519 -N "" -f signing_key          makes signing_key, which is kept, and signing_key.pub, which is published
    ssh-keygen -Y check-novalidate -n ne_jax.release -s manifest.json.sig < manifest.json     proves it without this package

The signature is OpenSSH's, which holds the public key: https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig
Keys in PEM, as by openssl genpkey -algorithm ed25519, serve as well.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import pathlib
import struct

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ne_jax.errors import UserError
from ne_jax.files import write_atomic
from ne_jax.release.confined import read_inside
from ne_jax.release.reasons import Reason, Unreadable, words

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"  # beside it: SHA256SUMS cannot list it, as the manifest names SHA256SUMS
_NAMESPACE = b"ne_jax.release"  # so that nothing else that the key ever signed passes for a manifest
_MAGIC, _TYPE, _HASH = b"SSHSIG", b"ssh-ed25519", b"sha512"
_BEGIN, _END, _COLUMNS = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----", 70
_KEY = len(_MAGIC) + 4 + 4 + 4 + len(_TYPE) + 4  # where the public key begins: after version and lengths
_MOST_BYTES = 4096  # of a signature or of a key's file
_MAKE = 'make one by ssh-keygen -t ed25519 -N "" -f FILE'


def load_private_key(path: str) -> Ed25519PrivateKey:
    """The key in a file, of OpenSSH or in PEM. Raises UserError, in one line, for one that is missing, encrypted, of another kind or no
    private key."""
    data, place = _key_file(path, "release.signing_key"), f"release.signing_key {path}"
    load = serialization.load_ssh_private_key if b"OPENSSH PRIVATE" in data else serialization.load_pem_private_key
    try:
        key = load(data, password=None)
    except TypeError as error:  # what cryptography says where a password is wanted
        raise UserError(f"{place}: is encrypted; give a key without a passphrase: {_MAKE}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if "password" in str(error).lower():
            raise UserError(f"{place}: is encrypted; give a key without a passphrase: {_MAKE}") from error
        raise UserError(f"{place}: is no private key; {_MAKE}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{place}: is a key of another kind, and not ed25519; {_MAKE}")
    return key


def load_public_key(path: str) -> Ed25519PublicKey:
    """The key in a file, a line of OpenSSH or PEM. Raises UserError, in one line, for one that is missing or of another kind."""
    data, place = _key_file(path, "--public_key"), f"--public_key {path}"
    load = serialization.load_pem_public_key if b"-----BEGIN" in data else serialization.load_ssh_public_key
    try:
        key = load(data.strip())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{place}: is no public key; give the file that its owner published, FILE.pub") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{place}: is a key of another kind, and not ed25519; give the file that its owner published")
    return key


def _key_file(path: str, name: str) -> bytes:
    try:
        with open(pathlib.Path(path).expanduser(), "rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise UserError(f"{name} {path}: cannot be read ({error.strerror}); give the file of a key") from error


def fingerprint(key: Ed25519PublicKey) -> str:
    """As ssh-keygen -l shows it: SHA256:..."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(_public(key)).digest()).decode().rstrip("=")


def write(release: pathlib.Path, manifest: bytes, signing_key: str) -> None:
    """Sign the manifest by the key in a file. Without one, a signature of a former manifest, which would prove nothing, is removed."""
    if signing_key:
        write_atomic(release / SIGNATURE, sign(load_private_key(signing_key), manifest))
    else:
        (release / SIGNATURE).unlink(missing_ok=True)


def add(release: pathlib.Path, signing_key: str) -> None:
    """Sign a manifest that is there already, unless the key in the file has; no key: nothing."""
    if not signing_key:
        return
    made, path = sign(load_private_key(signing_key), (release / MANIFEST).read_bytes()), release / SIGNATURE
    if not path.is_file() or path.read_bytes() != made:
        write_atomic(path, made)


def sign(key: Ed25519PrivateKey, manifest: bytes) -> bytes:
    """The signature, as ssh-keygen -Y sign -n ne_jax.release writes it."""
    return _file(key.public_key(), key.sign(_signed(manifest)))


def signer(release: pathlib.Path, manifest: bytes) -> Ed25519PublicKey | None:
    """Whose key signed the manifest; None where there is no signature. Raises Unreadable for one that is not of this manifest.

    Nothing of the file is taken apart that could be of another length: two places are read, and the rest must be as `sign` writes it.
    """
    try:
        text = read_inside(release, SIGNATURE, _MOST_BYTES)
    except Unreadable as error:
        if error.reason == Reason("missing"):
            return None
        raise
    try:
        blob = base64.b64decode(b"".join(text.splitlines()[1:-1]))
        key, made = Ed25519PublicKey.from_public_bytes(blob[_KEY : _KEY + 32]), blob[-64:]
        if text.split() != _file(key, made).split():
            raise Unreadable(Reason("bad signature", (MANIFEST,)))
        key.verify(made, _signed(manifest))
    except (binascii.Error, ValueError, InvalidSignature) as error:
        raise Unreadable(Reason("bad signature", (MANIFEST,))) from error
    return key


def demand(release: pathlib.Path, manifest: bytes, public_key: str) -> str:
    """The fingerprint of the key in the file `public_key`, which signed the manifest. Raises UserError where it did not."""
    wanted = load_public_key(public_key)
    try:
        key = signer(release, manifest)
    except Unreadable as error:
        raise UserError(f"{release / SIGNATURE} {words(error.reason)}; get the release anew from its owner") from error
    if key is None:
        raise UserError(
            f"{release} is not signed: it has no {SIGNATURE}; get it anew from its owner, or leave --public_key out"
        )
    if fingerprint(key) != fingerprint(wanted):
        raise UserError(
            f"{release} is signed by another key, {fingerprint(key)}, and not by {public_key}, {fingerprint(wanted)}; get it anew from "
            "its owner"
        )
    return fingerprint(key)


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _public(key: Ed25519PublicKey) -> bytes:
    return _string(_TYPE) + _string(key.public_bytes_raw())


def _signed(manifest: bytes) -> bytes:
    digest = hashlib.sha512(manifest).digest()
    return _MAGIC + b"".join(map(_string, (_NAMESPACE, b"", _HASH, digest)))


def _file(key: Ed25519PublicKey, made: bytes) -> bytes:
    parts = (_public(key), _NAMESPACE, b"", _HASH, _string(_TYPE) + _string(made))
    text = base64.b64encode(_MAGIC + struct.pack(">I", 1) + b"".join(map(_string, parts)))
    rows = [text[start : start + _COLUMNS] for start in range(0, len(text), _COLUMNS)]
    return b"\n".join([_BEGIN, *rows, _END, b""])
