"""Signatures of manifests: made by an owner's key, proved by anyone, here and with OpenSSH alone."""

import base64
import json
import pathlib
import shutil
import struct
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519

from ne_jax.errors import UserError
from ne_jax.models.loading import load_model
from ne_jax.release import signature, verify
from ne_jax.release.manifest import MANIFEST, SUMS, open_manifest, read_manifest
from ne_jax.release.reasons import Unreadable, words
from ne_jax.release.signature import SIGNATURE
from ne_jax.release.verdict import describe
from tests import hostile
from tests.pins import OLD_RELEASE

DATA = b'{"a": 1}\n'
# By OpenSSH 9.2 of DATA: ssh-keygen -Y sign -n ne_jax.release, with the key whose seed is 0, 1, ... 31.
BY_OPENSSH = b"""-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgA6EHv/POEL4dcN0Y50vAmWfk1j
CbpQ1fHdyGZBJVMbgAAAAObmVfamF4LnJlbGVhc2UAAAAAAAAABnNoYTUxMgAAAFMAAAAL
c3NoLWVkMjU1MTkAAABAqsCqqN/bkgRi7NeS5TaY9haPeEJJ3Lb7VFKzLiojJz2X+1MYRs
f2mKGRdsEer3xiC/BQgJtLE0299Sz9swFGAQ==
-----END SSH SIGNATURE-----
"""
FINGERPRINT = "SHA256:lbmsoA0yIEcEiVDRnMWuzm+nV+3ZEEpVIURqFoeSspg"
PLAIN = serialization.NoEncryption()


def encrypted_ssh(public: bytes) -> bytes:
    """A key as ssh-keygen -N word writes it, whose secret half is noise."""

    def string(*values: bytes) -> bytes:
        return b"".join(struct.pack(">I", len(value)) + value for value in values)

    kdf = string(bytes(16)) + struct.pack(">I", 16)
    body = string(b"aes256-ctr", b"bcrypt", kdf) + struct.pack(">I", 1) + string(public, bytes(144))
    text = base64.encodebytes(b"openssh-key-v1\0" + body).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{text}-----END OPENSSH PRIVATE KEY-----\n".encode()


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """keys / NAME: private; keys / NAME.pub: public."""
    folder = tmp_path_factory.mktemp("keys")
    own, ssh, pem = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))), "OpenSSH", "PKCS8"
    locked = serialization.BestAvailableEncryption(b"word")
    for name, key, form, lock in (
        ("ssh", own, ssh, PLAIN),
        ("other", ed25519.Ed25519PrivateKey.generate(), ssh, PLAIN),
        ("rsa", rsa.generate_private_key(65537, 2048), ssh, PLAIN),
        ("pem", own, pem, PLAIN),
        ("pem, encrypted", own, pem, locked),
        ("pem, elliptic", ec.generate_private_key(ec.SECP256R1()), pem, PLAIN),
        ("pem, x25519", x25519.X25519PrivateKey.generate(), pem, PLAIN),
    ):
        private = key.private_bytes(serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), lock)
        (folder / name).write_bytes(private)
        (folder / name).chmod(0o600)
        if name != "pem, x25519":  # OpenSSH has no name for it
            as_text = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
            as_pem = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(*(as_pem if form == pem else as_text)))
    (folder / "encrypted").write_bytes(encrypted_ssh(base64.b64decode((folder / "ssh.pub").read_bytes().split()[1])))
    return folder


@pytest.fixture(scope="module")
def model():
    return load_model("vit_a")


@pytest.fixture
def released(tmp_path):
    """released(key): a release, signed by it; "" is not."""

    def make(key: pathlib.Path | str = "") -> pathlib.Path:
        folder = pathlib.Path(shutil.copytree(OLD_RELEASE / "png8", tmp_path / "release"))
        signature.write(folder, (folder / MANIFEST).read_bytes(), str(key))
        return folder

    return make


def ssh(*arguments, data: bytes = b"") -> subprocess.CompletedProcess:
    return subprocess.run(["ssh-keygen", *map(str, arguments)], input=data, capture_output=True, check=False)


def test_a_signature_is_openssh_s(keys, tmp_path):
    """The bytes that ssh-keygen made of the same key and manifest, and the name that it shows the key by."""
    key = signature.load_private_key(str(keys / "ssh"))
    assert signature.sign(key, DATA) == BY_OPENSSH and signature.fingerprint(key.public_key()) == FINGERPRINT
    (tmp_path / SIGNATURE).write_bytes(BY_OPENSSH)
    assert signature.fingerprint(signature.signer(tmp_path, DATA)) == FINGERPRINT


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="without OpenSSH; the sibling above has its bytes")
def test_openssh_proves_a_signature(keys, tmp_path):
    """ssh-keygen alone finds it good, names the same key, and finds a changed manifest out; its own signatures are good here, for
    this use only."""
    key = signature.load_private_key(str(keys / "ssh"))
    (tmp_path / "sig").write_bytes(signature.sign(key, DATA))
    check = ("-Y", "check-novalidate", "-n", "ne_jax.release", "-s", tmp_path / "sig")
    done = ssh(*check, data=DATA)
    assert done.returncode == 0 and FINGERPRINT in done.stdout.decode(), done
    assert ssh(*check, data=DATA + b" ").returncode != 0
    (tmp_path / MANIFEST).write_bytes(DATA)
    for name, good in (("ne_jax.release", True), ("file", False)):
        assert ssh("-Y", "sign", "-q", "-f", keys / "ssh", "-n", name, tmp_path / MANIFEST).returncode == 0
        assert ((tmp_path / SIGNATURE).read_bytes() == BY_OPENSSH) is good
        if not good:
            with pytest.raises(Unreadable):
                signature.signer(tmp_path, DATA)
        (tmp_path / SIGNATURE).unlink()


@pytest.mark.parametrize("name", ["ssh", "pem"])
def test_a_signed_release_holds(keys, model, released, name):
    """By keys of OpenSSH and in PEM; the verdict says by which key, and whether that was asked for."""
    folder = released(keys / name)
    key = signature.load_public_key(str(keys / f"{name}.pub"))
    found = verify.run(folder, model, None, 4)
    assert found.holds and signature.fingerprint(key) in found.notes[0] and "was not checked" in found.notes[0]
    found = verify.run(folder, model, None, 4, str(keys / f"{name}.pub"))
    assert found.holds and found.notes == [f"signed by {signature.fingerprint(key)}, the key in {keys / f'{name}.pub'}"]
    assert found.notes[0] in describe(found).splitlines()
    assert read_manifest(folder, str(keys / f"{name}.pub")).images == 4


def forge(folder: pathlib.Path) -> None:
    """An image changed, and sums and manifest mended: nothing but a signature can tell."""
    shutil.copy(folder / "images/test/00000.png", folder / "images/test/00001.png")
    whole = json.loads((folder / MANIFEST).read_text())
    certificate = whole["ne"].pop("certificate")
    (folder / MANIFEST).write_text(json.dumps(whole))
    hostile.forge(folder)
    assert certificate["n"] == 4


def refused(folder: pathlib.Path, model, public_key: pathlib.Path) -> str:
    """The one line, by verify and before any model is loaded."""
    told = []
    for look in (
        lambda: verify.run(folder, model, None, 4, str(public_key)),
        lambda: read_manifest(folder, str(public_key)),
    ):
        with pytest.raises(UserError) as caught:
            look()
        told.append(str(caught.value))
    assert told[0] == told[1] and "\n" not in told[0]
    return told[0]


def test_a_forged_release_is_found_by_anyone(keys, model, released):
    """Files, sums and manifest changed together hold without a signature; with one they do not, with and without the owner's key."""
    folder = released()
    forge(folder)
    assert verify.run(folder, model, None, 4).holds
    assert "is not signed: it has no manifest.json.sig; get it anew" in refused(folder, model, keys / "ssh.pub")
    shutil.rmtree(folder)
    folder = released(keys / "ssh")
    forge(folder)
    found = verify.run(folder, model, None, 4)
    assert not found.holds and {path: words(reason) for path, reason in found.broken.items()} == {
        SIGNATURE: "is no signature of manifest.json as it is: one of the two was changed"
    }
    assert f"{SIGNATURE} is no signature of manifest.json as it is" in refused(folder, model, keys / "ssh.pub")


def test_a_forger_with_a_key_of_his_own_is_found(keys, model, released):
    """Who signs the forged manifest anew is found by the owner's public key, which names both."""
    folder = released(keys / "ssh")
    forge(folder)
    signature.write(folder, (folder / MANIFEST).read_bytes(), str(keys / "other"))
    found = verify.run(folder, model, None, 4)
    other, own = (
        signature.fingerprint(signature.load_public_key(str(keys / f"{name}.pub"))) for name in ("other", "ssh")
    )
    assert found.holds and other in found.notes[0]
    told = refused(folder, model, keys / "ssh.pub")
    assert f"is signed by another key, {other}, and not by {keys / 'ssh.pub'}, {own}; get it anew" in told


CHANGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:100],
    "twice": lambda data: data + data,
    "no base64": lambda data: data.replace(b"A", b"!"),
    "words": lambda data: b"signed by me",
    "more inside": lambda data: data.replace(b"-----END", b"AAAA\n-----END"),
    "another letter": lambda data: data[:80] + (b"B" if data[80:81] == b"A" else b"A") + data[81:],
    "another end": lambda data: data.replace(b"\n-----END", b"\nBBBB-----END"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_signature_is_told(keys, model, released, change):
    """Anything else in its place is a fault of that file."""
    folder = released(keys / "ssh")
    (folder / SIGNATURE).write_bytes(CHANGES[change]((folder / SIGNATURE).read_bytes()))
    assert verify.run(folder, model, None, 4).broken.keys() == {SIGNATURE}


def test_every_bit_of_a_signature_counts(keys, tmp_path):
    """No change of a byte of the signature's content, nor of the manifest, goes through."""
    made = signature.sign(signature.load_private_key(str(keys / "ssh")), DATA)
    for place in range(len(made)):
        changed = bytearray(made)
        changed[place] ^= 2
        if changed.split() == made.split():
            continue
        (tmp_path / SIGNATURE).write_bytes(changed)
        with pytest.raises(Unreadable):
            signature.signer(tmp_path, DATA)
    (tmp_path / SIGNATURE).write_bytes(made)
    for place in range(len(DATA)):
        with pytest.raises(Unreadable):
            signature.signer(tmp_path, DATA[:place] + b"?" + DATA[place + 1 :])


PRIVATE = {
    "encrypted": "is encrypted; give a key without a passphrase: make one by ssh-keygen -t ed25519",
    "pem, encrypted": "is encrypted; give a key without a passphrase",
    "rsa": "is a key of another kind, and not ed25519",
    "pem, elliptic": "is a key of another kind, and not ed25519",
    "pem, x25519": "is a key of another kind, and not ed25519",
    "ssh.pub": "is no private key; make one by",
    "missing": "cannot be read (No such file or directory); give the file of a key",
    ".": "cannot be read (Is a directory)",
    "/dev/null": "is no private key",
}


@pytest.mark.parametrize("name", PRIVATE)
def test_a_key_that_cannot_sign_is_told(keys, name):
    """One line that names the leaf, the file and the command that makes one."""
    with pytest.raises(UserError) as caught:
        signature.load_private_key(str(keys / name))
    assert PRIVATE[name] in str(caught.value) and str(caught.value).startswith(f"release.signing_key {keys / name}: ")
    assert "\n" not in str(caught.value)


PUBLIC = {
    "ssh": "is no public key; give the file that its owner published",
    "pem": "is no public key",
    "rsa.pub": "is a key of another kind",
    "missing.pub": "cannot be read (No such file or directory)",
    "/dev/null": "is no public key",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_key_that_proves_nothing_is_told(keys, name):
    """The private key given for the public one, another kind, none: one line."""
    with pytest.raises(UserError) as caught:
        signature.load_public_key(str(keys / name))
    assert PUBLIC[name] in str(caught.value) and str(caught.value).startswith(f"--public_key {keys / name}: ")


def test_a_manifest_that_was_there_is_signed_once(keys, released):
    """A release that was finished without a key gets its signature later, and the same file again is not written."""
    folder = released()
    assert not (folder / SIGNATURE).exists()
    signature.add(folder, "")
    assert not (folder / SIGNATURE).exists()
    signature.add(folder, str(keys / "ssh"))
    before = (folder / SIGNATURE).stat().st_mtime_ns
    signature.add(folder, str(keys / "ssh"))
    assert (folder / SIGNATURE).stat().st_mtime_ns == before
    assert signature.signer(folder, open_manifest(folder).data) is not None
    signature.write(folder, b"", "")
    assert not (folder / SIGNATURE).exists()  # a signature of a former manifest would say that this one was changed


def test_sums_that_name_the_signature_prove_nothing_more(model, keys, released):
    """It cannot be in SHA256SUMS, as that is named by what is signed; beside it, it is no surplus file."""
    folder = released(keys / "ssh")
    assert SIGNATURE not in (folder / SUMS).read_text()
    assert verify.run(folder, model, None, 4).broken == {}
