"""Every leaf that a config file may set, with its default. Config files in `configs/` change a few of them and say why."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from ne_jax.errors import UserError

# Leaves that decide what a release holds. A workdir keeps them: another value needs another workdir.
RELEASE_SECTIONS = ("authorized", "models", "data", "subspace", "recode", "release")


def default() -> ConfigDict:
    """The default config: Fashion-MNIST's test set, encoded for the shipped vit_a."""
    config = ConfigDict()
    config.authorized = "vit_a"  # the model that the release is for
    config.readers = ("vit_a", "vit_b", "resnet_a", "resnet_b", "vit_a_tuned")  # who is given it
    # Names beyond the shipped ones: {"mine": {"architecture": "vit_b16", "checkpoint": "/path/model.safetensors"}}; "image_size"
    # and "preprocess" (the fields of Preprocess) may be given too. Architectures, and what a checkpoint may be: `load_model`.
    config.models = ConfigDict()
    config.cache = ""  # folder that keeps ported networks, for faster starts; empty: none
    config.batch_size = 250  # images a step; changes speed and memory, never a result

    config.data = ConfigDict()
    config.data.kind = "fashion_mnist"  # or "folder", "tfds", "photos"
    config.data.path = ""  # folder of images; for tfds the set's name or the folder of a prepared set
    config.data.split = "test"
    config.data.limit = 0  # first so many images; 0: all

    config.subspace = ConfigDict()
    config.subspace.rule = "relative"  # relative, count, energy, utility
    config.subspace.value = 1e-2

    config.recode = ConfigDict()
    config.recode.psnr_db = 0.0  # strength, dB; lower is stronger; 0 is noise as large as the pixel range
    config.recode.design = "auto"  # gaussian for float32, boxed for png8; or one of them for both
    config.recode.replace = False  # remove the image's own part in the subspace first
    config.recode.rounds = 40  # of projection into [0, 1], boxed only
    config.recode.fit = (
        False  # where psnr_db does not fit into [0, 1], take the strongest that does, instead of an error
    )
    config.recode.secret_file = ""  # 64 hexadecimal digits; empty: WORKDIR/private/secret.key, made when there is none

    config.release = ConfigDict()
    config.release.formats = ("float32", "png8")
    config.release.shard_size = 500  # images a shard

    config.evaluate = ConfigDict()
    config.evaluate.curve_psnr_db = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)  # points of the strength curve; empty: none
    config.evaluate.curve_images = 500
    config.evaluate.attack_images = 500  # images of the "what it does not stop" rows

    config.report = ConfigDict()
    config.report.pictures = 6  # images shown
    return config


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
        "recode.rounds": config.recode.rounds >= 1,
        "release.shard_size": config.release.shard_size >= 1,
        "evaluate.curve_images": config.evaluate.curve_images >= 1,
        "evaluate.attack_images": config.evaluate.attack_images >= 1,
        "report.pictures": config.report.pictures >= 1,
    }
    for name, good in ranges.items():
        if not good:
            raise UserError(f"{name} is {leaves(config)[name]}; give at least 1")
    if config.recode.design not in ("auto", "gaussian", "boxed"):
        raise UserError(f'recode.design "{config.recode.design}" is unknown; choose auto, gaussian or boxed')
    unknown = set(config.release.formats) - {"float32", "png8"}
    if unknown or not config.release.formats:
        raise UserError(f"release.formats is {list(config.release.formats)}; choose from float32 and png8")
    if config.recode.design == "gaussian" and "png8" in config.release.formats:
        raise UserError(
            "recode.design gaussian leaves [0, 1], which png8 cannot hold; choose boxed or auto, or release float32 only"
        )


def first_difference(stored: dict[str, Any], config: ConfigDict) -> str | None:
    """The first leaf in which `config` would make another release than the stored flat config: "name: was A, is B"."""
    new = leaves(config)
    for name in sorted(stored.keys() | new.keys()):
        if name.split(".")[0] in RELEASE_SECTIONS and stored.get(name) != new.get(name):
            return f"{name}: was {stored.get(name)}, is {new.get(name)}"
    return None
