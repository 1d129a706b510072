"""Sets that TensorFlow Datasets has prepared as array_record, read without TensorFlow."""

from __future__ import annotations

import functools
import io
import pathlib

import numpy as np
from PIL import Image

from ne_jax.data.images import MAX_PIXELS, BrokenImage, open_image
from ne_jax.data.source import Source, without_labels
from ne_jax.errors import UserError


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
        return without_labels(names, read)
    labels = functools.cache(lambda: np.fromiter((rows[index]["label"] for index in range(count)), np.int32, count))
    return Source(names, read, labels, label.names)


def _tfds_image(image: bytes | np.ndarray, label: str, max_pixels: int) -> Image.Image:
    if isinstance(image, bytes):
        return open_image(io.BytesIO(image), label, max_pixels)
    pixels = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    if pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (3,)) or pixels.ndim < 2:
        raise BrokenImage(f"{label}: image is {image.dtype} {image.shape}, not uint8 (height, width, 1 or 3)")
    return Image.fromarray(pixels)
