"""Where images come from: the embedded set, a folder, a TFDS set. One interface, and padded batches of one shape."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, UnidentifiedImageError

from ne_jax import fashion_mnist, packaged, photos
from ne_jax.errors import UserError
from ne_jax.preprocess import Preprocess, to_pixels

NO_LABEL = -1


class BrokenImage(Exception):
    """One image cannot be read. The run goes on without it and counts it (contract 7)."""


class Source(NamedTuple):
    """A set of images in a fixed order.

    names: one unique name each, with "/" between folders, without the ending of a file. labels: class numbers, or NO_LABEL.
    read: index -> image; raises BrokenImage. classes: the names behind the labels, empty where there are none.
    """

    names: Sequence[str]
    labels: Int[np.ndarray, " n"]
    read: Callable[[int], Image.Image]
    classes: Sequence[str]

    def first(self, limit: int) -> Source:
        """The first `limit` images; all of them for 0."""
        return self._replace(names=self.names[:limit], labels=self.labels[:limit]) if limit else self


def open_source(kind: str, path: str = "", split: str = "test", limit: int = 0) -> Source:
    """The source that a config names. Raises UserError for an unknown kind or a path with nothing to read.

    kind: "fashion_mnist" (embedded test set, or the published files in folder `path`), "folder" (of images in `path`, class
    subfolders or not), "tfds" (`path` is the set's name, "name:version", or the folder of a prepared set) or "photos" (crops of the
    photographs of scikit-image and scikit-learn).
    limit: take the first so many images; 0 takes all.
    """
    openers = {"fashion_mnist": open_fashion_mnist, "folder": open_folder, "tfds": open_tfds, "photos": open_photos}
    opener = openers.get(kind)
    if opener is None:
        raise UserError(f'data.kind "{kind}" is unknown; choose {", ".join(openers)}')
    if limit < 0:
        raise UserError(f"data.limit is {limit}; give the number of images, or 0 for all")
    source = opener(path, split).first(limit)
    if not len(source.names):
        raise UserError(f"data: no image in {kind} {path or 'set'}; give a source that has some")
    return source


def open_fashion_mnist(path: str, split: str) -> Source:
    """Fashion-MNIST, embedded (its test set only) or from the published files in `path`."""
    if split not in ("train", "test"):
        raise UserError(f'data.split "{split}" is unknown for Fashion-MNIST; choose train or test')
    images, labels = fashion_mnist.load(split, path or fashion_mnist.ASSETS)
    names = [f"{split}/{index:05d}" for index in range(len(images))]
    return Source(names, labels, lambda index: Image.fromarray(images[index]), fashion_mnist.CLASSES)


def open_photos(path: str = "", split: str = "") -> Source:
    """Crops of real photographs, without labels. Raises UserError if their packages are not installed."""
    for place in photos.PHOTOS:
        packaged.find(place)
    names = photos.names()
    return Source(names, np.full(len(names), NO_LABEL, np.int32), photos.read, ())


def open_folder(path: str, split: str = "") -> Source:
    """Every file below a folder except hidden ones, sorted by path. With class subfolders, the label is the place of the top
    folder's name in their sorted list; a folder that also holds files of its own has no labels."""
    root = pathlib.Path(path)
    if not root.is_dir():
        raise UserError(f'data.path "{path}": no such folder')
    relative = (file.relative_to(root) for file in root.rglob("*") if not file.is_dir())
    files = sorted(file for file in relative if not any(part.startswith(".") for part in file.parts))
    classes = sorted({file.parts[0] for file in files})
    nested = all(len(file.parts) > 1 for file in files)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[file.parts[0]] if nested else NO_LABEL for file in files], np.int32)

    def read(index: int) -> Image.Image:
        return _read_image(root / files[index])

    return Source(_unique_names(files), labels, read, classes if nested else ())


def _unique_names(files: Sequence[pathlib.Path]) -> list[str]:
    """Paths without their endings, but with them where two files differ in nothing else."""
    stems = [file.with_suffix("").as_posix() for file in files]
    times = collections.Counter(stems)
    names = [file.as_posix() if times[stem] > 1 else stem for file, stem in zip(files, stems, strict=True)]
    return names if len(set(names)) == len(names) else [file.as_posix() for file in files]


def _read_image(path: pathlib.Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise BrokenImage(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        raise BrokenImage(f"{path}: not an image") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # what PIL raises for broken files
        raise BrokenImage(f"{path}: {error}") from error


def open_tfds(path: str, split: str) -> Source:
    """A classification set of TensorFlow Datasets in array_record form, read without TensorFlow."""
    import tensorflow_datasets as tfds

    try:
        folder = pathlib.Path(path)
        builder = (
            tfds.builder_from_directory(folder) if (folder / "dataset_info.json").is_file() else tfds.builder(path)
        )
        rows = builder.as_data_source(split=split)
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
    features = builder.info.features
    if "image" not in features:
        raise UserError(
            f'data.path "{path}" has the features {", ".join(features)} and no "image"; give a classification set'
        )
    labelled = "label" in features
    labels = np.array([row["label"] for row in rows] if labelled else [NO_LABEL] * len(rows), np.int32)
    classes = features["label"].names if labelled else ()

    def read(index: int) -> Image.Image:
        pixels = np.asarray(rows[index]["image"])
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
            raise BrokenImage(
                f"{path} row {index}: image is {pixels.dtype} {pixels.shape}, not uint8 (height, width, channels)"
            )
        return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)

    return Source([f"{split}/{index:08d}" for index in range(len(rows))], labels, read, classes)


class Batch(NamedTuple):
    """Images of one shape, padded with zeros to a fixed number; `mask` says which rows are real.

    indices: places in the source, or -1 for padding.
    """

    pixels: UInt8[np.ndarray, "batch height width channels"]
    indices: Int[np.ndarray, " batch"]
    mask: Bool[np.ndarray, " batch"]


def batches(
    source: Source, preprocess: Preprocess, batch_size: int, indices: Sequence[int], broken: Callable[[int, str], None]
) -> Iterator[Batch]:
    """The images at `indices`, in order, as padded batches at the model's input size. A broken image is told to `broken` with its
    index and the reason, and left out."""
    ready: list[tuple[int, np.ndarray]] = []
    for index in indices:
        try:
            ready.append((index, to_pixels(source.read(index), preprocess)))
        except BrokenImage as error:
            broken(index, str(error))
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
