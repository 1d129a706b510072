"""What guided and deep recoding share: readers that a change is to mislead, without labels, seen from random places.

A reader is any pytree that can be called as reader(image, warp) -> (logits or None, features) for one image in pixel units, where
`warp` is a pair of matrices for its columns and its rows; `models.as_reader.reading` makes one of a Flax model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ne_jax.core.each_image import vary_alike
from ne_jax.core.pixels import Image

Warp = tuple[Float[Array, "height height"], Float[Array, "width width"]]
Reader = Callable[..., Any]

# Views show the image at 0.8 to 1.3 times its size, black around it where it is smaller.
_SMALLEST, _LARGEST = 0.8, 1.3
# What 1 - cosine of features is as a margin: both are large where a reader sees another image. Medians over random views of 24 images,
# of five shipped readers on Fashion-MNIST and of EfficientNet-Lite0 and Lite1 on photographs: a margin is .8 to 2.7 on the clean image
# and 5.2 to 7.4 less on an image of another class; 1 - cosine is .4 to 1.1 there, so that 1 is worth 5 to 13 of margin, 8.7 in the middle.
_CLEAN_MARGIN = 2.0  # for equal features, in standard deviations of logits
_MARGIN_PER_COSINE = 8.0
_LOOKS = 4  # views that attempts are judged by
_NEVER = 10_000  # more than any likeness, and any number of attempts


def view(key: PRNGKeyArray, image: Image) -> Warp:
    """The image at a random size and place, as bilinear interpolation shows it (DIM, Xie et al. 2019, arXiv 1803.06978; here also
    enlarged and cut, as readers do that crop before they resize)."""
    size, place = jax.random.split(key)
    scale = jax.random.uniform(size, (), minval=_SMALLEST, maxval=_LARGEST)
    starts = jax.random.uniform(place, (2,)) * (1 - scale)
    return tuple(_line(length, scale, start * length) for length, start in zip(image.shape, starts, strict=False))


def _line(length: int, scale, start) -> Float[Array, "length length"]:
    source = (jnp.arange(length) + 0.5 - start) / scale - 0.5
    return jnp.maximum(0, 1 - jnp.abs(source[:, None] - jnp.arange(length)))


def margin(logits: Float[Array, " classes"], label) -> Float[Array, ""]:
    """The logit of a class less the largest of the others, in standard deviations of the logits."""
    others = jnp.where(jnp.arange(len(logits)) == label, -jnp.inf, logits)
    return (logits[label] - jnp.max(others)) / jnp.std(logits)


def cosine(one: Float[Array, " features"], other: Float[Array, " features"]) -> Float[Array, ""]:
    """Cosine of the angle between two vectors; 0 if one is zero."""
    return jnp.sum(one * other) / jnp.maximum(jnp.linalg.norm(one) * jnp.linalg.norm(other), 1e-30)


def feature_margin(features: Float[Array, " features"], clean: Float[Array, " features"]) -> Float[Array, ""]:
    """What stands for `margin` where a reader has no head: how near the features are to the clean ones, on the scale of margins.

    2 for features of the same direction, about as for a clean image, and 8 less for orthogonal ones, about as for another image.
    """
    return _CLEAN_MARGIN - _MARGIN_PER_COSINE * (1 - cosine(features, clean))


def likeness(readers: Sequence[Reader], clean: Sequence[Any], image: Image, key: PRNGKeyArray) -> Float[Array, ""]:
    """How much the readers, each from a view of its own, take `image` for the clean one: their margins for the class that they saw
    there, or by their features for readers without a head, in a smooth maximum, so that those count most that still read it. In
    standard deviations of logits. What ascent brings down."""
    found = []
    for number, (reader, before) in enumerate(zip(readers, clean, strict=True)):
        logits, features = reader(image, view(jax.random.fold_in(key, number), image))
        headless = logits is None
        found.append(
            feature_margin(features, before.features) if headless else margin(logits, jnp.argmax(before.logits))
        )
    return jax.nn.logsumexp(jnp.stack(found))


def best_of(attempts: int, key: PRNGKeyArray, attempt: Callable, readers: Sequence[Reader], clean: Sequence[Any]):
    """What `attempt(key, number)` gives for the attempt that leads the readers furthest away, from views that it did not see. attempt
    returns a tuple whose first is the image and whose last says whether it may be chosen before others."""

    def score(made):
        seen = jnp.mean(
            jnp.stack([likeness(readers, clean, made[0], jax.random.fold_in(judge, n)) for n in range(_LOOKS)])
        )
        return jnp.where(made[-1], seen, seen + _NEVER)

    def once_more(state, number):
        best, least = state
        made = attempt(jax.random.fold_in(key, number), number)
        found = score(made)
        best = jax.tree.map(lambda new, old: jnp.where(found < least, new, old), made, best)
        return (best, jnp.minimum(found, least)), None

    first = attempt(key, 0)
    if attempts == 1:
        return first
    judge = jax.random.fold_in(key, _NEVER)
    (best, _), _ = jax.lax.scan(once_more, vary_alike((first, score(first))), jnp.arange(1, attempts))
    return best


def unit(values: Image) -> Image:
    """In the same direction, of norm 1; zeros where there is none."""
    return values / jnp.maximum(jnp.linalg.norm(values), 1e-30)
