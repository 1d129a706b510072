"""From an image of any size to the pixels that a model takes: resize and centre crop in bytes, as PIL does it, by the rules
of those who published the model; and those rules read from the file beside the weights."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from ne_jax.data.preprocess_fields import Crop, Interpolation, Resize, check_fields, is_number
from ne_jax.data.resize import part
from ne_jax.errors import UserError

_FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}
_LONG = 16  # pictures so many times longer than wide are not resized whole: 1 x 65,500 would become 224 x 14,672,000
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as PIL's convert("L")


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What a model wants done to an image before its first layer.

    size: side of the square that the model takes, pixels.
    mean, std: one number a channel, in pixel units ([0, 1]); the model sees (x - mean) / std.
    resize: "squash" makes both sides `resize_to`; "shorter" the shorter side, keeping the aspect, the longer side rounded down;
        "longer" the longer side, keeping the aspect. Then the centre, size x size, is cut out. "crop_first" (EfficientNet-Lite)
        is the other order: the central square, `size / resize_to` of the shorter side, is cut out, then resized to `size`.
    resize_to: length in pixels that `resize` speaks of; `size` unless given.
    interpolation: PIL's filter of that name.
    crop: where the centre is when an odd number of pixels must go. "floor" (transformers): the odd one goes right or below.
        "round" (torchvision, timm): half of the number, rounded to even. "crop_first" has its own rule, the odd one left or above.

    What is smaller than `size` after the resize gets a border: of the colour `mean` with "longer", black otherwise.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize = "squash"
    resize_to: int | None = None
    interpolation: Interpolation = "bilinear"
    crop: Crop = "floor"

    def __post_init__(self):
        if self.resize_to is None:  # so that equal rules are equal however they were written
            object.__setattr__(self, "resize_to", self.size)

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return len(self.mean)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the model's input."""
        return (self.size, self.size, self.channels)


def from_fields(fields: Mapping[str, Any]) -> Preprocess:
    """A `Preprocess` written as a mapping of its fields, as configs and JSON have it: lists for tuples.

    Raises UserError for a field that is unknown, missing, not one of its choices or no number that it can be.
    """
    check_fields(fields)
    return Preprocess(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})


def to_pixels(image: Image.Image, spec: Preprocess) -> UInt8[np.ndarray, "height width channels"]:
    """Resize and crop `image`, of 8 bits (`images.open_image` gives such), to the pixels of `spec`: uint8, `spec.image_shape`."""
    fitted = _fit(image.convert("L" if spec.channels == 1 else "RGB"), spec, _border(spec))
    return np.asarray(fitted, np.uint8).reshape(spec.image_shape)


def adapt(
    images: Float32[np.ndarray, "n height width channels"], spec: Preprocess
) -> Float32[np.ndarray, "n size size spec_channels"]:
    """Stored images, float32 in pixel units, as another model wants them; unchanged where they already have its shape.

    The model's own resize and crop, in floating point, so that a float NE keeps what lies outside [0, 1].
    """
    if images.shape[1:] == spec.image_shape:
        return images
    if images.shape[-1] != spec.channels:
        images = images @ _LUMA[:, None] if spec.channels == 1 else np.repeat(images, 3, axis=-1)
    borders = [(level / 255,) for level in _border(spec)]
    fitted = [
        [_fit(Image.fromarray(plane), spec, border) for plane, border in zip(image, borders, strict=True)]
        for image in np.moveaxis(images, -1, 1)
    ]
    return np.moveaxis(np.asarray([[np.asarray(plane) for plane in image] for image in fitted], np.float32), 1, -1)


def _fit(image: Image.Image, spec: Preprocess, border: tuple[float, ...]) -> Image.Image:
    resample = _FILTERS[spec.interpolation]
    if spec.resize == "crop_first":
        side = max(1, spec.size * min(image.size) // spec.resize_to)
        left, top = ((length - side + 1) // 2 for length in image.size)
        return image.crop((left, top, left + side, top + side)).resize((spec.size, spec.size), resample)
    sides = _resized(image.size, spec)
    cuts = tuple(_cut(length - spec.size, spec.crop) for length in sides)
    canvas = Image.new(image.mode, (spec.size, spec.size), border if len(border) > 1 else border[0])
    if spec.resize == "shorter" and max(sides) > _LONG * min(sides):
        low, high = zip(
            *((max(cut, 0), min(cut + spec.size, side)) for cut, side in zip(cuts, sides, strict=True)), strict=True
        )
        canvas.paste(part(image, sides, (*low, *high), resample), tuple(max(-cut, 0) for cut in cuts))
    else:
        canvas.paste(image.resize(sides, resample), tuple(-cut for cut in cuts))
    return canvas


def _resized(sides: tuple[int, int], spec: Preprocess) -> tuple[int, int]:
    """(width, height) after the resize and before the crop."""
    target = spec.resize_to
    if spec.resize == "squash":
        return (target, target)
    if spec.resize == "shorter":
        return tuple(target * side // min(sides) for side in sides)
    return tuple(max(1, round(side / (max(sides) / target))) for side in sides)


def _cut(excess: int, rule: str) -> int:
    """Pixels to drop at the left or the top, of `excess` to drop there and at the other end; to add, where negative."""
    if rule == "floor":
        return excess // 2
    return round(excess / 2) if excess > 0 else -(-excess // 2)


def _border(spec: Preprocess) -> tuple[int, ...]:
    return tuple(round(255 * mean) if spec.resize == "longer" else 0 for mean in spec.mean)


# What transformers' image processors do about what `preprocessor_config.json` leaves out.
_HALF, _CLIP_MEAN, _CLIP_STD = (0.5,) * 3, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_COMMON = {"image_mean": _HALF, "image_std": _HALF, "resample": 3, "rescale_factor": 1 / 255}
_CROPPED = {**_COMMON, "do_center_crop": True, "crop_size": 224}
_CLIP = {**_CROPPED, "size": {"shortest_edge": 224}, "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD}
_PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {**_COMMON, "size": 224, "resample": 2},
    "DeiT": {**_CROPPED, "size": 256},
    "Bit": _CLIP,
    "CLIP": _CLIP,
    "ConvNext": {**_COMMON, "size": {"shortest_edge": 384}, "crop_pct": 224 / 256},
    "EfficientNet": {**_COMMON, "size": 346, "crop_size": 289, "include_top": True},
}
_SHORTEST = ("Bit", "CLIP", "ConvNext")  # a bare number is the shorter side, not both


def from_hugging_face(config: Mapping[str, Any]) -> Preprocess:
    """The rules in the contents of a `preprocessor_config.json`, of the present style or the older one.

    As the processor of transformers that the file names would read it; ViT's where it names none. Raises UserError for what
    `Preprocess` cannot say: another processor, a result that is not square, a field of no known meaning.
    """
    family = _family(config)
    fields = {**_PROCESSORS[family], **{name: value for name, value in config.items() if value is not None}}
    for name, value in (("do_resize", True), ("do_pad", False)):
        if bool(fields.get(name, value)) is not value:
            raise _wrong(name, fields[name], f"{str(value).lower()}: the model takes one size")
    resize, resize_to = _side(fields, "size", square=family not in _SHORTEST)
    size = resize_to if resize == "squash" else None
    if family == "ConvNext":
        if resize == "squash":
            raise _wrong("size", fields["size"], '{"shortest_edge": pixels}')
        size = resize_to  # from 384 pixels on, ConvNeXt is shown the whole image
        resize, resize_to = ("squash", size) if size >= 384 else ("shorter", int(size / _positive(fields, "crop_pct")))
    if fields.get("do_center_crop"):
        crop = _side(fields, "crop_size", square=True)[1]
        if family == "ConvNext" and crop != size:
            raise _wrong("crop_size", fields["crop_size"], f"{size}, as size: ConvNeXt's processor crops by crop_pct")
        size = crop
    if size is None:
        raise _wrong(
            "do_center_crop", False, "true with a crop_size, or size a height and a width: the model takes squares"
        )
    mean, std = _normalisation(fields)
    return Preprocess(size, mean, std, resize, resize_to, _filter(fields, "resample"), "floor")


def _family(config: Mapping[str, Any]) -> str:
    kind = config.get("image_processor_type") or config.get("feature_extractor_type")
    if kind is None and (not config.get("size") or config.get("crop_size") or config.get("crop_pct")):
        raise _wrong("image_processor_type", None, f"one of {', '.join(_PROCESSORS)} + ImageProcessor")
    family = re.sub("(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", str(kind or "ViT"))
    if family not in _PROCESSORS:
        raise _wrong("image_processor_type", kind, f"one of {', '.join(_PROCESSORS)} + ImageProcessor")
    return family


def _normalisation(fields: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std in pixel units, of what transformers may do in two or three steps."""
    mean, std = _numbers(fields, "image_mean", 3), _numbers(fields, "image_std", 3)
    if len(mean) != len(std) or min(map(abs, std)) == 0:
        raise _wrong("image_std", fields["image_std"], "a number other than 0 for each number of image_mean")
    factors = tuple(value if fields.get("include_top") else 1.0 for value in std)  # divides a second time
    if not fields.get("do_normalize", True):
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    scale = 255 * _positive(fields, "rescale_factor") if fields.get("do_rescale", True) else 255.0
    offset = 1.0 if fields.get("rescale_offset") else 0.0
    return (
        tuple((value + offset) / scale for value in mean),
        tuple(value * factor / scale for value, factor in zip(std, factors, strict=True)),
    )


_CROP_MODES = {"center": "shorter", "squash": "squash", "border": "longer"}
_TIMM = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
}


def from_timm(config: Mapping[str, Any]) -> Preprocess:
    """The rules in the contents of a `config.json` of timm, or in its "pretrained_cfg": timm's transform for evaluation.

    At `input_size`, not at `test_input_size`. Raises UserError for what `Preprocess` cannot say, such as an input that is not square.
    """
    given = config.get("pretrained_cfg", config)
    if not isinstance(given, Mapping) or not given.keys() & _TIMM.keys():
        raise _wrong("pretrained_cfg", None, f"timm's config.json, which has some of {', '.join(_TIMM)}")
    fields = {name: given.get(name) or default for name, default in _TIMM.items()}
    match fields["input_size"]:
        case [1 | 3 as channels, int(size), int(width)] if size == width > 0:
            pass
        case other:
            raise _wrong("input_size", other, "[3, pixels, pixels], a square")
    if fields["crop_mode"] not in _CROP_MODES:
        raise _wrong("crop_mode", fields["crop_mode"], " or ".join(_CROP_MODES))
    mean, std = _numbers(fields, "mean", channels), _numbers(fields, "std", channels)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels or (name == "std" and min(map(abs, values)) == 0):
            raise _wrong(name, fields[name], f"{channels} number(s), as input_size has channels")
    resize_to = math.floor(size / _positive(fields, "crop_pct"))
    resize = _CROP_MODES[fields["crop_mode"]]
    return Preprocess(size, mean, std, resize, resize_to, _filter(fields, "interpolation"), "round")


def _wrong(name: str, value: Any, wanted: str) -> UserError:
    return UserError(f"preprocessing file: {name} is {'missing' if value is None else repr(value)}; give {wanted}")


def _side(fields: Mapping[str, Any], name: str, square: bool) -> tuple[Literal["squash", "shorter"], int]:
    """How a size of transformers is meant, and its pixels. square: whether a bare number is both sides."""
    value = fields.get(name)
    if isinstance(value, Mapping):
        value = {key: length for key, length in value.items() if length is not None}
    match value:
        case {"shortest_edge": int(side), **others} if side > 0 and not others:
            return "shorter", side
        case {"height": int(side), "width": int(width), **others} if side == width > 0 and not others:
            return "squash", side
        case [int(side), int(width)] if side == width > 0:
            return "squash", side
        case int(side) if side > 0:
            return ("squash" if square else "shorter"), side
    raise _wrong(name, value, '{"height": pixels, "width": pixels}, a square, or {"shortest_edge": pixels}')


def _filter(fields: Mapping[str, Any], name: str) -> Interpolation:
    """PIL's filter by its number or name."""
    names = {key: known for known, number in _FILTERS.items() for key in (known, str(int(number)))}
    if str(fields[name]).lower() not in names:
        raise _wrong(name, fields[name], f"one of {', '.join(_FILTERS)}, or PIL's number of it")
    return names[str(fields[name]).lower()]


def _positive(fields: Mapping[str, Any], name: str) -> float:
    value = fields[name]
    if not is_number(value) or value <= 0:
        raise _wrong(name, value, "a number above 0")
    return float(value)


def _numbers(fields: Mapping[str, Any], name: str, channels: int) -> tuple[float, ...]:
    """One number a channel; a bare number is for all of them."""
    value = fields[name]
    values = list(value) if isinstance(value, list | tuple) else [value] * channels
    if len(values) not in (1, 3) or not all(map(is_number, values)):
        raise _wrong(name, value, "a number for each channel")
    return tuple(map(float, values))
