"""What a release must not show, and where it lies instead."""

import base64
import json
import os
import stat

import numpy as np
import pytest
from PIL import Image

from ne_jax.data import sources
from ne_jax.errors import UserError
from ne_jax.release import owner_files
from ne_jax.release.manifest import read_manifest
from ne_jax.stages import check, encode, evaluate
from tests import jobs
from tests.jobs import SECRET, encode_into, opened, rows

CLASSES = ("abyssinian", "zebrafish")
OPAQUE = {"release.opaque_names": True, "release.formats": jobs.EVERY_FORMAT}


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- Files for their owner alone ---


@pytest.fixture
def open_umask():
    """The most careless setting: files are everybody's unless their maker says otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_private_files_are_their_owners(tmp_path, open_umask):
    """Secret, ledger, names, near copies and certificates: mode 0600 in a folder of mode 0700, whatever the umask; a release is for all."""
    leaves = {"recode.secret_file": "", "release.formats": ("float32",), "data.limit": 3, "readers": ()}
    with opened(tmp_path, "run", **leaves) as job:
        encode.run(job)
        check.run(job)
    files = sorted(path.name for path in job.private_dir.iterdir())
    private = ["certificates.jsonl", "names.jsonl", "near_copies.jsonl", "secret.key", "secret.key.ledger"]
    assert files == private and mode(job.private_dir) == 0o700
    assert {mode(path) for path in job.private_dir.iterdir()} == {0o600}
    assert mode(job.release_dir("float32") / "manifest.json") & 0o044 == 0o044


def test_a_file_that_lies_in_the_way_does_not_open_what_is_written(tmp_path, open_umask):
    """Somebody else's FILE.partial, open to all, is not what the secret is written into."""
    stranger = tmp_path / "secret.key.partial"
    stranger.write_text("")
    with open(stranger) as reading:
        owner_files.load_secret(tmp_path / "secret.key")
        assert reading.read() == ""
    assert mode(tmp_path / "secret.key") == 0o600 and not stranger.exists()


def test_a_new_secret_is_random_and_kept(tmp_path):
    """32 bytes that no other workdir has, the same ones for the next run."""
    one, other = (owner_files.load_secret(tmp_path / name / "secret.key") for name in ("a", "b"))
    assert len(one) == len(other) == 32 and one != other
    assert owner_files.load_secret(tmp_path / "a" / "secret.key") == one


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"not hexadecimal", "not hexadecimal; give 64 hexadecimal digits"),
        (b"abcd", r"2 bytes; give at least 32 \(64 digits\)"),
        (b"", "0 bytes"),
        (b"\xff\xfe", "not hexadecimal"),
        (None, r"cannot be read \(Is a directory\)"),
    ],
)
def test_a_bad_secret_is_refused(tmp_path, content, part):
    """A secret file that cannot serve is named, in one line."""
    path = tmp_path / "secret.key"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=f"^secret {path}: {part}") as caught:
        owner_files.load_secret(path)
    assert "\n" not in str(caught.value)


def test_a_secret_that_cannot_be_made_is_told(tmp_path):
    """Where no folder can be, there is one line that names the file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"while writing {tmp_path}/file/secret.key"):
        owner_files.load_secret(tmp_path / "file" / "secret.key")


# --- Nothing of it in a release ---


def test_a_release_gives_no_secret_and_no_prediction_away(tmp_path):
    """After check, too: neither the secret in any writing nor anything about a single image stands in a public file."""
    with opened(tmp_path, "run", **{"release.formats": jobs.EVERY_FORMAT, "readers": ()}) as job:
        encode.run(job)
        check.run(job)
    secret = bytes.fromhex(SECRET)
    writings = [
        secret,
        SECRET.encode(),
        SECRET.upper().encode(),
        base64.b64encode(secret).rstrip(b"="),
        str(tmp_path).encode(),
    ]
    public = [path for path in job.workdir.rglob("releases/**/*") if path.is_file()]
    found = [(path, text) for path in public for text in writings if text in path.read_bytes()]
    assert len(public) > 30 and not found
    rows = [json.loads(line) for line in (job.private_dir / owner_files.CERTIFICATES).read_text().splitlines()]
    assert len(rows) == 5 * 20 and {"kept", "margin", "pixels_sha256"} <= rows[0].keys()
    for name in jobs.EVERY_FORMAT:
        text = (job.release_dir(name) / "manifest.json").read_text()
        assert "test/000" not in text and not any(row["pixels_sha256"] in text for row in rows)
        assert all(size < 20 for size in list_sizes(read_manifest(job.release_dir(name)).to_json()))
        words = {"seed", "secret", "labels", "predictions", "predicted", "basis", "kept", "margins"}
        assert not words & set(keys_of(read_manifest(job.release_dir(name)).to_json()))


def list_sizes(value) -> list[int]:
    """Lengths of all lists within; one as long as the set would tell of each image."""
    if isinstance(value, dict):
        return [size for part in value.values() for size in list_sizes(part)]
    return [len(value), *(size for part in value for size in list_sizes(part))] if isinstance(value, list) else []


def keys_of(value) -> list[str]:
    inner = [key for part in value.values() for key in keys_of(part)] if isinstance(value, dict) else []
    return [*value, *inner] if isinstance(value, dict) else []


# --- Opaque names ---


@pytest.fixture(scope="module")
def telling(tmp_path_factory):
    """A source whose names tell all, released under opaque ones in every format."""
    tmp_path = tmp_path_factory.mktemp("opaque")
    for index in range(16):
        folder = tmp_path / "images" / CLASSES[index // 8]
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 256, (30, 30), np.uint8)
        Image.fromarray(noise).save(folder / f"holiday photograph {index:02d}.png")
    leaves = {"data.kind": "folder", "data.path": str(tmp_path / "images")}
    return encode_into(tmp_path, "run", **leaves, **OPAQUE)


def test_opaque_names_are_nowhere_in_the_release(telling):
    """Neither a name nor a class, in paths, in raw bytes, or in what readers make of compressed ones."""
    for name in jobs.EVERY_FORMAT:
        folder = telling.release_dir(name)
        seen = b"".join(
            str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b"")
            for path in folder.rglob("*")
        )
        seen += "".join(rows(telling, name)).encode()
        assert not [word for word in (*CLASSES, "holiday", "photograph") if word.encode() in seen.lower()]


def test_opaque_names_are_the_same_in_every_format_and_kept_in_private(telling):
    """The owner's list gives each image's name, and is the owner's alone."""
    path = telling.private_dir / owner_files.NAMES
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    assert mode(path) == 0o600 and len({name for name, _ in pairs}) == 16
    assert sorted(former for _, former in pairs) == [f"{CLASSES[i // 8]}/holiday photograph {i:02d}" for i in range(16)]
    assert all(list(rows(telling, name)) == [name for name, _ in pairs] for name in jobs.EVERY_FORMAT)


def test_order_tells_nothing(telling):
    """Images come in the order of their opaque names, in which classes and numbers are mixed."""
    pairs = [json.loads(line) for line in (telling.private_dir / owner_files.NAMES).read_text().splitlines()]
    names, former = zip(*pairs, strict=True)
    assert list(names) == sorted(names)
    classes = [name.partition("/")[0] for name in former]
    assert (
        sum(one != other for one, other in zip(classes, classes[1:], strict=False)) >= 4
    )  # one change if they were sorted
    assert {"abyssinian", "zebrafish"} == set(classes[:8]) == set(classes[8:])


def test_names_depend_on_the_secret():
    """Without it nobody can try out whether an image is in the release; with it names are the same for ever."""
    source = sources.Source(["class/a", "class/b"], None, None, ())
    one, other = (list(owner_files.opaque(source, secret)[0].names) for secret in (b"1" * 32, b"2" * 32))
    assert not set(one) & set(other) and list(owner_files.opaque(source, b"1" * 32)[0].names) == one


def test_the_stages_after_it_work_on_opaque_names(tmp_path):
    """Certificates and accuracy are those of the same images under their own names: labels follow the order."""
    found = {}
    for opaque in (False, True):
        leaves = {"release.formats": ("float32",), "readers": ("vit_b",), "evaluate.curve_psnr_db": ()}
        with opened(tmp_path, f"{opaque}", **leaves, **{"release.opaque_names": opaque}) as job:
            encode.run(job)
            names, former = list(job.source.names), job.source.names
            if opaque:
                former = [
                    json.loads(line)[1] for line in (job.private_dir / owner_files.NAMES).read_text().splitlines()
                ]
            labels = dict(zip(former, job.source.labels().tolist(), strict=True))
            stored = {former[names.index(name)]: image.tobytes() for name, image in rows(job, "float32").items()}
            check.run(job)
            lines = [json.loads(line) for line in (job.private_dir / owner_files.CERTIFICATES).read_text().splitlines()]
            margins = {former[names.index(line["image"])]: line["margin"] for line in lines}
            records = evaluate.run(job)
            accuracy = {r.condition: r.value for r in records if r.metric == "accuracy"}
            found[opaque] = labels, stored, accuracy, {name: round(value, 4) for name, value in margins.items()}
    assert found[True] == found[False] and len(set(found[True][0].values())) > 3


# --- The same source ---


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (["a", "b", "c"], "1 gone (d)"),
        (["a", "c", "d"], "1 gone (b)"),
        (["a"], "3 gone (b)"),
        (["a", "b", "c", "d", "e"], "1 new (e)"),
        (["a", "a2", "b", "c", "d"], "1 new (a2)"),
        (["a", "bee", "c", "d"], "1 gone (b), 1 new (bee)"),
        (["a", "c", "b", "d"], "the order of its images"),
    ],
)
def test_a_changed_source_is_told(tmp_path, now, told):
    """What was added, removed or renamed since the workdir was made, the last image included, is named."""
    kept = ["a", "b", "c", "d"]
    owner_files.keep_names(tmp_path, kept, kept)
    owner_files.keep_names(tmp_path, kept, kept)
    with pytest.raises(UserError) as caught:
        owner_files.keep_names(tmp_path, now, now)
    assert str(caught.value).startswith(f"the data source changed since this workdir was made: {told}; restore it")


def test_lines_are_written_whole_or_not_at_all(tmp_path):
    """Certificates that fail on the way leave the former ones."""
    owner_files.write_lines(tmp_path / "file", ["a", "b"])

    def broken():
        yield "c"
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="no space left"):
        owner_files.write_lines(tmp_path / "file", broken())
    assert (tmp_path / "file").read_text() == "a\nb\n" and os.listdir(tmp_path) == ["file"]
