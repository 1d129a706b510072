"""Every leaf that a config file may set, with its default. Config files in `configs/` change a few of them and say why."""

from __future__ import annotations

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ne_jax.errors import UserError
from ne_jax.recoding.designs import DESIGNS, choose
from ne_jax.release.formats import FORMATS

# Leaves that decide what a release holds. A workdir keeps them: another value needs another workdir.
RELEASE_SECTIONS = ("authorized", "also_authorized", "models", "data", "subspace", "recode", "release")
_FREE = ("data.workers", "recode.max_passes")  # but for these
_MAY_BE_ZERO = ("data.workers", "recode.restarts", "recode.jpeg_quality")


def default() -> ConfigDict:
    """The default config: Fashion-MNIST's test set, encoded for the shipped vit_a."""
    config = ConfigDict()
    config.authorized = "vit_a"  # the model that the release is for
    config.also_authorized = ()  # more models that it is for, whose first layers cut the image into the same windows
    config.readers = ("vit_a", "vit_b", "resnet_a", "resnet_b", "vit_a_tuned")  # who is given it
    # Names beyond the shipped ones: {"mine": {"architecture": "vit_b16", "checkpoint": "/path/model.safetensors"}}; "image_size"
    # and "preprocess" (the fields of Preprocess) may be given too. Architectures, and what a checkpoint may be: `load_model`.
    config.models = ConfigDict()
    config.cache = ""  # folder that keeps ported networks, for faster starts; empty: none
    config.batch_size = 256  # images a step; changes speed and memory, never a result

    config.data = ConfigDict()
    config.data.kind = "fashion_mnist"  # or "folder", "webdataset", "tfds", "photos"
    config.data.path = (
        ""  # folder of images; tars, as shards/{00000..00012}.tar; tfds: the set's name or a prepared set's folder
    )
    config.data.split = "test"
    config.data.limit = 0  # first so many images; 0: all
    config.data.workers = 0  # threads that decode and compress; 0: one a core
    config.data.max_megapixels = 100.0  # a larger image is taken for a decompression bomb and skipped
    config.data.follow_links = False  # follow symbolic links that lead out of the folder

    config.subspace = ConfigDict()
    config.subspace.rule = "relative"  # relative, count, energy, utility
    config.subspace.value = 1e-2

    config.recode = ConfigDict()
    config.recode.psnr_db = 0.0  # strength, dB; lower is stronger; 0 is noise as large as the pixel range
    # gaussian for floating point and boxed for 8 bits; or boxed for all; or contrastive, guided or deep, which lead surrogates away; or
    # paper, which is INSECURE
    config.recode.design = "auto"
    config.recode.surrogates = ()  # models that contrastive, guided and deep recoding lead away; Flax networks
    config.recode.steps = 24  # gradients of every surrogate, and of the authorized model for deep
    config.recode.restore = 16  # deep: most Gauss-Newton steps on the authorized model alone, at the end
    config.recode.restarts = 0  # guided and deep: attempts beside the first; the best on the surrogates is kept
    config.recode.jpeg_quality = 0  # guided: hold against JPEG of this quality, 1 to 100; 0: JPEG is not in the loop
    config.recode.margin_share = 0.5  # deep: least margin of the stored image, of the clean one's
    config.recode.logit_gap = 0.1  # deep: largest rms change of the logits, in their standard deviations
    config.recode.max_passes = 0.0  # most forward passes of the authorized model that an image may cost; 0: any
    config.recode.replace = False  # remove the image's own part in the subspace first
    config.recode.rounds = 40  # of projection into [0, 1], boxed only
    config.recode.fit = (
        False  # where psnr_db does not fit into [0, 1], take the strongest that does, instead of an error
    )
    config.recode.secret_file = ""  # 64 hexadecimal digits; empty: WORKDIR/private/secret.key, made when there is none

    config.release = ConfigDict()
    config.release.formats = ("float32", "png8")  # of png8, float32, float16, array_record, webdataset
    config.release.shard_size = 256  # images a shard; what a kill costs at most
    config.release.opaque_names = False  # release under names that tell nothing, in an order that tells nothing
    config.release.keep_metadata = False  # keep EXIF and ICC profiles in PNG files
    config.release.license = ""  # URLs and a name, for the manifest
    config.release.creator = ""
    config.release.url = ""

    _measuring(config)
    config.lock()  # a mistyped leaf is an error and no new leaf
    config.models.unlock()
    return config


def _measuring(config: ConfigDict) -> None:
    """The leaves of the stages behind encode."""
    config.evaluate = ConfigDict()
    config.evaluate.curve_psnr_db = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)  # points of the strength curve; empty: none
    config.evaluate.curve_images = 500
    config.evaluate.baseline_images = 500  # guided and deep: images of the rows that they are compared with

    config.attack = ConfigDict()
    config.attack.suite = "quick"  # or "full": more parameters, every reader trained for itself; or "none"
    config.attack.only = ()  # names of attacks, as in attacks.jsonl; empty: all
    config.attack.images = 64  # that are attacked and reported, the first of the release
    config.attack.own_images = 32  # that the attacker chooses parameters on
    config.attack.releases = (
        128  # that the attacker learns from, with their clean images or labels where an attack has them
    )
    config.attack.public = 128  # clean images of the same source that the attacker has
    config.attack.external = ""  # JSON lines of stronger attacks by others, with the fields of attacks.jsonl

    config.report = ConfigDict()
    config.report.pictures = 6  # images shown


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Flat view: "recode.psnr_db" -> value. Tuples become lists, as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, (dict, ConfigDict)):
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def check(config: ConfigDict) -> None:
    """Raise UserError for a value that no stage can use."""
    ranges = {
        "batch_size": config.batch_size >= 1,
        "data.workers": config.data.workers >= 0,
        "recode.rounds": config.recode.rounds >= 1,
        "recode.steps": config.recode.steps >= 1,
        "recode.restarts": config.recode.restarts >= 0,
        "recode.jpeg_quality": config.recode.jpeg_quality >= 0,
        "release.shard_size": config.release.shard_size >= 1,
        "evaluate.curve_images": config.evaluate.curve_images >= 1,
        "evaluate.baseline_images": config.evaluate.baseline_images >= 1,
        **{f"attack.{name}": config.attack[name] >= 1 for name in ("images", "own_images", "releases", "public")},
        "report.pictures": config.report.pictures >= 1,
    }
    for name, good in ranges.items():
        if not good:
            raise UserError(f"{name} is {leaves(config)[name]}; give at least {int(name not in _MAY_BE_ZERO)}")
    if config.attack.suite not in ("quick", "full", "none"):
        raise UserError(f'attack.suite "{config.attack.suite}" is unknown; choose quick, full, none')
    _check_release(config)


def _check_release(config: ConfigDict) -> None:
    formats = config.release.formats
    if not np.isfinite(config.recode.psnr_db):
        raise UserError(f"recode.psnr_db is {config.recode.psnr_db}; give a number of dB, such as 0")
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise UserError(f"release.formats is {list(formats)}; choose from {', '.join(FORMATS)}")
    for name in sorted(formats):
        _check_design(config.recode, FORMATS[name].dtype, name)
    without = sorted(set(formats) - {"png8", "webdataset"})
    if config.release.keep_metadata and without:
        raise UserError(f"release.keep_metadata: {without[0]} has no place for EXIF; release png8 or webdataset only")


def _check_design(settings: ConfigDict, dtype: type[np.generic], release_format: str) -> None:
    design, quality = choose(settings.design, dtype), settings.jpeg_quality
    if design.needs_surrogates and not settings.surrogates:
        raise UserError(
            f"recode.design {design.name} needs recode.surrogates, the models that it leads away; name some"
        )
    if settings.replace and "replace" not in design.settings:
        raise UserError(f"recode.replace does not go with recode.design {design.name}; set it to False")
    if quality and ("jpeg_quality" not in design.settings or quality > 100):
        able = " or ".join(each.name for each in DESIGNS.values() if "jpeg_quality" in each.settings)
        raise UserError(f"recode.jpeg_quality is {quality}; give 1 to 100 with recode.design {able}, or 0")
    if design.leaves_box and dtype == np.uint8:
        raise UserError(
            f"recode.design {design.name} leaves [0, 1], which {release_format} cannot hold; choose boxed or auto, or release "
            "float32 only"
        )


def first_difference(stored: dict[str, Any], config: ConfigDict) -> str | None:
    """The first leaf in which `config` would make another release than the stored flat config: "name: was A, is B"."""
    new = leaves(config)
    for name in sorted(stored.keys() | new.keys()):
        decides = name.split(".")[0] in RELEASE_SECTIONS and name not in _FREE
        if decides and stored.get(name) != new.get(name):
            return f"{name}: was {stored.get(name)}, is {new.get(name)}"
    return None
