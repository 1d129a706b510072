"""What happened to a file of a release that is not as it was released, as far as can be seen."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from ne_jax.core.pixels import float_pixels
from ne_jax.core.rules import low_sensitivity
from ne_jax.core.spectrum import spectrum
from ne_jax.core.subspace import Subspace
from ne_jax.errors import UserError
from ne_jax.files import Record, ahead
from ne_jax.models.model import Model
from ne_jax.recoding.designs import DESIGNS
from ne_jax.release.blocks import Block
from ne_jax.release.certificates import ImageCertificate, digests
from ne_jax.release.confined import sha256_inside
from ne_jax.release.formats import FORMATS, Format
from ne_jax.release.manifest import Facts
from ne_jax.release.reading import blocks, file_blocks
from ne_jax.release.reasons import DIFFERS, Reason, Unreadable

_SAMPLE = 64  # images that say how strong the noise usually is
_MOST = 0.9  # of the image files: what happened to so many of them happened to the release


class Opened(NamedTuple):
    """What is proved: the folder, its manifest's block, SHA-256 by relative path, certificates by image, if there are any, and
    lines to know of its signature."""

    folder: pathlib.Path
    facts: Facts
    sums: dict[str, str]
    certificates: dict[str, ImageCertificate] | None
    signed: list[str]

    @property
    def format(self) -> Format:
        """How its files are read."""
        return FORMATS[self.facts.format]


class Everywhere(Record, kw_only=True):
    """What happened to `count` of `files` image files alike."""

    reason: Reason
    count: int
    files: int


def explain(release: Opened, model: Model, broken: dict[str, Reason]) -> None:
    """Say what happened to the files whose hash differs, as far as can be seen."""
    todo = [relative for relative, reason in broken.items() if reason == DIFFERS]
    if not todo:
        return
    origin = {digest: relative for relative, digest in release.sums.items()}
    gone = _noise_gone(release, model, broken)

    def what(relative: str) -> Reason:
        try:
            if (other := origin.get(sha256_inside(release.folder, relative))) is not None:
                return Reason("another file", (other,))
            if not release.format.holds_images(relative):
                return DIFFERS
            return _change(blocks(release.folder, release.facts, relative), release.certificates, gone)
        except Unreadable as error:
            return error.reason

    found = ahead(what, todo, release.format.ahead)
    for relative, reason in zip(todo, tqdm(found, "explain", len(todo), unit="file"), strict=True):
        broken[relative] = reason


def _change(
    found: Iterator[Block], certificates: dict[str, ImageCertificate] | None, gone: Callable[[np.ndarray], bool]
) -> Reason:
    """What happened to a file that still opens, with the right geometry."""
    count, changed, without = 0, [], []
    for names, stored in found:
        pixels, count = float_pixels(stored), count + len(names)
        for name, image, digest in zip(names, pixels, digests(pixels), strict=True):
            known = certificates.get(name) if certificates is not None else None
            if known is not None and known.pixels_sha256 == digest:
                continue
            changed.append(name)
            if gone(image):
                without.append(name)
    if certificates is not None and not changed:
        return Reason("same picture") if count == 1 else Reason("same pictures", (count,))
    which = without if certificates is None else changed
    kind = "unclear" if certificates is None else "changed"
    if without and 2 * len(without) >= len(which):
        kind = "noise gone"
    if count == 1:
        return Reason(kind)
    return Reason(kind, changed=tuple(which), images=count)


def _noise_gone(release: Opened, model: Model, broken: dict[str, Reason]) -> Callable[[np.ndarray], bool]:
    """A test of an image: has it less than half of the `_detail` that images of files that hold usually have at least? Where none holds: a
    tenth of what white noise of the manifest's strength has. Boxed noise has .46 or more; how much with `replace` is not known."""
    facts = release.facts
    design = DESIGNS.get(facts.design)  # None: of a version with other designs
    if design is None or not design.inside:
        return lambda image: False
    try:
        space = low_sensitivity(spectrum(model.first_layer, model.preprocess.image_shape), "count", facts.directions)
    except UserError:  # of a design without a subspace, or no number of directions that the layer has
        return lambda image: False
    files = [relative for relative in release.sums if release.format.holds_images(relative) and relative not in broken]
    files = files[:: -(-len(files) // _SAMPLE) or 1]
    each, strength, limit = -(-_SAMPLE // (len(files) or 1)), facts.psnr_db_realised.max, 0.0
    if files:
        usual = [
            _detail(space, float_pixels(next(file_blocks(release.folder, facts, relative))[1][:each]))
            for relative in files
        ]
        limit = np.percentile(np.concatenate(usual), 5) / 2
    elif strength is not None and not facts.replace:
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


def everywhere(release: Opened, broken: dict[str, Reason]) -> Everywhere | None:
    """What happened to all image files, or nine of ten, if it is one thing."""
    files = [relative for relative in release.sums if release.format.holds_images(relative)]
    reasons: collections.Counter[Reason] = collections.Counter()
    for reason, count in collections.Counter(broken[relative] for relative in files if relative in broken).items():
        reasons[reason.alike()] += count
    if len(files) < 2 or not reasons:
        return None
    (reason, count), *_ = reasons.most_common(1)
    return Everywhere(reason=reason, count=count, files=len(files)) if count >= _MOST * len(files) else None
