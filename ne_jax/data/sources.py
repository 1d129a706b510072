"""Where images come from: the embedded set, a folder, tars, a TFDS set. One interface; decoded by threads, in order, in batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from ne_jax.data import fashion_mnist, folder, package_files, photographs, webdataset
from ne_jax.data.images import MAX_PIXELS, BrokenImage, is_image, open_image
from ne_jax.data.near_copies import Known, known_by
from ne_jax.data.prepared_sets import open_tfds
from ne_jax.data.preprocess import Preprocess, to_pixels
from ne_jax.data.source import NO_LABEL as NO_LABEL
from ne_jax.data.source import Source, without_labels
from ne_jax.errors import UserError


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
    return without_labels(photographs.names(), photographs.read)


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
        return without_labels(names, read)
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
        return without_labels(names, read)
    return Source(names, read, lambda: labels, [str(number) for number in range(labels.max() + 1)])


class Decoded(NamedTuple):
    """An image at the model's input size. metadata: "exif" and "icc_profile" as the file has them, see `images`, if it has them
    and they fit the pixels. known: the whole picture, before any resize, by `known_by`; None where nobody asked."""

    pixels: UInt8[np.ndarray, "height width channels"]
    metadata: dict[str, bytes]
    known: Known | None = None


def decoded(
    source: Source,
    preprocess: Preprocess,
    indices: Sequence[int],
    workers: int = 0,
    ahead: int = 0,
    known: bool = False,
) -> Iterator[tuple[int, Decoded | BrokenImage]]:
    """Each of `indices`, in order, with its image, or with why it has none. known: each with `Decoded.known`.

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
        return index, Decoded(to_pixels(image, preprocess), metadata, known_by(image) if known else None)

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
