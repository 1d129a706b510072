"""What TensorFlow Datasets' two files of metadata say of a release, against what its shards hold."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ne_jax.files import Record, line
from ne_jax.release import strict_json
from ne_jax.release.confined import read_inside
from ne_jax.release.reasons import Reason, Unreadable

_Number = Annotated[str, Meta(pattern=r"\A[0-9]{1,12}\Z")]  # protobuf's JSON has 64 bits as text


class _Split(Record, kw_only=True, forbid_unknown_fields=False):
    shardLengths: list[_Number] = []  # noqa: N815  TFDS's own name


class _Info(Record, kw_only=True, forbid_unknown_fields=False):
    splits: list[_Split]


class _Shape(Record, kw_only=True, forbid_unknown_fields=False):
    dimensions: list[_Number]


class _Tensor(Record, kw_only=True, forbid_unknown_fields=False):
    shape: _Shape
    dtype: str


class _Feature(Record, kw_only=True, forbid_unknown_fields=False):
    tensor: _Tensor


class _Image(Record, kw_only=True, forbid_unknown_fields=False):
    image: _Feature


class _Dict(Record, kw_only=True, forbid_unknown_fields=False):
    features: _Image


class _Features(Record, kw_only=True, forbid_unknown_fields=False):
    featuresDict: _Dict  # noqa: N815


def faults(release: pathlib.Path, folder: str, shape: Sequence[int], images: int) -> dict[str, Reason]:
    """Why a file of metadata in `folder` does not tell of so many images of that shape, by relative path."""
    found = {}
    for name, kind, told, wanted in (
        ("dataset_info.json", _Info, _images, f"{images} images"),
        ("features.json", _Features, _image, f"uint8 {tuple(shape)}"),
    ):
        relative = f"{folder}/{name}"
        try:
            said = told(
                msgspec.convert(strict_json.parse(read_inside(release, relative, strict_json.MOST_BYTES)), kind)
            )
        except Unreadable as error:
            found[relative] = error.reason
        except (ValueError, msgspec.ValidationError) as error:
            found[relative] = Reason("no metadata", (line(error),))
        else:
            if said != wanted:
                found[relative] = Reason("other metadata", (said, wanted))
    return found


def _images(info: _Info) -> str:
    return f"{sum(int(count) for split in info.splits for count in split.shardLengths)} images"


def _image(features: _Features) -> str:
    tensor: Any = features.featuresDict.features.image.tensor
    return f"{tensor.dtype} {tuple(map(int, tensor.shape.dimensions))}"
