"""Stage encode: determinism, resume, what a release holds."""

import json
import stat

import jax
import numpy as np
import pytest
from PIL import Image

from ne_jax import encode, release
from ne_jax.config import default
from ne_jax.errors import UserError
from ne_jax.job import open_job
from ne_jax.noise_keys import load_secret, noise_keys
from ne_jax.pixels import to_float

SECRET = "0123456789abcdef" * 4


def small_config(tmp_path, **leaves):
    """20 images of the embedded set in shards of 8, under a fixed secret."""
    (tmp_path / "secret.key").write_text(SECRET)
    config = default()
    config.data.limit = 20
    config.batch_size = 6
    config.release.shard_size = 8
    config.recode.fit = True
    config.recode.secret_file = str(tmp_path / "secret.key")
    config.update_from_flattened_dict(leaves)
    return config


def encode_into(tmp_path, name, **leaves):
    job = open_job(small_config(tmp_path, **leaves), tmp_path / name)
    encode.run(job)
    return job


def contents(job):
    return {name: release.file_hashes(job.release_dir(name)) for name in job.config.release.formats}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    return encode_into(tmp_path_factory.mktemp("encode"), "first")


def test_batch_size_does_not_change_a_byte(encoded, tmp_path):
    """Contract 4: the files do not depend on the batch size."""
    assert contents(encode_into(tmp_path, "other", batch_size=20)) == contents(encoded)
    assert contents(encode_into(tmp_path, "single", batch_size=1)) == contents(encoded)


def test_order_does_not_change_an_image(encoded, tmp_path):
    """Contract 4: an image's NE does not depend on what stands before it in the source."""
    folder = tmp_path / "images"
    folder.mkdir()
    source = encoded.source
    for place, index in enumerate(reversed(range(10))):
        source.read(index).save(folder / f"{place:02d}.png")
    job = encode_into(tmp_path, "folder", **{"data.kind": "folder", "data.path": str(folder)})
    reversed_rows = dict(_rows(job, "png8"))
    original = dict(_rows(encoded, "png8"))
    for place, index in enumerate(reversed(range(10))):
        np.testing.assert_array_equal(reversed_rows[f"{place:02d}"], original[source.names[index]])


def _rows(job, name):
    for names, images in release.read_release(job.release_dir(name), 7):
        yield from zip(names, images, strict=True)


def test_a_killed_run_goes_on_and_gives_the_same_bytes(encoded, tmp_path, monkeypatch):
    """Contract 7: what a kill left is kept, half a shard is done again, the result is that of an unbroken run."""
    calls = []
    write = encode._write_shard

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 4:  # in the second shard, after one of its two formats
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(encode, "_write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        encode_into(tmp_path, "killed")
    assert not list(tmp_path.rglob("manifest.json"))
    monkeypatch.setattr(encode, "_write_shard", lambda *a: (calls.append(a), write(*a)))
    before = len(calls)
    job = encode_into(tmp_path, "killed")
    assert contents(job) == contents(encoded)
    assert len(calls) - before == 3  # one format of the second shard, both of the third


def test_a_finished_release_is_not_touched(encoded):
    """Running again changes no file."""
    files = {path: path.stat().st_mtime_ns for path in encoded.workdir.rglob("releases/**/*") if path.is_file()}
    encode.run(encoded)
    assert files == {path: path.stat().st_mtime_ns for path in encoded.workdir.rglob("releases/**/*") if path.is_file()}


def test_the_manifest_gives_nothing_away(encoded, tmp_path):
    """No secret, seed, label or prediction in the public part; the secret file is the owner's only."""
    for name in encoded.config.release.formats:
        text = (encoded.release_dir(name) / "manifest.json").read_text()
        assert SECRET not in text
        manifest = json.loads(text)
        assert not {"seed", "key", "secret", "labels", "predictions", "basis"} & manifest.keys()
        assert manifest["images"] == 20 and manifest["authorized"] == "vit_a"
    load_secret(tmp_path / "private" / "secret.key")
    assert stat.S_IMODE((tmp_path / "private" / "secret.key").stat().st_mode) == 0o600


def test_realised_strength_is_in_the_manifest(encoded):
    """Contract 3: float32 is exactly at the PSNR asked; png8 says what fitted."""
    for name in ("float32", "png8"):
        manifest = release.read_manifest(encoded.release_dir(name))
        stored = {row_name: image for row_name, image in _rows(encoded, name)}
        clean = {
            row: np.asarray(encoded.source.read(i).resize((112, 112), 2), np.float32)[..., None] / 255
            for i, row in enumerate(stored)
        }
        psnr = [-10 * np.log10(np.mean((stored[row].astype(np.float64) - clean[row]) ** 2)) for row in stored]
        np.testing.assert_allclose(manifest["psnr_db_realised"]["median"], np.median(psnr), atol=1e-3)
        if name == "float32":
            np.testing.assert_allclose(psnr, 0.0, atol=1e-4)


def test_broken_images_are_skipped_and_counted(tmp_path, capsys):
    """Contract 7: a missing, a truncated and a foreign file cost nothing but themselves."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(folder / f"good {index}.png")
    whole = (folder / "good 0.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("no image")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    job = open_job(small_config(tmp_path, **{"data.kind": "folder", "data.path": str(folder)}), tmp_path / "run")
    assert encode.run(job) == 3
    problems = json.loads((tmp_path / "run" / "problems.json").read_text())
    assert [
        any(part in why for why in problems)
        for part in ("truncated.png", "notes.txt: not an image", "gone.png: no such")
    ] == [True] * 3
    assert [name for names, _ in release.read_release(job.release_dir("png8"), 10) for name in names] == [
        f"good {i}" for i in range(4)
    ]


def test_a_strength_that_does_not_fit_is_refused(tmp_path):
    """The error says what can be reached, and a strength at that figure is accepted."""
    with pytest.raises(
        UserError, match=r"recode.psnr_db=0 cannot be reached inside \[0, 1\]: the strongest that fits is .* dB"
    ):
        encode_into(tmp_path, "strong", **{"recode.fit": False})
    job = encode_into(tmp_path, "weak", **{"recode.fit": False, "recode.psnr_db": 25.0})
    realised = release.read_manifest(job.release_dir("png8"))["psnr_db_realised"]
    assert abs(realised["min"] - 25) < 0.1 and abs(realised["max"] - 25) < 0.1


def test_an_image_with_no_room_is_left_and_counted(tmp_path, monkeypatch):
    """Where nothing fits into [0, 1] the PSNR is infinite: the run goes on, and every file it writes stays JSON."""
    from ne_jax import check

    folder = tmp_path / "images"
    folder.mkdir()
    for index, level in enumerate((90, 140)):
        Image.new("L", (30, 30), level).save(folder / f"{index}.png")

    def leave(job, name, keys, pixels, strength_db):
        return release.to_stored(np.asarray(to_float(pixels)), name)

    monkeypatch.setattr(encode, "recode_job", leave)
    job = open_job(small_config(tmp_path, **{"data.kind": "folder", "data.path": str(folder)}), tmp_path / "run")
    encode.run(job)
    manifest = release.read_manifest(job.release_dir("png8"))
    assert manifest["left_unchanged"] == 2 and manifest["psnr_db_realised"]["median"] is None
    summary = check.run(job)["png8"]
    assert (
        summary["prediction_kept"] == 2
        and summary["psnr_db_median"] is None
        and summary["feature_cosine_min"] == pytest.approx(1)
    )


def test_keys_come_from_secret_and_content():
    """The same image has the same key wherever it stands; another image or secret has another."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3, 8, 8, 1), np.uint8)

    def words(secret, batch):
        return np.asarray(jax.random.key_data(noise_keys(secret, batch)))

    first = words(b"a" * 32, images)
    np.testing.assert_array_equal(words(b"a" * 32, images[::-1])[::-1], first)
    assert len({tuple(row) for row in first}) == 3
    assert (words(b"b" * 32, images) != first).any(axis=1).all()


@pytest.mark.parametrize(("text", "part"), [("not hexadecimal", "not hexadecimal"), ("abcd", "2 bytes")])
def test_a_bad_secret_is_refused(tmp_path, text, part):
    """A secret file that cannot serve is named."""
    path = tmp_path / "secret.key"
    path.write_text(text)
    with pytest.raises(UserError, match=part) as caught:
        load_secret(path)
    assert str(path) in str(caught.value)
