"""What was certified of an image and of a set, and what of it can be measured again from the files alone."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32


def digests(stored: Float32[np.ndarray, "batch height width channels"]) -> np.ndarray:
    """SHA-256 of each image's numbers as `read_release` gives them: ties a certificate to what was certified, whatever the format."""
    return np.array([hashlib.sha256(np.ascontiguousarray(image)).hexdigest() for image in stored])


def stored_statistics(column: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """What the authorized model makes of the stored files, without the clean ones: the 5th, 50th and 95th percentile of the norm of
    its features and, with a head, of its margins. Whoever has the model can measure them again."""
    names = [name for name in ("margin", "feature_norm") if name in column]
    return {name: np.percentile(column[name], (5, 50, 95)).tolist() for name in names}


class Certificate(NamedTuple):
    """What was certified of an image. predicted, margin: None for a model without a head."""

    pixels_sha256: str
    predicted: int | None
    margin: float | None
    holds: bool
    kept: bool


def kept_in_words(found: dict) -> str:
    """What a release's summary says of the authorized model, run on the stored files."""
    cosine = (
        f"cosine of features at least {found['feature_cosine_min']:.4f} (median {found['feature_cosine_median']:.4f})"
    )
    if "prediction_kept" not in found:
        return cosine
    lost = f"lost on at most {found['prediction_lost_at_most']:.2%}, 95 % one-sided"
    return f"prediction kept on {found['prediction_kept']:,} of {found['n']:,} ({lost}); {cosine}"
