"""What a manifest claims of the authorized model, against what the model does."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import numpy as np
from jaxtyping import Float
from msgspec import UNSET

from ne_jax.core import bounds
from ne_jax.files import told
from ne_jax.release.certificates import PERCENTILES, ImageCertificate, SetCertificate, stored_statistics
from ne_jax.release.facts import Facts
from ne_jax.release.reasons import Reason

# What may differ on other hardware. Weights and pixels rounded to bfloat16, as a TPU multiplies them, moved vit_a's percentiles by up
# to .008 of what lies between the 5th and the 95th, and a margin by up to .012 of the range of the image's logits; to TF32, as recent
# GPUs have it, by .003 and .003. The share of the median is for norms that hardly vary.
OF_SPREAD, _OF_MEDIAN = 0.02, 1e-3
_END = 1e30  # beyond all figures


def compare(
    facts: Facts,
    certificates: dict[str, ImageCertificate] | None,
    columns: dict[str, np.ndarray],
    certified: dict[str, int],
    read: int,
    whole: bool,
) -> tuple[SetCertificate | None, list[Reason]]:
    """The manifest's certificate, and what the manifest says that is not so.

    certificates: the owner's, of images that were in no file. columns: the model's figures, an entry an image. certified: figures that
    were counted in the certificates. read: images that were. whole: every file is as released.
    """
    images = len(columns.get("feature_norm", ()))
    wrong = [Reason("other number", (facts.images, read))] if whole and read != facts.images else []
    if whole and certificates:
        wrong.append(Reason("in no file", (len(certificates), next(iter(certificates)))))
    if facts.certificate is UNSET:
        return None, wrong
    try:
        claimed = msgspec.convert(facts.certificate, SetCertificate)
    except msgspec.ValidationError as error:
        return None, [*wrong, Reason("no certificate", (told(error),))]
    wrong += _recounted(claimed, {"n": facts.images} | certified)
    if 0 < images <= claimed.n:
        wrong += _moved(claimed, columns, claimed.n - images)
    return claimed, wrong


def _recounted(claimed: SetCertificate, counted: dict[str, float]) -> Iterator[Reason]:
    """Which numbers of images, and the bound that follows from them, are not those that were claimed."""
    if claimed.prediction_kept is not UNSET:
        lost = claimed.n - claimed.prediction_kept
        counted = counted | {"prediction_lost_at_most": bounds.failure_upper_bound(lost, claimed.n)}
    for key, value in counted.items():
        said = getattr(claimed, key)
        if said is not UNSET and not abs(said - value) < 1e-6:
            yield Reason("other count", (key, said, value))


def _moved(claimed: SetCertificate, columns: dict[str, np.ndarray], missing: int) -> Iterator[Reason]:
    """Which percentiles are not those that were claimed, wherever among them the missing images were."""
    said, now = claimed.stored.to_json(), stored_statistics(columns).to_json()
    for key in now:
        if key not in said:
            yield Reason("no certificate", (f"stored: has no {key}",))
            continue
        allowed = _OF_MEDIAN * abs(said[key][1]) + OF_SPREAD * (said[key][2] - said[key][0])
        lowest, highest = (_with_missing(columns[key], missing, below) for below in (True, False))
        limits = zip(lowest, said[key], highest, strict=True)
        if not all(low - allowed <= value <= high + allowed for low, value, high in limits):
            yield Reason("other figures", (key, said[key], now[key]))


def _with_missing(column: Float[np.ndarray, " n"], missing: int, below: bool) -> list[float]:
    """Percentiles of the column and of `missing` values that are all below it, or all above. As many are not made: a stranger's manifest
    says how many."""
    ordered, end = np.sort(column.astype(np.float64)), -_END if below else _END
    before = missing if below else 0

    def value(rank: int) -> float:
        return float(ordered[rank - before]) if 0 <= rank - before < len(ordered) else end

    found = []
    for share in PERCENTILES:
        place = share / 100 * (len(ordered) + missing - 1)
        rank = math.floor(place)
        found.append(value(rank) + (value(math.ceil(place)) - value(rank)) * (place - rank))
    return found
