"""What was certified of an image and of a set, and what of it can be measured again from the files alone.

The records are those of WORKDIR/private/certificates.jsonl (a line an image), WORKDIR/check.json (of each format) and the manifest's
entry "certificate". Read back, those of a later version may say more.
"""

from __future__ import annotations

import hashlib
import pathlib
from typing import Annotated

import msgspec
import numpy as np
from jaxtyping import Float32
from msgspec import UNSET, Meta, UnsetType

from ne_jax.errors import UserError
from ne_jax.files import Record, told
from ne_jax.release.facts import Count

PERCENTILES = (5, 50, 95)
# A network without a head keeps its utility where its features change by no more than this share of their norm.
SMALL_CHANGE = 0.1
_Figure = Annotated[float, Meta(ge=-1e30, le=1e30)]  # beyond, differences leave the range of floats
_Share = Annotated[float, Meta(ge=0, le=1)]
Percentiles = tuple[_Figure, _Figure, _Figure]  # the 5th, 50th and 95th of a set


class ImageCertificate(Record, kw_only=True, forbid_unknown_fields=False):
    """What was certified of a stored image. The bounds: see `bounds.Certificate`; predictions, which a model without a head lacks:
    `bounds.Prediction`. psnr_db: None for an image that was left as it is. feature_cosine: of the authorized model's features with
    those of the clean image; feature_norm: of these features. pixels_sha256: see `digests`.

    Two words that are easily confused. holds: the bound holds for the gap, which says that the mathematics is right and nothing of how
    large either is. utility_kept: the authorized model still does its work, by its prediction or, without a head, by features
    that change by at most SMALL_CHANGE of their norm. Version 0.1.0 did not tell the second."""

    release_format: str
    image: str
    psnr_db: float | None
    delta_norm: float
    feature_gap: float
    bound: float
    holds: bool
    subspace_term: float
    residual_term: float
    precision_term: float
    border_term: float
    expected_gap: float
    relative_gap: float
    predicted_clean: int | UnsetType = UNSET
    predicted: int | UnsetType = UNSET
    kept: bool | UnsetType = UNSET
    margin_clean: float | UnsetType = UNSET
    margin: float | UnsetType = UNSET
    logit_gap: float | UnsetType = UNSET
    feature_cosine: float
    feature_norm: float
    utility_kept: bool | UnsetType = UNSET
    pixels_sha256: str

    def __post_init__(self) -> None:
        if (self.predicted is UNSET) != (self.margin is UNSET):
            raise ValueError("predicted and margin stand together")

    @property
    def not_lost(self) -> bool:
        """Whether the utility was kept; of version 0.1.0, the prediction, if there is one."""
        known = self.kept if self.utility_kept is UNSET else self.utility_kept
        return known is UNSET or known


class StoredStatistics(Record, kw_only=True, forbid_unknown_fields=False):
    """What the authorized model makes of the stored files, without the clean ones: of the norm of its features and, with a head, of
    its margins. Whoever has the model can measure them again."""

    margin: Percentiles | UnsetType = UNSET
    feature_norm: Percentiles


class ReaderDeviation(Record, kw_only=True):
    """Energy of the noise at a reader's first layer, against what is predicted of Gaussian noise (`bounds.reader_deviation`).

    measured_over_predicted: of the means. relative_gain: 1 is no help from the subspace. below_lower_limit, above_upper_limit:
    shares of images; limit_allows: the share that each may have. spectral_gap_not_sufficient: `bounds.spectral_gap`.
    """

    measured_over_predicted: float
    relative_gain: float
    below_lower_limit: float
    above_upper_limit: float
    limit_allows: float
    spectral_gap_not_sufficient: float


class AlsoAuthorized(Record, kw_only=True, forbid_unknown_fields=False):
    """The certificate of a set for a model that is authorized beside the first; fields as those of `SetCertificate`."""

    n: int
    bound_holds: int
    utility_kept: int | UnsetType = UNSET
    prediction_kept: int | UnsetType = UNSET
    prediction_lost_at_most: float | UnsetType = UNSET
    margin_min: float | UnsetType = UNSET
    logit_gap_median: float | UnsetType = UNSET
    logit_gap_max: float | UnsetType = UNSET
    feature_cosine_min: float


class SetCertificate(Record, kw_only=True, forbid_unknown_fields=False):
    """The certificates of a release of n images, summed up. What has no default stands for every model, the rest where the model has
    a head, and where there are other readers with the same patches (`deviation`) or other authorized models, by name.

    bound_holds, utility_kept, prediction_kept: images, see `ImageCertificate`. bound_over_gap_median: of the images that changed. Version
    0.1.0 told neither utility_kept nor that. prediction_lost_at_most: 95 % upper bound of the share, one-sided. psnr_db_median: dB, None
    where most images were left as they are. feature_gap_expected: median of `expected_gap`; the others: of what they are named by.
    """

    n: Count
    bound_holds: Count
    utility_kept: Count | UnsetType = UNSET
    prediction_kept: Count | UnsetType = UNSET
    prediction_lost_at_most: _Share | UnsetType = UNSET
    margin_min: float | UnsetType = UNSET
    logit_gap_median: float | UnsetType = UNSET
    logit_gap_max: float | UnsetType = UNSET
    feature_cosine_median: float
    feature_cosine_min: float
    psnr_db_median: float | None
    feature_gap_median: float
    feature_gap_expected: float
    relative_gap_median: float
    relative_gap_max: float
    bound_median: float
    bound_over_gap_median: float | UnsetType = UNSET
    stored: StoredStatistics
    deviation: dict[str, ReaderDeviation] | UnsetType = UNSET
    also_authorized: dict[str, AlsoAuthorized] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.prediction_kept is UNSET) != (self.prediction_lost_at_most is UNSET):
            raise ValueError("prediction_kept and prediction_lost_at_most stand together")
        if max(self.bound_holds, 0 if self.prediction_kept is UNSET else self.prediction_kept) > self.n:
            raise ValueError(f"counts more than {self.n} images")

    def public(self) -> SetCertificate:
        """What of it stands in the manifest: nothing of a single image's logits, nothing of other readers."""
        return msgspec.structs.replace(self, deviation=UNSET, margin_min=UNSET, logit_gap_max=UNSET)


def digests(stored: Float32[np.ndarray, "batch height width channels"]) -> np.ndarray:
    """SHA-256 of each image's numbers as `read_release` gives them: ties a certificate to what was certified, whatever the format."""
    return np.array([hashlib.sha256(np.ascontiguousarray(image)).hexdigest() for image in stored])


def stored_statistics(column: dict[str, np.ndarray]) -> StoredStatistics:
    """Of the columns feature_norm and, for a model with a head, margin, an entry an image."""
    names = [name for name in ("margin", "feature_norm") if name in column]
    return StoredStatistics(**{name: tuple(np.percentile(column[name], PERCENTILES).tolist()) for name in names})


def decibels(psnr_db: float | None) -> str:
    """A strength, in dB; None is that of images which are as they were."""
    return "infinite" if psnr_db is None else f"{psnr_db:z.1f}"


def kept_in_words(found: SetCertificate) -> str:
    """What a release's summary says of the authorized model, run on the stored files."""
    cosine = f"cosine of features at least {found.feature_cosine_min:.4f} (median {found.feature_cosine_median:.4f})"
    if found.prediction_kept is UNSET:
        return cosine
    lost = f"lost on at most {found.prediction_lost_at_most:.2%}, 95 % one-sided"
    return f"prediction kept on {found.prediction_kept:,} of {found.n:,} ({lost}); {cosine}"


def utility_in_words(found: SetCertificate) -> str:
    """On how many images the authorized model still does its work; nothing where version 0.1.0 did not tell."""
    return "" if found.utility_kept is UNSET else f"utility kept on {found.utility_kept:,} of {found.n:,}; "


def bound_in_words(found: SetCertificate) -> str:
    """On how many images the bound holds for the gap, and how much larger it is."""
    times = (
        "" if found.bound_over_gap_median is UNSET else f", at a median of {found.bound_over_gap_median:.3g} times it"
    )
    return f"the bound holds for the gap on {found.bound_holds:,} of {found.n:,}{times}"


def read_certificates(path: pathlib.Path, release_format: str) -> dict[str, ImageCertificate]:
    """The certificates of a format's images, by name. Raises UserError for a file that is none of the run that made the release."""
    found = {}
    try:
        with open(path, "rb") as file:
            for number, text in enumerate(file, 1):
                row = _certificate(text, f"{path}: line {number}")
                if row.release_format == release_format:
                    found[row.image] = row
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give WORKDIR/private of the run, after --stage=check") from error
    if not found:
        raise UserError(f"{path}: none is of a {release_format} release; give WORKDIR/private of the run that made it")
    return found


def _certificate(text: bytes, place: str) -> ImageCertificate:
    try:
        return msgspec.json.decode(text, type=ImageCertificate)
    except msgspec.MsgspecError as error:
        raise UserError(
            f"{place} is no certificate of this version ({told(error)}); run --stage=check again"
        ) from error
