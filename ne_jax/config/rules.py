"""What leaves must be together, and which of them a workdir keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ne_jax.config.leaf import leaves
from ne_jax.errors import UserError

if TYPE_CHECKING:
    from ne_jax.config.schema import Config, RecodeConfig, ReleaseConfig

# Leaves that decide what a release holds. A workdir keeps them: another value needs another workdir.
RELEASE_SECTIONS = ("authorized", "also_authorized", "models", "data", "subspace", "recode", "release")
MAY_CHANGE = ("data.workers", "recode.max_passes", "release.again", "release.signing_key")  # but for these

# Samples that read what nobody else is named to read.
SHIPPED = ("vit_a", "vit_b", "resnet_a", "resnet_b", "vit_a_tuned")


def check_release(config: Config) -> None:
    """Raise UserError for leaves of a release that do not go together."""
    from ne_jax.release.formats import FORMATS  # here: jax takes a second to import

    formats = config.release.formats
    if not formats:
        raise UserError(f"release.formats is []; choose from {', '.join(FORMATS)}")
    for name in sorted(formats):
        _check_design(config.recode, FORMATS[name].dtype, name)
    _check_numbers(config.release)
    without = sorted(set(formats) - {"png8", "webdataset"})
    if config.release.keep_metadata and without:
        raise UserError(f"release.keep_metadata: {without[0]} has no place for EXIF; release png8 or webdataset only")


def _check_numbers(release: ReleaseConfig) -> None:
    """Formats of two number types would be two recodings of each image."""
    from ne_jax.release.formats import FORMATS

    first = release.formats[0]
    other = next((name for name in release.formats if FORMATS[name].dtype != FORMATS[first].dtype), None)
    if other and not release.again:
        raise UserError(
            f"release.formats: {first} and {other} would be two recodings of each image, whose difference gives the image away; choose "
            "formats of the same numbers (png8, webdataset and array_record are), a job of its own for each, or release.again=True"
        )


def usual_readers(config: Config) -> tuple[str, ...]:
    """Who is given a release where nobody is named: whom it is for, and those of SHIPPED, which read Fashion-MNIST and what looks
    like it, where the images or the authorized model are of that kind. To others' images they have nothing to say."""
    own = (config.authorized, *config.also_authorized)
    fits = (
        config.data.kind == "fashion_mnist" or config.authorized in SHIPPED and config.authorized not in config.models
    )
    return tuple(dict.fromkeys((*own, *(SHIPPED if fits else ()))))


def _check_design(settings: RecodeConfig, dtype: type, release_format: str) -> None:
    import numpy as np

    from ne_jax.recoding.designs import DESIGNS, choose

    design, quality = choose(settings.design, dtype), settings.jpeg_quality
    if design.needs_surrogates and not settings.surrogates:
        raise UserError(
            f"recode.design {design.name} needs recode.surrogates, the models that it leads away; name some"
        )
    if settings.replace and "replace" not in design.settings:
        raise UserError(f"recode.replace does not go with recode.design {design.name}; set it to False")
    if quality and "jpeg_quality" not in design.settings:
        able = " or ".join(each.name for each in DESIGNS.values() if "jpeg_quality" in each.settings)
        raise UserError(f"recode.jpeg_quality is {quality}; give 1 to 100 with recode.design {able}, or 0")
    if design.leaves_box and dtype == np.uint8:
        raise UserError(
            f"recode.design {design.name} leaves [0, 1], which {release_format} cannot hold; choose boxed or auto, or release "
            "float32 only"
        )


def first_difference(stored: dict[str, Any], config: Config) -> str | None:
    """The first leaf in which `config` would make another release than the stored flat config: "name: was A, is B"."""
    new = leaves(config)
    for name in sorted(stored.keys() | new.keys()):
        decides = name.split(".")[0] in RELEASE_SECTIONS and name not in MAY_CHANGE
        if decides and stored.get(name) != new.get(name):
            return f"{name}: was {stored.get(name)}, is {new.get(name)}"
    return None
