"""Sources, and the pipeline that decodes them."""

import itertools
import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from ne_jax.data import fashion_mnist, sources
from ne_jax.data.images import BrokenImage
from ne_jax.data.preprocess import Preprocess, to_pixels
from ne_jax.errors import UserError
from tests.data.test_webdataset import picture, write_tar

GREY = Preprocess(12, (0.5,), (0.5,))
COLOUR = Preprocess(12, (0.5,) * 3, (0.5,) * 3)


def write_images(folder, names):
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(path)


def test_embedded_set_is_the_published_one():
    """The default source is the whole test set, in the published order, with its labels."""
    source = sources.open_source("fashion_mnist")
    images, labels = fashion_mnist.load("test")
    assert len(source.names) == 10_000 and source.names[:2] == ["test/00000", "test/00001"]
    np.testing.assert_array_equal(source.labels(), labels)
    np.testing.assert_array_equal(np.asarray(source.read(9_999)), images[9_999])


def test_folder_with_class_subfolders_has_labels(tmp_path):
    """The label is the place of the class folder's name in sorted order, however deep the file."""
    write_images(tmp_path, ["dog/1.png", "cat/2.jpg", "cat/deep/3.bmp", ".hidden/4.png"])
    source = sources.open_source("folder", str(tmp_path))
    assert dict(zip(source.names, source.labels().tolist(), strict=True)) == {"cat/2": 0, "cat/deep/3": 0, "dog/1": 1}
    assert source.classes == ["cat", "dog"]


def test_what_is_no_image_does_not_shift_the_labels(tmp_path, caplog):
    """Beside class folders, what an archiver left, a list and notes make no class: each is told, is a broken image as before, and the
    labels are those without it. An image beside them is still no class and no label."""
    write_images(tmp_path, ["cat/1.png", "dog/2.png"])
    plain = sources.open_source("folder", str(tmp_path))
    for name in ("__MACOSX/x.txt", "aardvark/list.csv", "README.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("hello")
    with caplog.at_level("WARNING", "absl"):
        source = sources.open_source("folder", str(tmp_path))
    assert [record.getMessage() for record in caplog.records] == [
        f'data.path "{tmp_path}": no class, as no image is in it: __MACOSX, aardvark'
    ]
    assert source.classes == plain.classes == ["cat", "dog"]
    labels = dict(zip(source.names, source.labels().tolist(), strict=True))
    assert labels == {"README": -1, "__MACOSX/x": -1, "aardvark/list": -1, "cat/1": 0, "dog/2": 1}
    with pytest.raises(BrokenImage, match="__MACOSX/x.txt: not an image$"):
        source.read(source.names.index("__MACOSX/x"))
    write_images(tmp_path, ["loose.png"])
    assert not sources.open_source("folder", str(tmp_path)).classes


def test_images_without_endings_have_classes(tmp_path):
    """Files are known as images by their first bytes where their names say nothing."""
    write_images(tmp_path, ["cat/1.png", "dog/2.png"])
    for name in ("cat/1", "dog/2"):
        (tmp_path / f"{name}.png").rename(tmp_path / name)
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "notes").write_text("")
    source = sources.open_source("folder", str(tmp_path))
    assert source.classes == ["cat", "dog"] and source.labels().tolist() == [-1, 0, 1]


def test_folder_without_subfolders_has_no_labels(tmp_path):
    """A flat folder gives agreement only."""
    write_images(tmp_path, ["b.png", "a.png"])
    source = sources.open_source("folder", str(tmp_path))
    assert source.names == ["a", "b"] and source.labels().tolist() == [sources.NO_LABEL] * 2 and not source.classes


def test_files_that_differ_in_their_ending_only_keep_it(tmp_path):
    """No two images share a name, so no release file overwrites another."""
    write_images(tmp_path, ["a.png", "a.jpg", "b.png"])
    assert sources.open_source("folder", str(tmp_path)).names == ["a.jpg", "a.png", "b"]
    write_images(tmp_path, ["a.jpg.png"])
    assert sources.open_source("folder", str(tmp_path)).names == ["a.jpg", "a.jpg.png", "a.png", "b"]


def test_odd_names_and_links_are_handled_by_the_source(tmp_path):
    """Spaces and other alphabets are read; a link out of the folder and a name that is no UTF-8 are broken with one line, which, as
    the name, can be printed."""
    write_images(tmp_path, ["in/cat/ü 猫 1.png", "out/2.png"])
    (tmp_path / "in" / "cat" / "z.png").symlink_to(tmp_path / "out" / "2.png")
    with open(os.fsencode(tmp_path) + b"/in/cat/\xff.png", "wb"):
        pass
    source = sources.open_source("folder", str(tmp_path / "in"))
    assert source.names == ["cat/z", "cat/ü 猫 1", "cat/\\xff"] and "".join(source.names).encode()
    assert source.read(1).size == (20, 20)
    for index, why in (
        (0, "z.png: a symbolic link out of the folder; copy"),
        (2, r"\\xff.png: the name is not UTF-8; rename"),
    ):
        with pytest.raises(BrokenImage, match=f"^{tmp_path}/in/cat/{why} [^\n]+$"):
            source.read(index)
    followed = sources.open_source("folder", str(tmp_path / "in"), follow_links=True)
    assert followed.read(0).size == (20, 20)


def test_a_class_folder_that_is_a_link_keeps_its_number(tmp_path):
    """A folder that is not entered is one broken image of its class: the labels of the others do not shift."""
    write_images(tmp_path, ["in/ant/1.png", "in/cat/2.png", "out/3.png"])
    (tmp_path / "in" / "bee").symlink_to(tmp_path / "out")
    source = sources.open_source("folder", str(tmp_path / "in"))
    assert source.names == ["ant/1", "bee", "cat/2"]
    assert source.labels().tolist() == [0, 1, 2] and source.classes == ["ant", "bee", "cat"]
    with pytest.raises(BrokenImage, match="in/bee/: a symbolic link to a folder; copy the folder, or set"):
        source.read(1)


def test_limits_reach_the_reader(tmp_path):
    """`max_megapixels` is the largest image of a folder and of a tar."""
    write_images(tmp_path, ["a.png"])
    tar = write_tar(tmp_path / "tars" / "0.tar", [("a.png", (tmp_path / "a.png").read_bytes())])
    for arguments in (("folder", str(tmp_path)), ("webdataset", tar)):
        assert sources.open_source(*arguments, max_megapixels=400e-6).read(0).size == (20, 20)
        with pytest.raises(BrokenImage, match="20 x 20 pixels, more than data.max_megapixels = 0.000399 allows"):
            sources.open_source(*arguments, max_megapixels=399e-6).read(0)


def test_tars_have_names_labels_and_classes(tmp_path):
    """Keys are names, after the tar's where they repeat; classes are the numbers up to the largest."""
    write_tar(tmp_path / "00.tar", [("a.png", picture(1)), ("a.cls", b"2"), ("b.png", picture(2)), ("b.cls", b"0")])
    write_tar(tmp_path / "01.tar", [("A.png", picture(3)), ("A.cls", b"1")])
    source = sources.open_source("webdataset", str(tmp_path))
    assert source.names == ["00/a", "b", "01/A"] and source.classes == ["0", "1", "2"]
    assert source.labels().tolist() == [2, 0, 1]
    assert [np.asarray(source.read(index))[0, 0] for index in range(3)] == [1, 2, 3]
    for members in ([("c.png", picture(4))], [("c.png", picture(4)), ("c.cls", b"-1")]):
        write_tar(tmp_path / "02.tar", members)
        source = sources.open_source("webdataset", str(tmp_path), limit=2)
        assert (
            source.names == ["00/a", "b"] and source.labels().tolist() == [sources.NO_LABEL] * 2 and not source.classes
        )


def test_what_tars_leave_out_is_told_in_one_line(tmp_path, caplog):
    """Once, with how many members of which ending; nothing is said of tars that hold images and classes alone."""
    members = [(f"{key}.{ending}", picture(1)) for key in "abc" for ending in ("png", "json", "txt")]
    tar = write_tar(tmp_path / "0.tar", [*members, ("a.cls", b"1"), ("d.json", b""), ("README", b"")])
    with caplog.at_level("WARNING", "absl"):
        sources.open_source("webdataset", tar)
        sources.open_source("webdataset", write_tar(tmp_path / "1.tar", [("a.png", picture(1)), ("a.cls", b"1")]))
    assert [record.getMessage() for record in caplog.records] == [
        f'data.path "{tar}": members that are no image (jpg, jpeg, png, webp, bmp, tif, tiff) and no class are left out: '
        "4 .json, 3 .txt, 1 without a key and an ending"
    ]


def test_limit_takes_the_first():
    """`data.limit` keeps order and labels together."""
    source = sources.open_source("fashion_mnist", limit=7)
    assert len(source.names) == 7 and source.labels().tolist() == fashion_mnist.load("test")[1][:7].tolist()
    assert len(sources.open_source("fashion_mnist", limit=10_001).names) == 10_000


def test_a_view_has_its_own_order_and_names():
    """Names, pixels, labels and classes of a view are those of the indices it was made of, of a view of a view too."""
    source = sources.open_source("fashion_mnist")
    images, labels = fashion_mnist.load("test")
    view = source.take([9, 4, 9]).take(np.array([1, 0]), names=["x", "y"])
    assert view.names == ["x", "y"] and source.take([9, 4]).names == ["test/00009", "test/00004"]
    assert view.labels().tolist() == labels[[4, 9]].tolist() and view.classes == source.classes
    np.testing.assert_array_equal(np.asarray(view.read(1)), images[9])
    assert source.first(0) is source


def prepare(folder, feature, images, labels=True):
    """A TFDS set of `images` in array_record form, labelled 0, 1, 2, 0, 1 ..."""
    import tensorflow_datasets as tfds

    features = {"image": feature}
    if labels:
        features["label"] = tfds.features.ClassLabel(names=["cat", "dog", "emu"])

    with tfds.core.registered.skip_registration():

        class Tiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                rows = ({"image": image, "label": number % 3} for number, image in enumerate(images))
                return {"test": ((str(number), {key: row[key] for key in features}) for number, row in enumerate(rows))}

            def _generate_examples(self):
                raise NotImplementedError

    builder = Tiny(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_dir)


@pytest.mark.parametrize("shape", [(9, 9, 1), (10, 8, 3)])
def test_tfds_array_record_is_read_without_tensorflow(tmp_path, shape):
    """Any classification set in array_record form: images, labels and class names come through."""
    import tensorflow_datasets as tfds

    images = np.random.default_rng(0).integers(0, 255, (6, *shape), np.uint8)
    path = prepare(tmp_path, tfds.features.Tensor(shape=shape, dtype=np.uint8), images)
    source = sources.open_source("tfds", path, "test")
    assert source.classes == ["cat", "dog", "emu"] and len(source.names) == 6
    read = {np.asarray(source.read(i)).tobytes(): int(source.labels()[i]) for i in range(6)}
    assert read == {images[i].tobytes(): i % 3 for i in range(6)}


def test_tfds_labels_are_read_when_asked_for_and_decode_nothing(tmp_path, monkeypatch):
    """Encoded images go through the rule of `images`; opening reads no record, labels read each of `limit` records once."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.data_sources import base

    levels = {picture(level): level for level in range(0, 250, 25)}
    path = prepare(tmp_path, tfds.features.Image(shape=(None, None, 1)), [*levels, b"no image"])
    rows = base.BaseDataSource
    real, seen = rows.__getitem__, []
    monkeypatch.setattr(rows, "__getitem__", lambda self, key: seen.append(key) or real(self, key))
    monkeypatch.setattr(tfds.features.Image, "decode_example_np", None)  # nobody decodes but us
    source = sources.open_source("tfds", path, "test", limit=4)
    assert source.names == [f"test/{index:08d}" for index in range(4)] and not seen
    labels = source.labels()
    assert seen == [0, 1, 2, 3] and source.labels() is labels and len(seen) == 4
    whole = sources.open_source("tfds", path, "test")
    assert whole.labels().shape == (11,) and whole.labels()[:4].tolist() == labels.tolist() and len(seen) == 4 + 11
    found = dict(sources.decoded(whole, Preprocess(2, (0.5,), (0.5,)), range(11), workers=3))
    (broken,) = (image for image in found.values() if isinstance(image, BrokenImage))
    assert str(broken).startswith(f"{path} row ") and str(broken).endswith(": not an image")
    pixels = {index: int(image.pixels[0, 0, 0]) for index, image in found.items() if image is not broken}
    assert sorted(pixels.values()) == sorted(levels.values())
    order = list(levels.values())
    assert all(order.index(level) % 3 == whole.labels()[index] for index, level in pixels.items())


def test_tfds_without_classes_has_no_labels(tmp_path):
    """A set of images alone gives agreement only, and reads nothing for it."""
    import tensorflow_datasets as tfds

    images = np.zeros((2, 4, 4, 1), np.uint8)
    source = sources.open_source(
        "tfds", prepare(tmp_path, tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8), images, labels=False)
    )
    assert source.labels().tolist() == [sources.NO_LABEL] * 2 and not source.classes


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("video",), 'data.kind "video" is unknown'),
        (("folder", "/no/such/place"), 'data.path "/no/such/place": no such folder'),
        (("fashion_mnist", "", "validation"), 'data.split "validation" is unknown'),
        (("fashion_mnist", "", "test", -1), "data.limit is -1"),
        (("webdataset", "/no/such/*.tar"), 'data.path "/no/such/*.tar": no such .tar file'),
        (("tfds", "no_such_set_at_all", "test"), 'data.path "no_such_set_at_all"'),
    ],
)
def test_a_wrong_source_is_named(arguments, part):
    """Each mistake in the data section is told in one line that names the leaf."""
    with pytest.raises(UserError) as caught:
        sources.open_source(*arguments)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path):
    """Nothing to do is a mistake, not an empty release."""
    with pytest.raises(UserError, match="no image"):
        sources.open_source("folder", str(tmp_path))


def test_a_size_limit_of_nothing_is_refused():
    """A limit that no image can keep is a mistake in the config."""
    with pytest.raises(UserError, match="data.max_megapixels is 0; give a number above 0"):
        sources.open_source("fashion_mnist", max_megapixels=0)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    """A root without permission is one line, not a traceback."""
    monkeypatch.setattr(os, "scandir", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(
        UserError, match=f'^data.path "{tmp_path}": Permission denied; give a folder that can be listed$'
    ):
        sources.open_source("folder", str(tmp_path))


# --- The pipeline ---


def test_batches_have_one_shape_and_a_mask(tmp_path):
    """A last, short batch is padded and says so; broken images are told and left out."""
    write_images(tmp_path, [f"{index}.png" for index in range(5)])
    (tmp_path / "2.png").write_bytes(b"")
    source = sources.open_source("folder", str(tmp_path))
    broken = []
    found = list(sources.batches(source, GREY, 3, range(5), lambda index, why: broken.append((index, why))))
    assert [batch.pixels.shape for batch in found] == [(3, 12, 12, 1)] * 2
    assert [batch.indices.tolist() for batch in found] == [[0, 1, 3], [4, -1, -1]]
    assert [batch.mask.tolist() for batch in found] == [[True] * 3, [True, False, False]]
    assert [index for index, _ in broken] == [2] and str(tmp_path / "2.png") in broken[0][1]


def test_what_is_decoded_comes_with_its_metadata(tmp_path):
    """Pixels are those of `to_pixels`; EXIF comes along, a profile only where the model's pixels are of its colours."""
    profile = bytes(16) + b"RGB " + bytes(108)
    exif = Image.Exif()
    exif[0x013B] = "me"
    Image.effect_noise((20, 20), 50).convert("RGB").save(tmp_path / "a.png", exif=exif, icc_profile=profile)
    source = sources.open_source("folder", str(tmp_path))
    for rules, names in ((COLOUR, {"exif", "icc_profile"}), (GREY, {"exif"})):
        ((index, image),) = sources.decoded(source, rules, [0])
        assert index == 0 and image.metadata.keys() == names
        np.testing.assert_array_equal(image.pixels, to_pixels(source.read(0), rules))


def numbered(count: int, read=lambda index: None) -> sources.Source:
    """A source of grey images whose level is their index; `read` is called first."""

    def image(index: int) -> Image.Image:
        read(index)
        return Image.new("L", (12, 12), index % 256)

    return sources.Source([str(index) for index in range(count)], image, lambda: np.zeros(count, np.int32), ())


@pytest.mark.parametrize("workers", [0, 1, 2, 7])
def test_order_and_content_do_not_depend_on_workers(workers):
    """Images come as asked, whichever thread is done first, broken ones in their places; twice the same index is twice the image."""

    def slow(index: int) -> None:
        time.sleep(random.random() / 500)
        if index % 10 == 3:
            raise BrokenImage(f"image {index}")

    indices = [5, 3, 3, *range(60, 20, -1), 5]
    found = list(sources.decoded(numbered(61, slow), GREY, indices, workers))
    assert [index for index, _ in found] == indices
    for index, image in found:
        if index % 10 == 3:
            assert isinstance(image, BrokenImage) and str(image) == f"image {index}"
        else:
            assert (image.pixels == index).all() and image.metadata == {}


def test_nothing_to_decode_gives_nothing():
    """An empty list of indices is no error."""
    assert list(sources.decoded(numbered(3), GREY, [])) == []
    assert list(sources.batches(numbered(3), GREY, 2, [], lambda *_: None)) == []


def decoding_threads() -> int:
    return sum(thread.name.startswith("grain") for thread in threading.enumerate())


def wait_until(condition) -> bool:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_images_are_decoded_at_the_same_time():
    """Three workers are in `read` at once: each waits there for the other two."""
    meeting = threading.Barrier(3, timeout=5)
    assert len(list(sources.decoded(numbered(6, lambda _: meeting.wait()), GREY, range(6), workers=3))) == 6


@pytest.mark.parametrize("count", [100, 1000])
def test_reading_stays_close_in_front(count):
    """However large the set, at most 2 * workers + ahead images wait to be taken: memory is bounded."""
    seen: list[int] = []
    images = sources.decoded(numbered(count, seen.append), GREY, range(count), workers=3, ahead=5)
    for taken, _ in enumerate(itertools.islice(images, 40), start=1):
        if taken in (1, 20, 40):
            assert wait_until(lambda: len(seen) >= taken + 11)  # noqa: B023
            time.sleep(0.05)
            assert len(seen) == taken + 11
    images.close()


def test_the_next_batch_is_decoded_while_this_one_is_used():
    """Reading goes on while the caller has a batch: the next one is whole before it is asked for."""
    seen: list[int] = []
    images = sources.batches(numbered(100, seen.append), GREY, 8, range(100), lambda *_: None, workers=2)
    next(images)
    assert wait_until(lambda: len(seen) == 8 + 8 + 4)
    images.close()


def test_threads_end_with_their_iterator():
    """Whether it is exhausted, dropped early or closed, its threads go and what was waiting is not read."""
    seen: list[int] = []
    source = numbered(1000, lambda index: seen.append(index) or time.sleep(0.001))
    assert wait_until(lambda: decoding_threads() == 0)
    assert len(list(sources.decoded(numbered(9), GREY, range(9), workers=2))) == 9
    assert wait_until(lambda: decoding_threads() == 0)
    next(sources.batches(source, GREY, 10, range(1000), lambda *_: None, workers=3))
    assert wait_until(lambda: decoding_threads() == 0) and len(seen) <= 10 + 10 + 6 + 3


@pytest.mark.parametrize("error", [UserError, ZeroDivisionError])
def test_other_errors_pass_through(error):
    """Only a broken image is skipped; a bug or a person's mistake stops the run, and its threads."""

    def fail(index: int) -> None:
        if index == 30:
            raise error("at 30")

    taken = []
    with pytest.raises(error) as caught:
        for index, _ in sources.decoded(numbered(100, fail), GREY, range(100), workers=2):
            taken.append(index)
    assert str(caught.value) == "at 30" and taken == list(range(30))
    assert wait_until(lambda: decoding_threads() == 0)


def test_decoding_is_silent_and_leaves_jax_alone():
    """In a fresh process nothing is printed, no device is claimed, and no flag is asked for before absl has parsed them."""
    program = """
from ne_jax.data import sources
from ne_jax.data.preprocess import Preprocess
source = sources.open_source("fashion_mnist", limit=20)
assert len(list(sources.decoded(source, Preprocess(28, (0.5,), (0.5,)), range(20)))) == 20
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
