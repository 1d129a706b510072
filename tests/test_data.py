"""Sources and batches."""

import numpy as np
import pytest
from PIL import Image

from ne_jax import data, fashion_mnist
from ne_jax.errors import UserError
from ne_jax.preprocess import Preprocess

GREY = Preprocess(12, (0.5,), (0.5,))


def write_images(folder, names):
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(path)


def test_embedded_set_is_the_published_one():
    """The default source is the whole test set, in the published order, with its labels."""
    source = data.open_source("fashion_mnist")
    images, labels = fashion_mnist.load("test")
    assert len(source.names) == 10_000 and source.names[:2] == ["test/00000", "test/00001"]
    np.testing.assert_array_equal(source.labels, labels)
    np.testing.assert_array_equal(np.asarray(source.read(9_999)), images[9_999])


def test_folder_with_class_subfolders_has_labels(tmp_path):
    """The label is the place of the class folder's name in sorted order, however deep the file."""
    write_images(tmp_path, ["dog/1.png", "cat/2.jpg", "cat/deep/3.bmp", ".hidden/4.png"])
    source = data.open_source("folder", str(tmp_path))
    assert dict(zip(source.names, source.labels.tolist(), strict=True)) == {"cat/2": 0, "cat/deep/3": 0, "dog/1": 1}
    assert source.classes == ["cat", "dog"]


def test_folder_without_subfolders_has_no_labels(tmp_path):
    """A flat folder gives agreement only."""
    write_images(tmp_path, ["b.png", "a.png"])
    source = data.open_source("folder", str(tmp_path))
    assert source.names == ["a", "b"] and source.labels.tolist() == [data.NO_LABEL] * 2 and not source.classes


def test_files_that_differ_in_their_ending_only_keep_it(tmp_path):
    """No two images share a name, so no release file overwrites another."""
    write_images(tmp_path, ["a.png", "a.jpg", "b.png"])
    assert data.open_source("folder", str(tmp_path)).names == ["a.jpg", "a.png", "b"]
    write_images(tmp_path, ["a.jpg.png"])
    assert data.open_source("folder", str(tmp_path)).names == ["a.jpg", "a.jpg.png", "a.png", "b.png"]


def test_batches_have_one_shape_and_a_mask(tmp_path):
    """A last, short batch is padded and says so; broken images are told and left out."""
    write_images(tmp_path, [f"{index}.png" for index in range(5)])
    (tmp_path / "2.png").write_bytes(b"")
    source = data.open_source("folder", str(tmp_path))
    broken = []
    found = list(data.batches(source, GREY, 3, range(5), lambda index, why: broken.append((index, why))))
    assert [batch.pixels.shape for batch in found] == [(3, 12, 12, 1)] * 2
    assert [batch.indices.tolist() for batch in found] == [[0, 1, 3], [4, -1, -1]]
    assert [batch.mask.tolist() for batch in found] == [[True] * 3, [True, False, False]]
    assert [index for index, _ in broken] == [2] and str(tmp_path / "2.png") in broken[0][1]


def test_limit_takes_the_first(tmp_path):
    """`data.limit` keeps order and labels together."""
    source = data.open_source("fashion_mnist", limit=7)
    assert len(source.names) == 7 and source.labels.tolist() == fashion_mnist.load("test")[1][:7].tolist()


@pytest.mark.parametrize("shape", [(9, 9, 1), (10, 8, 3)])
def test_tfds_array_record_is_read_without_tensorflow(tmp_path, shape):
    """Any classification set in array_record form: images, labels and class names come through."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (6, *shape), np.uint8)

    with tfds.core.registered.skip_registration():

        class Tiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Tensor(shape=shape, dtype=np.uint8),
                        "label": tfds.features.ClassLabel(names=["cat", "dog", "emu"]),
                    }
                )
                return self.dataset_info_from_configs(features=features)

            def _split_generators(self, dl_manager):
                return {"test": ((str(i), {"image": images[i], "label": i % 3}) for i in range(len(images)))}

            def _generate_examples(self):
                raise NotImplementedError

    builder = Tiny(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    source = data.open_source("tfds", str(builder.data_dir), "test")
    assert source.classes == ["cat", "dog", "emu"] and len(source.names) == 6
    read = {np.asarray(source.read(i)).tobytes(): int(source.labels[i]) for i in range(6)}
    assert read == {images[i].tobytes(): i % 3 for i in range(6)}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("video",), 'data.kind "video" is unknown'),
        (("folder", "/no/such/place"), 'data.path "/no/such/place": no such folder'),
        (("fashion_mnist", "", "validation"), 'data.split "validation" is unknown'),
        (("fashion_mnist", "", "test", -1), "data.limit is -1"),
        (("tfds", "no_such_set_at_all", "test"), 'data.path "no_such_set_at_all"'),
    ],
)
def test_a_wrong_source_is_named(arguments, part):
    """Each mistake in the data section is told in one line that names the leaf."""
    with pytest.raises(UserError) as caught:
        data.open_source(*arguments)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path):
    """Nothing to do is a mistake, not an empty release."""
    with pytest.raises(UserError, match="no image"):
        data.open_source("folder", str(tmp_path))
