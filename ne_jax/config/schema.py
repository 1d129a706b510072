"""Every leaf of the config: type, default, unit, range, and what it is for. `python -m ne_jax.config` prints them all.

Whatever is wrong with a leaf is a UserError when its section is made, in one line that names it.
"""

# No `from __future__ import annotations` here: the types of the fields are read as types.

import dataclasses

from ne_jax.config.leaf import check_leaves, leaf, made, section
from ne_jax.config.rules import check_release, usual_readers
from ne_jax.config.stage_sections import AttackConfig, EvaluateConfig, InspectConfig, ReportConfig
from ne_jax.data.preprocess_fields import check_fields
from ne_jax.errors import UserError


def _designs() -> tuple[str, ...]:
    from ne_jax.recoding.designs import DESIGNS  # here and below: jax takes a second to import

    return ("auto", *DESIGNS)


def _formats() -> tuple[str, ...]:
    from ne_jax.release.formats import FORMATS

    return tuple(FORMATS)


@section
class ModelConfig:
    """A model that is not shipped: an entry of `models` under its name. `ne_jax.load_model` takes the same."""

    name: str
    architecture: str = leaf(
        "", "vit_b16, resnet50 or another; onnx: for a graph; torch: for a PyTorch model.", unit="a name"
    )
    checkpoint: str | None = leaf(
        None,
        "The published file or folder as it is, package:NAME/PATH for a file in an installed package, or an id of the Hugging Face Hub.",
        unit="a path",
        path=True,
    )
    weights: str | None = leaf(
        None, "Which state dict of a PyTorch file that holds several, such as state_dict_ema.", unit="a name"
    )
    image_size: int | None = leaf(None, "Side of the input. Not given: the architecture's.", unit="pixels", least=1)
    preprocess: dict | None = leaf(
        None,
        "Instead of what the files beside the checkpoint say, or else its publisher: size, mean, std and other fields of Preprocess.",
        unit="fields to their values",
    )

    def __post_init__(self):
        check_leaves(self, f"models.{self.name}.")
        if self.preprocess is not None:
            check_fields(self.preprocess, f"models.{self.name}.preprocess")
        if not self.architecture:
            raise UserError(f"models.{self.name}.architecture is missing; give the name of one, such as vit_b16")


@section
class DataConfig:
    """The images."""

    kind: str = leaf(
        "fashion_mnist",
        "Where the images come from.",
        choices=("fashion_mnist", "folder", "webdataset", "tfds", "photos"),
    )
    path: str = leaf(
        "",
        "A folder of images; tars, as shards/{00000..00012}.tar; for tfds the set's name or the folder of a prepared set.",
        unit="a path, or the name of a set",
        path=True,
    )
    split: str = leaf("test", "Which part of fashion_mnist or of a tfds set.", unit="the name of a split")
    limit: int = leaf(0, "Take the first so many images. 0: all.", unit="images", least=0)
    workers: int = leaf(0, "Threads that decode and compress. 0: one a core.", unit="threads", least=0)
    max_megapixels: float = leaf(
        100.0, "A larger image is taken for a decompression bomb and skipped.", unit="million pixels", above=0
    )
    follow_links: bool = leaf(False, "Follow symbolic links that lead out of the folder.")

    def __post_init__(self):
        check_leaves(self, "data.")


@section
class SubspaceConfig:
    """Which directions of an image the authorized model hardly sees."""

    rule: str = leaf(
        "relative",
        "relative: sigma at most `value` of the largest. count: the `value` directions of least sigma. energy: `value` of the "
        "energy. utility: `value` of the first layer's response, at recode.psnr_db.",
        choices=("relative", "count", "energy", "utility"),
    )
    value: float = leaf(
        1e-2,
        "The number that the rule goes by: directions for count, a share below 1 for the others.",
        unit="directions, or a share",
        least=0,
    )

    def __post_init__(self):
        check_leaves(self, "subspace.")


@section
class RecodeConfig:
    """How the images are changed."""

    psnr_db: float = leaf(0.0, "Strength. Lower is stronger; 0 is noise as large as the pixel range.", unit="dB")
    design: str = leaf(
        "auto",
        "auto: gaussian for floating point, boxed for 8 bits. contrastive, guided and deep lead surrogates away. paper is INSECURE.",
        unit="auto, or the name of a design",
        choices=_designs,
    )
    surrogates: tuple[str, ...] = leaf(
        (), "Flax networks that contrastive, guided and deep recoding lead away.", unit="models"
    )
    steps: int = leaf(
        24,
        "guided and deep: gradients of every surrogate, and of the authorized model for deep.",
        unit="gradients",
        least=1,
    )
    restore: int = leaf(
        16, "deep: most Gauss-Newton steps on the authorized model alone, at the end.", unit="steps", least=0
    )
    restarts: int = leaf(
        0,
        "guided and deep: attempts beside the first; the best on the surrogates is kept.",
        unit="attempts",
        least=0,
    )
    jpeg_quality: int = leaf(
        0, "guided: hold against JPEG of this quality. 0: JPEG is not in the loop.", least=0, most=100
    )
    margin_share: float = leaf(
        0.5, "deep: least margin of the stored image.", unit="margins of the clean image", least=0
    )
    logit_gap: float = leaf(
        0.1,
        "deep: largest rms change of the logits; without a head, largest 1 - cosine of the features.",
        unit="standard deviations of the clean logits",
        least=0,
    )
    max_passes: float = leaf(
        0.0,
        "Most forward passes of the authorized model that an image may cost. 0: any.",
        unit="forward passes",
        least=0,
    )
    replace: bool = leaf(False, "Remove the image's own part in the subspace first.")
    rounds: int = leaf(40, "boxed: projections into [0, 1].", unit="rounds", least=1)
    fit: bool = leaf(
        False, "Where psnr_db does not fit into [0, 1], take the strongest that does, instead of an error."
    )
    secret_file: str = leaf(
        "",
        "64 hexadecimal digits. Empty: WORKDIR/private/secret.key, made when there is none.",
        unit="a path",
        path=True,
    )

    def __post_init__(self):
        check_leaves(self, "recode.")


@section
class ReleaseConfig:
    """The files that are released."""

    formats: tuple[str, ...] = leaf(
        ("png8",),
        "What the images are stored as, one release each. png8, webdataset and array_record hold the same pixels.",
        unit="formats",
        choices=_formats,
    )
    again: bool = leaf(
        False, "Accept that an image is released in two artefacts, which gives it away. The manifest tells it."
    )
    shard_size: int = leaf(256, "Images a shard: what a kill costs at most.", unit="images", least=1)
    opaque_names: bool = leaf(False, "Release under names that tell nothing, in an order that tells nothing.")
    keep_metadata: bool = leaf(False, "Keep EXIF and ICC profiles in PNG files.")
    license: str = leaf("", "The license, for the manifest.", unit="a URL")
    creator: str = leaf("", "Who made the release, for the manifest.", unit="a name")
    url: str = leaf("", "Where the release is found, for the manifest.", unit="a URL")
    signing_key: str = leaf(
        "",
        "Private ed25519 key that signs the manifest, made by ssh-keygen -t ed25519 without a passphrase. Empty: not signed.",
        unit="a path",
        path=True,
    )

    def __post_init__(self):
        check_leaves(self, "release.")


@section
class Config:
    """Who the release is for and who is given it."""

    authorized: str = leaf("vit_a", "The model that the release is for.", unit="a model")
    also_authorized: tuple[str, ...] = leaf(
        (), "More models that it is for, whose first layers cut the image into the same windows.", unit="models"
    )
    readers: tuple[str, ...] = leaf(
        (),
        "The models that are given the release. Empty: the authorized ones, and the shipped ones where these or the images are shipped.",
        unit="models",
    )
    models: dict = leaf(dict, "Models beyond the shipped ones, by name.", unit="names to entries")
    cache: str = leaf(
        "", "Folder that keeps ported networks, for faster starts. Empty: none.", unit="a path", path=True
    )
    batch_size: int = leaf(256, "Images a step. Changes speed and memory, never a result.", unit="images", least=1)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    subspace: SubspaceConfig = dataclasses.field(default_factory=SubspaceConfig)
    recode: RecodeConfig = dataclasses.field(default_factory=RecodeConfig)
    release: ReleaseConfig = dataclasses.field(default_factory=ReleaseConfig)
    inspect: InspectConfig = dataclasses.field(default_factory=InspectConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    attack: AttackConfig = dataclasses.field(default_factory=AttackConfig)
    report: ReportConfig = dataclasses.field(default_factory=ReportConfig)

    def model(self, name: str) -> ModelConfig:
        """The entry `name` of `models`."""
        return made(ModelConfig, self.models[name], f"models.{name}.", name=name)

    def __post_init__(self):
        check_leaves(self)
        made_of = {name: self.model(name).checkpoint for name in self.models}
        models = {
            name: entry | {"checkpoint": made_of[name]} for name, entry in self.models.items() if "checkpoint" in entry
        }
        object.__setattr__(self, "models", self.models | models)
        check_release(self)
        object.__setattr__(self, "readers", self.readers or usual_readers(self))
