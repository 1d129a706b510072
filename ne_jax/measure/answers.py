"""What models make of images: their answers, scores against the clean image, and intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float, Float32, Int

from ne_jax.core import bounds
from ne_jax.data.preprocess import adapt
from ne_jax.models.model import Model

_CHUNK = 8  # images a call of a reader, so that none is compiled again


def read(model: Model, images: Float[np.ndarray, "n height width channels"]) -> Answers:
    """`answer` in chunks of one size."""
    padded = np.concatenate([images, np.zeros((-len(images) % _CHUNK, *images.shape[1:]), images.dtype)])
    parts = [answer(model, padded[start : start + _CHUNK]) for start in range(0, len(padded), _CHUNK)]
    said = None if parts[0].said is None else np.concatenate([part.said for part in parts])
    return Answers(said, np.concatenate([part.features for part in parts])).first(len(images))


# Conditions: the clean image; the stored NE; white noise of the NE's own PSNR in the same number format (not written to disk).
CONDITIONS = ("clean", "ne", "gaussian")
# Beside guided and deep releases, at the strength asked of them and in the same number format, not written to disk: noise of the
# authorized model's subspace, and what leads the surrogates away when nobody is authorized.
BASELINES = ("subspace_noise", "unconstrained")


class Answers(NamedTuple):
    """What a model makes of images. said: predicted classes, None for a network without a head."""

    said: Int[np.ndarray, " batch"] | None
    features: Float32[np.ndarray, "batch features"]

    def first(self, count: int) -> Answers:
        """Of the first `count` images."""
        return Answers(None if self.said is None else self.said[:count], self.features[:count])


def answer(model: Model, images: Float32[np.ndarray, "batch height width channels"]) -> Answers:
    """What the model makes of images in pixel units, after its own preprocessing."""
    logits, features = model(adapt(images, model.preprocess))
    said = None if logits is None else np.asarray(logits.argmax(-1))
    return Answers(said, np.asarray(features, np.float32))


def scores(answers: Answers, clean: Answers, labels: Int[np.ndarray, " n"] | None) -> dict[str, np.ndarray]:
    """Metric -> value of each image: accuracy where there are labels, agreement with the clean image where there is a head (both
    yes or no), and feature_cosine, the cosine of the features with those of the clean image."""
    found = {}
    if labels is not None and answers.said is not None:
        found["accuracy"] = answers.said == labels
    if answers.said is not None:
        found["agreement"] = answers.said == clean.said
    return found | {"feature_cosine": bounds.row_cosines(answers.features, clean.features)}


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean: Wilson's for yes and no, Student's for cosines, cut off at -1 and 1."""
    if values.dtype == bool:
        found = scipy.stats.binomtest(int(values.sum()), len(values)).proportion_ci(0.95, method="wilson")
        return found.low, found.high
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, values.mean(), scipy.stats.sem(values))
    return max(low, -1.0), min(high, 1.0)
