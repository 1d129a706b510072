"""Where images come from: the embedded set, a folder, tars, a TFDS set. One interface; decoded by threads, in order, in batches."""

from __future__ import annotations

import functools
import io
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from ne_jax.data import fashion_mnist, folder, package_files, photographs, webdataset
from ne_jax.data.images import MAX_PIXELS, BrokenImage, is_image, open_image
from ne_jax.data.preprocess import Preprocess, to_pixels
from ne_jax.errors import UserError

NO_LABEL = -1


class Source(NamedTuple):
    """A set of images in a fixed order.

    names: one unique name each, with "/" between folders, without the ending of a file. read: index -> upright image of mode "L"
    or "RGB", from many threads at once; raises BrokenImage. labels: gives class numbers, or NO_LABEL; slow the first time where
    they are in the records. classes: the names behind the labels, empty where there are none.
    """

    names: Sequence[str]
    read: Callable[[int], Image.Image]
    labels: Callable[[], Int[np.ndarray, " n"]]
    classes: Sequence[str]

    def take(self, indices: Sequence[int] | Int[np.ndarray, " m"], names: Sequence[str] | None = None) -> Source:
        """The images at `indices`, in that order, as a source of its own; under other names if given, one an index."""
        if names is None:
            names = [self.names[index] for index in indices]
        labels = functools.cache(lambda: self.labels()[np.asarray(indices, np.int64)])
        return Source(names, lambda place: self.read(int(indices[place])), labels, self.classes)

    def first(self, limit: int) -> Source:
        """The first `limit` images; all of them for 0."""
        return self.take(range(min(limit, len(self.names)))) if limit else self


def open_source(
    kind: str,
    path: str = "",
    split: str = "test",
    limit: int = 0,
    *,
    max_megapixels: float = MAX_PIXELS / 1e6,
    follow_links: bool = False,
) -> Source:
    """The source that a config names. Raises UserError for an unknown kind or a path with nothing to read.

    kind: "fashion_mnist" (embedded test set, or the published files in folder `path`), "folder" (of images in `path`, class
    subfolders or not), "webdataset" (`path` is a folder of .tar files, a pattern or a range of them), "tfds" (`path` is the set's
    name, "name:version", or the folder of a prepared set) or "photos" (crops of the photographs of scikit-image and scikit-learn).
    limit: take the first so many images; 0 takes all. max_megapixels: an image with more million pixels is broken.
    follow_links: follow symbolic links in a folder to wherever they lead.
    """
    max_pixels = int(max_megapixels * 1e6)
    openers: dict[str, Callable[[], Source]] = {
        "fashion_mnist": lambda: open_fashion_mnist(path, split),
        "folder": lambda: open_folder(path, max_pixels, follow_links),
        "webdataset": lambda: open_webdataset(path, max_pixels),
        "tfds": lambda: open_tfds(path, split, limit, max_pixels),
        "photos": open_photos,
    }
    opener = openers.get(kind)
    if opener is None:
        raise UserError(f'data.kind "{kind}" is unknown; choose {", ".join(openers)}')
    if limit < 0:
        raise UserError(f"data.limit is {limit}; give the number of images, or 0 for all")
    if max_pixels < 1:
        raise UserError(f"data.max_megapixels is {max_megapixels:g}; give a number above 0, such as 100")
    source = opener().first(limit)
    if not len(source.names):
        raise UserError(f"data: no image in {kind} {path or 'set'}; give a source that has some")
    return source


def open_fashion_mnist(path: str, split: str) -> Source:
    """Fashion-MNIST, embedded (its test set only) or from the published files in `path`."""
    if split not in ("train", "test"):
        raise UserError(f'data.split "{split}" is unknown for Fashion-MNIST; choose train or test')
    images, labels = fashion_mnist.load(split, path or fashion_mnist.ASSETS)
    names = [f"{split}/{index:05d}" for index in range(len(images))]
    return Source(names, lambda index: Image.fromarray(images[index]), lambda: labels, fashion_mnist.CLASSES)


def open_photos() -> Source:
    """Crops of real photographs, without labels. Raises UserError if their packages are not installed."""
    for place in photographs.PHOTOS:
        package_files.find(place)
    return _without_labels(photographs.names(), photographs.read)


def _without_labels(names: Sequence[str], read: Callable[[int], Image.Image]) -> Source:
    return Source(names, read, lambda: np.full(len(names), NO_LABEL, np.int32), ())


def open_folder(path: str, max_pixels: int = MAX_PIXELS, follow_links: bool = False) -> Source:
    """Every file below a folder except hidden ones, sorted by path; links as `folder.scan` says. With class subfolders, the label
    is the place of the top folder's name in the sorted list of those that hold images; where images lie beside them, there are no
    labels."""
    if not os.path.isdir(path):
        raise UserError(f'data.path "{path}": no such folder')
    files: list[str] = []
    faults: dict[int, str] = {}
    try:
        for entry in folder.scan(path, follow_links):
            if entry.fault:
                faults[len(files)] = entry.fault
            files.append(entry.path)
    except OSError as error:
        raise UserError(f'data.path "{path}": {error.strerror}; give a folder that can be listed') from error

    def read(index: int) -> Image.Image:
        file = os.path.join(path, files[index])
        label = folder.printable(file)
        if index in faults:
            raise BrokenImage(f"{label}: {faults[index]}")
        return open_image(file, label, max_pixels)

    shown = [folder.printable(file.rstrip("/")) for file in files]
    names = folder.unique_names([os.path.splitext(file)[0] for file in shown], shown)
    classes = folder.classes(files, lambda place: place not in faults and is_image(os.path.join(path, files[place])))
    if not classes:
        return _without_labels(names, read)
    numbers = {name: number for number, name in enumerate(classes)}
    tops = [file.partition("/")[0] if "/" in file else "" for file in files]
    labels = np.fromiter((numbers.get(top, NO_LABEL) for top in tops), np.int32, len(tops))
    if others := sorted(set(tops) - numbers.keys() - {""}):
        logging.warning('data.path "%s": no class, as no image is in it: %s', path, folder.printable(", ".join(others)))
    return Source(names, read, lambda: labels, [folder.printable(name) for name in classes])


def open_webdataset(path: str, max_pixels: int = MAX_PIXELS) -> Source:
    """Tars of samples, `webdataset.index` says which. The name is the sample's key, after the tar's name where keys repeat."""
    samples = webdataset.index(path)
    if samples.left_out:
        logging.warning("%s", webdataset.remark(path, samples.left_out))
    stems = [os.path.basename(tar).removesuffix(".tar") for tar in samples.tars]
    full = [f"{stems[tar]}/{key}" for tar, key in zip(samples.tar, samples.keys, strict=True)]
    names = folder.unique_names(samples.keys, full)

    def read(index: int) -> Image.Image:
        return webdataset.read(samples, index, max_pixels)

    labels = samples.labels
    if labels is None or labels.min() < 0:
        return _without_labels(names, read)
    return Source(names, read, lambda: labels, [str(number) for number in range(labels.max() + 1)])


def open_tfds(path: str, split: str, limit: int = 0, max_pixels: int = MAX_PIXELS) -> Source:
    """A classification set of TensorFlow Datasets in array_record form, read without TensorFlow; encoded images by the rule of
    `images`. Labels are in the records: asking for them reads every record, the first `limit` if not 0, but decodes no image."""
    import tensorflow_datasets as tfds

    place = pathlib.Path(path)
    try:
        builder = tfds.builder_from_directory(place) if (place / "dataset_info.json").is_file() else tfds.builder(path)
        features = dict(builder.info.features.items())
        encoded = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
        rows = builder.as_data_source(split=split, decoders={name: tfds.decode.SkipDecoding() for name in encoded})
    except (
        tfds.core.DatasetNotFoundError,
        FileNotFoundError,
        NotImplementedError,
        ValueError,
        AssertionError,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f'data.path "{path}", split "{split}": TFDS cannot read it ({reason}); prepare it with file_format="array_record"'
        ) from error
    if "image" not in features:
        raise UserError(
            f'data.path "{path}" has the features {", ".join(features)} and no "image"; give a classification set'
        )
    count = min(limit, len(rows)) if limit else len(rows)

    def read(index: int) -> Image.Image:
        return _tfds_image(rows[index]["image"], f"{path} row {index}", max_pixels)

    names = [f"{split}/{index:08d}" for index in range(count)]
    label = features.get("label")
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        return _without_labels(names, read)
    labels = functools.cache(lambda: np.fromiter((rows[index]["label"] for index in range(count)), np.int32, count))
    return Source(names, read, labels, label.names)


def _tfds_image(image: bytes | np.ndarray, label: str, max_pixels: int) -> Image.Image:
    if isinstance(image, bytes):
        return open_image(io.BytesIO(image), label, max_pixels)
    pixels = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    if pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (3,)) or pixels.ndim < 2:
        raise BrokenImage(f"{label}: image is {image.dtype} {image.shape}, not uint8 (height, width, 1 or 3)")
    return Image.fromarray(pixels)


class Decoded(NamedTuple):
    """An image at the model's input size. metadata: "exif" and "icc_profile" as the file has them, see `images`, if it has them
    and they fit the pixels."""

    pixels: UInt8[np.ndarray, "height width channels"]
    metadata: dict[str, bytes]


def decoded(
    source: Source, preprocess: Preprocess, indices: Sequence[int], workers: int = 0, ahead: int = 0
) -> Iterator[tuple[int, Decoded | BrokenImage]]:
    """Each of `indices`, in order, with its image, or with why it has none.

    Decoded by `workers` threads (0: one a core), which stay at most 2 * workers + `ahead` images in front of the caller: memory
    does not grow with the set. Any other exception than BrokenImage passes through.
    """
    import grain  # here, because it defines flags of its own when it is imported

    def decode(index: int) -> tuple[int, Decoded | BrokenImage]:
        try:
            image = source.read(index)
        except BrokenImage as error:
            return index, error
        same_colours = (image.mode == "L") == (preprocess.channels == 1)
        metadata = {name: value for name, value in image.info.items() if name == "exif" or same_colours}
        return index, Decoded(to_pixels(image, preprocess), metadata)

    workers = num_workers(workers)
    reading = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers + ahead)
    images = iter(grain.MapDataset.source(indices).map(decode).to_iter_dataset(reading))
    try:
        yield from images
    finally:
        images.close()


def num_workers(asked: int) -> int:
    """Threads: as many as asked, or one for each core that this process may use."""
    return asked or len(os.sched_getaffinity(0))


class Batch(NamedTuple):
    """Images of one shape, padded with zeros to a fixed number; `mask` says which rows are real.

    indices: places in the source, or -1 for padding.
    """

    pixels: UInt8[np.ndarray, "batch height width channels"]
    indices: Int[np.ndarray, " batch"]
    mask: Bool[np.ndarray, " batch"]


def batches(
    source: Source,
    preprocess: Preprocess,
    batch_size: int,
    indices: Sequence[int],
    broken: Callable[[int, str], None],
    workers: int = 0,
) -> Iterator[Batch]:
    """The images at `indices`, in order, as padded batches at the model's input size, of which the next one is decoded meanwhile.

    A broken image is told to `broken` with its index and the reason, and left out. workers: see `decoded`.
    """
    ready: list[tuple[int, np.ndarray]] = []
    for index, image in decoded(source, preprocess, indices, workers, ahead=batch_size):
        if isinstance(image, BrokenImage):
            broken(index, str(image))
        else:
            ready.append((index, image.pixels))
        if len(ready) == batch_size:
            yield _pad(ready, batch_size)
            ready = []
    if ready:
        yield _pad(ready, batch_size)


def _pad(rows: list[tuple[int, np.ndarray]], batch_size: int) -> Batch:
    pixels = np.zeros((batch_size, *rows[0][1].shape), np.uint8)
    indices = np.full(batch_size, -1, np.int64)
    for place, (index, image) in enumerate(rows):
        pixels[place], indices[place] = image, index
    return Batch(pixels, indices, indices >= 0)
