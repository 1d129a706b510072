"""Release files: what is written is what is read."""

import numpy as np
import pytest

from ne_jax import release
from ne_jax.errors import UserError
from ne_jax.pixels import from_bytes


def write(tmp_path, release_format, images, names):
    if release_format == "float32":
        release.write_shard(tmp_path, 0, names[:3], images[:3])
        release.write_shard(tmp_path, 1, names[3:], images[3:])
    else:
        for name, image in zip(names, images, strict=True):
            release.write_png(tmp_path, name, image)
    files = release.file_hashes(tmp_path)
    manifest = {"format": release_format, "names": names, "files": files, "image_shape": list(images.shape[1:])}
    release.write_json(tmp_path / release.MANIFEST, manifest)
    return files


def read_all(tmp_path, batch_size):
    batches = list(release.read_release(tmp_path, batch_size))
    return [name for names, _ in batches for name in names], np.concatenate([images for _, images in batches])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch_size", [2, 10])
def test_float32_round_trip_is_exact(tmp_path, channels, batch_size):
    """Contract 2: float values outside [0, 1] come back bit for bit, whatever the batch."""
    images = np.random.default_rng(0).normal(size=(5, 6, 7, channels)).astype(np.float32) * 3
    names = [f"class/ü {index}" for index in range(5)]
    write(tmp_path, "float32", images, names)
    found, stored = read_all(tmp_path, batch_size)
    assert found == names
    np.testing.assert_array_equal(stored, images)


@pytest.mark.parametrize("channels", [1, 3])
def test_png8_round_trip_is_exact(tmp_path, channels):
    """Contract 2: every grey level comes back, as the float that every reader gets for it."""
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, channels), np.uint8)
    names = [f"class/ü {index}" for index in range(4)]
    write(tmp_path, "png8", images, names)
    found, stored = read_all(tmp_path, 3)
    assert found == names
    np.testing.assert_array_equal(stored, from_bytes(images))


@pytest.mark.parametrize("release_format", release.FORMATS)
def test_the_same_content_has_the_same_bytes(tmp_path, release_format):
    """No time stamp or order of the day gets into a file."""
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    images = images.astype(np.float32) if release_format == "float32" else images
    names = [str(index) for index in range(5)]
    assert write(tmp_path / "a", release_format, images, names) == write(tmp_path / "b", release_format, images, names)


def test_stored_pixels_are_rounded_to_the_nearest_level():
    """8 bits: nearest level, clipped to the range; float32: untouched."""
    recoded = np.array([-0.2, 0.0, 0.49 / 255, 0.51 / 255, 1.0, 1.7], np.float32).reshape(1, 1, 6, 1)
    assert release.to_stored(recoded, "png8").ravel().tolist() == [0, 0, 0, 1, 255, 255]
    assert release.to_stored(recoded, "float32") is recoded


def test_an_interrupted_write_leaves_no_file_under_the_final_name(tmp_path, monkeypatch):
    """Contract 9: writes are atomic."""

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", dies)
    with pytest.raises(KeyboardInterrupt):
        release.write_atomic(tmp_path / "file", b"content")
    assert not (tmp_path / "file").exists()


def test_no_manifest_is_no_release(tmp_path):
    """An unfinished release is not read as if it were whole."""
    with pytest.raises(UserError, match="no complete release; run --stage=encode first"):
        read_all(tmp_path, 2)


@pytest.mark.parametrize("release_format", release.FORMATS)
@pytest.mark.parametrize("fault", ["missing", "truncated", "foreign"])
def test_a_broken_release_file_is_named(tmp_path, release_format, fault):
    """A file that is not what was written stops the read with its path."""
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    images = images.astype(np.float32) if release_format == "float32" else images
    files = write(tmp_path, release_format, images, [str(index) for index in range(5)])
    path = tmp_path / sorted(files)[-1]
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-30] if fault == "truncated" else b"something else")
    with pytest.raises(UserError) as caught:
        read_all(tmp_path, 2)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_resized_png_is_named(tmp_path):
    """A release whose geometry was changed is not read silently."""
    images = np.zeros((1, 8, 8, 1), np.uint8)
    write(tmp_path, "png8", images, ["a"])
    release.write_png(tmp_path, "a", np.zeros((4, 4, 1), np.uint8))
    with pytest.raises(UserError, match="changed after the release"):
        read_all(tmp_path, 1)
