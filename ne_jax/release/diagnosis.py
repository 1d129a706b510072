"""What happened to a file of a release that is not as it was released, as far as can be seen."""

from __future__ import annotations

import collections
import fnmatch
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped
from tqdm import tqdm

from ne_jax.core.pixels import float_pixels
from ne_jax.core.rules import low_sensitivity
from ne_jax.core.spectrum import spectrum
from ne_jax.core.subspace import Subspace
from ne_jax.errors import UserError
from ne_jax.files import ahead, sha256
from ne_jax.models.model import Model
from ne_jax.recoding.designs import DESIGNS
from ne_jax.release.certificates import Certificate, digests
from ne_jax.release.formats import FORMATS
from ne_jax.release.reading import read_file

_SAMPLE = 64  # images that say how strong the noise usually is
DIFFERS = "is not the file that was released"
_CHANGED = "its pixels changed"
_GONE = f"{_CHANGED}: noise in the authorized model's blind directions is largely gone, as after a resize, blur or JPEG"
_UNCLEAR = f"other bytes: {_CHANGED}, or the same picture was stored anew; --private would tell"
_SAME = "other bytes (re-compressed without loss, or metadata changed)"
# What a reason says of one file only: the member of a tar, which images, how many a shard has.
_OWN = re.compile(r"has a member .*? that |, in \d+ of .*|(?<=\()\d+, (?=\d+, \d+, \d+\))", re.DOTALL)

Stored = Shaped[np.ndarray, "n height width channels"]
Pixels = Float32[np.ndarray, "n height width channels"]
Pixel = Float32[np.ndarray, "height width channels"]


class Opened(NamedTuple):
    """What is proved: the folder, its manifest's block, SHA-256 by relative path, and certificates by image, if there are any."""

    folder: pathlib.Path
    ne: dict[str, Any]
    sums: dict[str, str]
    certificates: dict[str, Certificate] | None

    def has_images(self, relative: str) -> bool:
        """Whether a file is one of the format's image files."""
        return any(fnmatch.fnmatchcase(relative, glob) for glob in FORMATS[self.ne["format"]].globs)


def reason_of(error: UserError, path: pathlib.Path) -> str:
    """What `read_file` says of the file, without its name and the way out."""
    return str(error).removeprefix(f"release file {path} ").removesuffix("; restore it as it was made")


def explain(release: Opened, model: Model, broken: dict[str, str]) -> None:
    """Say what happened to the files whose hash differs, as far as can be seen."""
    todo = [relative for relative, reason in broken.items() if reason == DIFFERS]
    if not todo:
        return
    origin = {digest: relative for relative, digest in release.sums.items()}
    gone = _noise_gone(release, model, broken)

    def what(relative: str) -> str:
        path = release.folder / relative
        if (other := origin.get(sha256(path))) is not None:
            return f"is the file that was released as {other}"
        if not release.has_images(relative):
            return DIFFERS
        try:
            names, images = read_file(release.folder, release.ne, relative)
        except UserError as error:
            return reason_of(error, path)
        return _change(names, float_pixels(images), release.certificates, gone)

    found = ahead(what, todo, FORMATS[release.ne["format"]].ahead)
    for relative, reason in zip(todo, tqdm(found, "explain", len(todo), unit="file"), strict=True):
        broken[relative] = reason


def _change(names: Sequence[str], pixels: Pixels, certificates: dict[str, Certificate] | None, gone: Callable) -> str:
    """What happened to a file that still opens, with the right geometry."""
    changed = list(range(len(names)))
    if certificates is not None:
        known = {name: certificates[name].pixels_sha256 for name in names if name in certificates}
        now = digests(pixels)
        changed = [index for index in changed if known.get(names[index]) != now[index]]
        if not changed:
            what = "same picture" if len(names) == 1 else f"the same {len(names)} pictures, or others are missing"
            return f"{what}, {_SAME}"
    without = [index for index in changed if gone(pixels[index])]
    which = without if certificates is None else changed
    reason = _GONE if without and 2 * len(without) >= len(which) else _UNCLEAR if certificates is None else _CHANGED
    if len(names) == 1 or not which:
        return reason
    shown = ", ".join(names[index] for index in which[:3])
    return f"{reason}, in {len(which)} of {len(names)} images: {shown}{', ...' if len(which) > 3 else ''}"


def _noise_gone(release: Opened, model: Model, broken: dict[str, str]) -> Callable[[Pixel], bool]:
    """A test of an image: has it less than half of the `_detail` that images of files that hold usually have at least? Where none holds: a
    tenth of what white noise of the manifest's strength has. Boxed noise has .46 or more; how much with `replace` is not known."""
    ne = release.ne
    design = DESIGNS.get(ne["design"])  # None: of a version with other designs
    if design is None or not design.inside:
        return lambda image: False
    space = low_sensitivity(spectrum(model.first_layer, model.preprocess.image_shape), "count", ne["directions"])
    files = [relative for relative in release.sums if release.has_images(relative) and relative not in broken]
    files = files[:: -(-len(files) // _SAMPLE) or 1]
    each, strength, limit = -(-_SAMPLE // (len(files) or 1)), ne["psnr_db_realised"]["max"], 0.0
    if files:
        usual = [_detail(space, float_pixels(read_file(release.folder, ne, relative)[1][:each])) for relative in files]
        limit = np.percentile(np.concatenate(usual), 5) / 2
    elif strength is not None and not ne["replace"]:
        noise = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), _SAMPLE))
        limit = 0.1 * jnp.median(_detail(space, noise)) / jnp.mean(noise**2) * 10 ** (-strength / 10)
    return lambda image: bool(_detail(space, image[None])[0] < limit)


@jax.jit
def _detail(space: Subspace, pixels: Float[Array | np.ndarray, "n height width channels"]) -> Float[Array, " n"]:
    """Mean energy of each image's finest detail, second differences both ways, in the subspace. Of the image's whole energy the subspace
    holds about the same share with noise and without, where it is most of all directions: .90 and, after a blur, .85 for vit_a. Of
    the finest detail a blur leaves less than .01."""

    def one(image: Float[Array, "height width channels"]) -> Float[Array, ""]:
        padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
        return jnp.mean(space.project(jnp.diff(jnp.diff(padded, 2, axis=0), 2, axis=1)) ** 2)

    return jax.lax.map(one, pixels)


def everywhere(release: Opened, broken: dict[str, str]) -> str | None:
    """What happened to all image files, or nine of ten, if it is one thing."""
    files = [relative for relative in release.sums if release.has_images(relative)]
    kinds = collections.Counter(_OWN.sub("", broken[relative]) for relative in files if relative in broken)
    (kind, count), *_ = [*kinds.most_common(1), ("", 0)]
    if len(files) < 2 or count < 0.9 * len(files):
        return None
    who = "every image file" if count == len(files) else f"{count:,} of {len(files):,} image files"
    return f"{who}: {kind}; this was done to the release as a whole: use the files as they were released"
