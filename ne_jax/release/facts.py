"""What a manifest says of its NEs, and what it may say: the one schema of its block "ne".

A stranger's manifest is held against it as a whole before anything else of the release is looked at. What is printed is one line, and no
number is so large that to count with it takes memory or leaves the range of floats.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from ne_jax.files import Record

# What is printed in an error: nothing that commands a terminal, breaks a line or turns its direction.
Word = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=r"\A[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]*\Z",
    ),
]
Text = Annotated[str, Meta(max_length=4000)]
Count = Annotated[int, Meta(ge=0, le=100_000_000)]  # of images, or of directions
Side = Annotated[int, Meta(ge=1, le=65_535)]  # pixels
Decibels = Annotated[float, Meta(ge=-1000, le=1000)]
_MOST_NUMBERS = 1 << 28  # of an image: 9,459 x 9,459 in colour


class Named(Record, kw_only=True, forbid_unknown_fields=False):
    """A model that a release is for. checkpoint_sha256: of its weights, as `Model.sha256`."""

    name: Word
    architecture: Word | UnsetType = UNSET
    checkpoint_sha256: Word


class Strength(Record, kw_only=True, forbid_unknown_fields=False):
    """PSNR in dB over the images that were changed; None where none was."""

    min: Decibels | None
    median: Decibels | None
    max: Decibels | None


class Facts(Record, kw_only=True, forbid_unknown_fields=False):
    """Everything about the NEs of a release: the block "ne" of its manifest.

    What has no default is what a release is proved by. The rest may be UNSET in a release of another version.
    images: their number. image_shape, window: height, width, channels, pixels. preprocess: the fields of `Preprocess`. directions:
    recoded ones, of a window or of the image. psnr_db_*: dB. edge_share: of stored numbers at the ends of [0, 1].
    released_again: images that are in another artefact under the same secret too. near_copies: images that are nearly the same picture
    as another one of the release.
    settings: of the design, by name; they stand among the other entries. certificate: `SetCertificate.public` after stage check; its
    types are looked at where it is compared, because a bad one is a fault of the release and not of whoever reads it.
    """

    warning: Text | UnsetType = UNSET
    format: Word
    images: Count
    authorized: Named
    also_authorized: list[Named] | UnsetType = UNSET
    image_shape: tuple[Side, Side, Side]
    geometry: str | UnsetType = UNSET
    window: tuple[Side, Side, Side]
    preprocess: dict[str, Any]
    colour: str | UnsetType = UNSET
    rule: str | UnsetType = UNSET
    threshold: float | UnsetType = UNSET
    directions: Count
    sensitive_directions: Count | UnsetType = UNSET
    design: Word
    settings: dict[str, Any] = {}
    replace: bool
    noise: str | UnsetType = UNSET
    released_again: Count | UnsetType = UNSET
    near_copies: Count | UnsetType = UNSET
    psnr_db_asked: float | UnsetType = UNSET
    psnr_db_realised: Strength
    left_unchanged: Count | UnsetType = UNSET
    edge_share: float | None | UnsetType = UNSET
    best_linear_white_box_reconstruction_db: float | None | UnsetType = UNSET
    versions: dict[str, str] | UnsetType = UNSET
    limits: list[str] | UnsetType = UNSET
    date: str | UnsetType = UNSET
    certificate: Any = UNSET

    def __post_init__(self) -> None:
        if math.prod(self.image_shape) > _MOST_NUMBERS:
            raise ValueError(f"image_shape: an image of more than {_MOST_NUMBERS:,} numbers")

    def to_json(self) -> dict[str, Any]:
        """The block, with the settings among its entries."""
        entries = super().to_json().items()
        return {
            name: entry
            for key, value in entries
            for name, entry in (value.items() if key == "settings" else [(key, value)])
        }
