"""Tier 1: what people and programs do to any image: files, geometry, light. Knows nothing.

The same functions, on what the authorized model is given, are its robustness table: what a release survives and what breaks it.
Each attack is a function of stored images, float32 in pixel units, and returns as many, of the same size. Grey or RGB.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.ndimage
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageOps

from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.core.pixels import Images, from_bytes
from ne_jax.errors import UserError

Picture = Float[np.ndarray, "height width channels"]
Bytes = UInt8[np.ndarray, "height width channels"]
Result = Float32[np.ndarray, "n height width channels"]

_METHODS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}
_STD = 0.226  # ImageNet's, mean of the channels: from normalised units, which the official code works in, to pixels
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in JPEG


def each(function: Callable[[Picture], np.ndarray], images: Images) -> Float32[np.ndarray, "n ..."]:
    """function(image) of each, in threads: the libraries let go of Python's lock for most of their work."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return np.stack(list(pool.map(function, images))).astype(np.float32)


def in_own_range(function: Callable[[Images], Images], images: Images) -> Result:
    """function(images), each scaled for it so that its least and largest number are 0 and 1, and back."""
    low = images.min((1, 2, 3), keepdims=True)
    span = np.maximum(images.max((1, 2, 3), keepdims=True) - low, 1e-6)
    return (function((images - low) / span) * span + low).astype(np.float32)


def to_bytes(image: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Clipped to [0, 1] and rounded to 256 levels."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _picture(image: Bytes) -> Image.Image:
    """Pillow's. Raises UserError unless it is grey or RGB."""
    if image.shape[2] not in (1, 3):
        raise UserError(f"files have images of 1 channel (grey) or 3 (RGB), not {image.shape[2]}")
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def _on_pictures(function: Callable[[Image.Image], Image.Image], images: Images) -> Result:
    """The function of 8-bit pictures, of each image."""

    def run(image: Picture) -> Picture:
        picture = _picture(to_bytes(image))
        return from_bytes(np.asarray(function(picture).convert(picture.mode))).reshape(image.shape)

    return each(run, images)


def _through_file(picture: Image.Image, **options: object) -> Image.Image:
    """Saved with Pillow's `options`, and read again."""
    file = io.BytesIO()
    picture.save(file, **options)
    return Image.open(file)


def jpeg(stored: Images, knowledge: Knowledge, *, quality: int, subsampling: str = "4:2:0") -> Result:
    """As it comes back from a JPEG file. quality: 1 to 100; subsampling: of the colours, "4:2:0" or "4:4:4"."""
    options = {"format": "JPEG", "quality": quality, "subsampling": subsampling}
    return _on_pictures(functools.partial(_through_file, **options), stored)


def webp(stored: Images, knowledge: Knowledge, *, quality: int) -> Result:
    """As it comes back from a lossy WebP file. quality: 0 to 100."""
    return _on_pictures(functools.partial(_through_file, format="WEBP", quality=quality), stored)


def png_bits(stored: Images, knowledge: Knowledge, *, bits: int) -> Result:
    """A PNG of fewer levels: the nearest of 2^bits, black and white among them. bits: 1 to 8. PNG itself loses nothing more.

    "Bit-depth reduction" of Xu et al. 2018, "Feature squeezing".
    """
    steps = 2**bits - 1
    return np.rint(np.clip(stored, 0, 1) * steps).astype(np.float32) / np.float32(steps)


def _scaled(
    image: Picture, sizes: list[tuple[int, int]], method: str
) -> Float32[np.ndarray, "new_height new_width channels"]:
    """Resized to each of the `sizes`, (height, width), in turn, by Pillow in 32-bit floating point."""
    planes = []
    for plane in np.moveaxis(image.astype(np.float32), -1, 0):
        picture = Image.fromarray(np.ascontiguousarray(plane))
        for height, width in sizes:
            picture = picture.resize((width, height), _METHODS[method])
        planes.append(np.asarray(picture))
    return np.stack(planes, axis=-1)


def resize(stored: Images, knowledge: Knowledge, *, scale: float, method: str) -> Result:
    """Scaled and back. scale: of each side, > 0; method: "bilinear", "bicubic" or "area", which average when they shrink.

    "Random resizing" of Xie et al. 2018, "Mitigating adversarial effects through randomization", with the size chosen.
    """
    size = stored.shape[1:3]
    sizes = [tuple(max(1, round(side * scale)) for side in size), size]
    return each(lambda image: _scaled(image, sizes, method), stored)


def off_grid_crop(stored: Images, knowledge: Knowledge, *, offset: float, back: str) -> Result:
    """Cropped above and left by 1 to patch - 1 pixels, so that no patch keeps its place in the authorized model's grid.

    offset: 0 for one pixel to 1 for one short of a patch; back: "resize" (bicubic) or "repeat" (the right and lower edges).
    Raises UserError for patches of one pixel, which are nowhere off the grid.
    """
    sides = knowledge.patch[:2]
    if min(sides) < 2:
        raise UserError("windows of one pixel have no off-grid crop")
    rows, columns = (round(1 + offset * (side - 2)) for side in sides)
    cropped = stored[:, rows:, columns:]
    if back == "repeat":
        return np.pad(cropped, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge").astype(np.float32)
    return each(lambda image: _scaled(image, [stored.shape[1:3]], "bicubic"), cropped)


def rotate(stored: Images, knowledge: Knowledge, *, degrees: float) -> Result:
    """Turned around the centre, bilinear, with the edges mirrored where the frame would be empty. degrees: any."""
    turned = scipy.ndimage.rotate(stored, degrees, axes=(2, 1), reshape=False, order=1, mode="reflect")
    return turned.astype(np.float32)


def flip(stored: Images, knowledge: Knowledge) -> Result:
    """Left is right."""
    return np.ascontiguousarray(stored[:, :, ::-1], np.float32)


def occlude(stored: Images, knowledge: Knowledge, *, side: float, value: float = 0.0) -> Result:
    """A rectangle at a random place, another in each image, in one level of grey. side: of the image's sides, in (0, 1].

    "Random erasing" of Zhong et al. 2020, with the size chosen. value: the grey, 0 is black.
    """
    generator = np.random.default_rng(knowledge.seed)
    height, width = (max(1, int(length * side)) for length in stored.shape[1:3])
    covered = stored.astype(np.float32)
    for image in covered:
        row, column = generator.integers(0, (image.shape[0] - height + 1, image.shape[1] - width + 1))
        image[row : row + height, column : column + width] = value
    return covered


def illumination(stored: Images, knowledge: Knowledge, *, brightness: float, contrast: float) -> Result:
    """Contrast about each image's mean, then brightness, both factors > 0 (1: nothing), then clipped, as a camera would."""
    mean = stored.mean((1, 2, 3), keepdims=True)
    return np.clip(brightness * (mean + contrast * (stored - mean)), 0, 1).astype(np.float32)


def gamma(stored: Images, knowledge: Knowledge, *, exponent: float) -> Result:
    """x^exponent of each number, clipped first. exponent > 0: below 1 brightens shadows."""
    return np.power(np.clip(stored, 0, 1).astype(np.float32), np.float32(exponent))


def equalise(stored: Images, knowledge: Knowledge) -> Result:
    """The histogram of each channel made flat, on 256 levels, by Pillow."""
    return _on_pictures(ImageOps.equalize, stored)


def grey(stored: Images, knowledge: Knowledge) -> Result:
    """Luma in all three channels. Liu et al. 2023, "Image shortcut squeezing". Raises UserError for images that are not RGB."""
    if stored.shape[3] != 3:
        raise UserError("images of one channel are grey already")
    luma = stored.astype(np.float32) @ np.asarray(_LUMA, np.float32)
    return np.repeat(luma[..., None], 3, axis=3)


def noise(stored: Images, knowledge: Knowledge, *, sigma: float) -> Result:
    """Independent normal noise on every number, then clipped. sigma: its standard deviation in pixel units, >= 0."""
    drawn = np.random.default_rng(knowledge.seed).standard_normal(stored.shape, np.float32)
    return np.clip(stored + np.float32(sigma) * drawn, 0, 1).astype(np.float32)


# The five preprocessing steps of the official code, from its `image_ops.py`, described and written anew. It has one number for each
# ("threshold"), whose values neither code nor paper's abstract gives: those of the grids are chosen here. It applies them to
# normalised values before the model reads them; here they are applied to the pixels of the stored image. Its JPEG and PNG scale each
# image to its own least and largest number, which no file does, and so do these. Its command line cannot choose PNG.


def paper_jpeg(stored: Images, knowledge: Knowledge, *, quality: int) -> Result:
    """JPEG with colours halved, Pillow's default, of each image in its own range."""
    return in_own_range(lambda images: jpeg(images, knowledge, quality=quality), stored)


def paper_png(stored: Images, knowledge: Knowledge) -> Result:
    """256 levels of each image's own range. The official number is zlib's level, which changes no pixel."""
    return in_own_range(lambda images: png_bits(images, knowledge, bits=8), stored)


def _linear(images: Result, size: tuple[int, int]) -> Float32[np.ndarray, "n new_height new_width channels"]:
    zooms = (1, *(new / old for new, old in zip(size, images.shape[1:3], strict=True)), 1)
    return scipy.ndimage.zoom(images, zooms, order=1, mode="nearest", grid_mode=True)


def paper_resize(stored: Images, knowledge: Knowledge, *, scale: float) -> Result:
    """Scaled and back, linear between the two nearest pixels even when it shrinks (OpenCV's INTER_LINEAR). scale: > 0."""
    small = tuple(max(1, int(side * scale)) for side in stored.shape[1:3])
    resized = _linear(stored.astype(np.float32), small)
    return _linear(resized, stored.shape[1:3])


def paper_crop(stored: Images, knowledge: Knowledge, *, side: float) -> Result:
    """A random rectangle of normalised zeros: the mean colour, middle grey here. side: of the image's sides, in (0, 1]."""
    return occlude(stored, knowledge, side=side, value=0.5)


def paper_illumination(stored: Images, knowledge: Knowledge, *, shift: float) -> Result:
    """One number added to each image, uniform in (-shift, shift) times ImageNet's standard deviation; nothing is clipped."""
    drawn = np.random.default_rng(knowledge.seed).uniform(-shift, shift, (len(stored), 1, 1, 1))
    return (stored + _STD * drawn).astype(np.float32)


def _every(**choices: tuple) -> tuple[dict, ...]:
    """All combinations."""
    combinations: list[dict] = [{}]
    for name, values in choices.items():
        combinations = [{**chosen, name: value} for chosen in combinations for value in values]
    return tuple(combinations)


def tier_1(run: Callable, title: str, source: str, quick: tuple[dict, ...] = ({},), **choices: tuple) -> Attack:
    """The entry of an attack that knows nothing; its grid: all combinations of the choices."""
    return Attack(run.__name__, 1, title, "images", run, frozenset(), _every(**choices), quick, source)


_PRACTICE = "common practice"
_OFFICIAL = "official code of the paper, image_ops.py"

ATTACKS = (
    tier_1(
        jpeg,
        "JPEG",
        "Liu et al. 2023, Image shortcut squeezing",
        ({"quality": 75, "subsampling": "4:2:0"}, {"quality": 10, "subsampling": "4:2:0"}),
        quality=(95, 85, 75, 50, 30, 20, 10),
        subsampling=("4:2:0", "4:4:4"),
    ),
    tier_1(webp, "WebP", _PRACTICE, ({"quality": 10},), quality=(90, 75, 50, 30, 10)),
    tier_1(png_bits, "PNG of fewer bits", "Xu et al. 2018, Feature squeezing", ({"bits": 4},), bits=(7, 6, 5, 4, 3)),
    tier_1(
        resize,
        "resize and back",
        "Xie et al. 2018, Mitigating adversarial effects through randomization",
        ({"scale": 0.5, "method": "bilinear"},),
        scale=(0.5, 0.75, 0.9, 1.1, 1.5, 2.0),
        method=tuple(_METHODS),
    ),
    tier_1(
        off_grid_crop,
        "off-grid crop",
        _PRACTICE,
        ({"offset": 0.5, "back": "resize"},),
        offset=(0.0, 0.5, 1.0),
        back=("resize", "repeat"),
    ),
    tier_1(rotate, "rotation", _PRACTICE, ({"degrees": 5},), degrees=(1, 2, 5, 10, -5)),
    tier_1(flip, "flip", _PRACTICE),
    tier_1(
        occlude, "black rectangle", "Zhong et al. 2020, Random erasing", ({"side": 0.3},), side=(0.1, 0.2, 0.3, 0.5)
    ),
    tier_1(
        illumination,
        "brightness and contrast",
        _PRACTICE,
        ({"brightness": 1.0, "contrast": 0.6},),
        brightness=(1.0, 0.7, 1.3),
        contrast=(0.9, 0.6, 1.5),
    ),
    tier_1(gamma, "gamma", _PRACTICE, ({"exponent": 0.7},), exponent=(0.9, 0.7, 0.5, 1.4, 2.0)),
    tier_1(equalise, "histogram equalisation", _PRACTICE),
    tier_1(grey, "grey", "Liu et al. 2023, Image shortcut squeezing"),
    tier_1(noise, "added noise", _PRACTICE, ({"sigma": 0.05},), sigma=(0.01, 0.02, 0.05, 0.1)),
    tier_1(paper_jpeg, "paper: JPEG", _OFFICIAL, ({"quality": 50},), quality=(90, 70, 50, 30, 10)),
    tier_1(paper_png, "paper: PNG", _OFFICIAL),
    tier_1(paper_resize, "paper: resize", _OFFICIAL, ({"scale": 0.5},), scale=(0.9, 0.75, 0.5, 1.5, 2.0)),
    tier_1(paper_crop, "paper: crop", _OFFICIAL, ({"side": 0.3},), side=(0.1, 0.2, 0.3, 0.5)),
    tier_1(paper_illumination, "paper: illumination", _OFFICIAL, ({"shift": 0.5},), shift=(0.1, 0.25, 0.5, 1.0)),
)
