"""Tier 5: readers that are trained on the release. They show what the release still tells whoever has labels, not what a stranger reads.

Fine-tuning of the whole network, an adapter of patches before the frozen network, BatchNorm's statistics alone, and a network from
scratch. All give a `Model` that takes the stored images as they are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from ne_jax.attacks.attack import Attack, Knowledge
from ne_jax.attacks.trained_networks import descend
from ne_jax.core.first_layer import FirstLayer
from ne_jax.core.linear_estimate import given
from ne_jax.core.pixels import Images
from ne_jax.core.unfold import fold, unfold
from ne_jax.data.preprocess import Preprocess, adapt
from ne_jax.errors import UserError
from ne_jax.models.as_reader import reading
from ne_jax.models.model import Model, Outputs, flax_forward

Labels = Int[np.ndarray, " n"]


def before(change: Callable[[Any], Any], reader: Model, image_shape: tuple[int, int, int]) -> Model:
    """The reader of change(images), where images are square, of `image_shape`, in pixel units: it takes them as they are stored, and its
    own preprocessing comes after the change."""

    def forward(pixels) -> Outputs:
        return reader(adapt(np.asarray(change(pixels), np.float32), reader.preprocess))

    spec = Preprocess(image_shape[0], mean=(0.5,) * image_shape[2], std=(1.0,) * image_shape[2])
    return dataclasses.replace(reader, preprocess=spec, forward=forward, graphdef=None, state=None)


def labelled(reader: Model, knowledge: Knowledge, share: float = 1.0) -> tuple[Images, Labels]:
    """A random `share`, at least one, of the releases and their labels. Raises UserError where labels cannot train the reader."""
    images, labels = given(knowledge.releases, "releases"), given(knowledge.labels, "labels")
    if not reader.num_classes:
        raise UserError(f"{reader.name} has no head, so labels cannot train it")
    if labels.max() >= reader.num_classes:
        raise UserError(f"label {labels.max()} is none of the {reader.num_classes} classes of {reader.name}")
    order = np.random.default_rng(knowledge.seed).permutation(len(images))
    chosen = order[: max(1, round(share * len(images)))]
    return images[chosen], labels[chosen]


def _draws(seed: int, images: Images, labels: Labels, batch: int) -> Iterator[tuple[Images, Labels]]:
    """Endless batches, drawn with replacement."""
    generator = np.random.default_rng(seed)
    while True:
        rows = generator.integers(len(images), size=batch)
        yield images[rows], labels[rows]


def _cross_entropy(logits: Float[Array, "n classes"], labels) -> Float[Array, ""]:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _flax(reader: Model) -> Model:
    if reader.graphdef is None:
        raise UserError(f"{reader.name} is no Flax network, so it cannot be trained here")
    return reader


def _with_state(reader: Model, state: Any) -> Model:
    old, kernel = reader.first_layer, nnx.merge(reader.graphdef, state).stem.kernel[...]
    layer = FirstLayer(kernel, old.strides, old.padding, old.mean, old.std)
    return dataclasses.replace(
        reader, state=state, first_layer=layer, forward=flax_forward(reader.graphdef, state, layer)
    )


def _network_loss(graphdef, params, fixed, batch):
    rest, mean, std = fixed
    pixels, labels = batch
    module = nnx.merge(graphdef, params, rest)
    return _cross_entropy(module.classify(module.encode((pixels - mean) / std)), labels)


def fine_tune(
    reader: Model,
    knowledge: Knowledge,
    share: float = 1.0,
    steps: int = 12,
    rate: float = 1e-4,
    batch: int = 8,
    refresh: bool = False,
    weights: Literal["all", "head"] = "all",
) -> Model:
    """The reader after `steps` steps of Adam on all its weights, or its head's, on a `share` of the labelled releases, without
    augmentation.

    refresh: first re-estimate BatchNorm's statistics, if the reader has such; they stay as they are in training.
    The head takes a third of the time, and a fraction of the time to compile: on a CPU half a minute for EfficientNet-Lite0.
    Raises UserError without labels, for a reader without a head and for one that is no Flax network.
    """
    images, labels = labelled(_flax(reader), knowledge, share)
    if refresh and _statistics(reader.state):
        reader = batch_statistics(reader, knowledge)
    pixels, layer = adapt(images, reader.preprocess), reader.first_layer
    chosen = nnx.Param if weights == "all" else nnx.All(nnx.Param, nnx.PathContains("head"))
    params, rest = nnx.split_state(reader.state, chosen, ...)
    fixed, batches = (rest, layer.mean, layer.std), _draws(knowledge.seed, pixels, labels, batch)
    params = descend(_network_loss, reader.graphdef, params, fixed, batches, steps, rate)
    return _with_state(reader, nnx.merge_state(params, rest))


def _adapted(image: Float[Array, "height width channels"], change: Float[Array, "d d"], patch: tuple[int, int, int]):
    """The image with each patch times (identity + change); what belongs to no patch stays."""
    return image + fold(unfold(image, patch) @ change, patch, image.shape)


def _adapter_loss(patch, change, see, batch):
    images, labels = batch
    return _cross_entropy(jax.vmap(lambda image: see(_adapted(image, change, patch)).logits)(images), labels)


def linear_adapter(reader: Model, knowledge: Knowledge, steps: int = 12, rate: float = 1e-3, batch: int = 8) -> Model:
    """The frozen reader behind one d x d matrix for every patch, the identity at first, trained through it on the labelled releases.
    It can learn the projection on the sensitive subspace.

    Raises UserError without labels, for a reader without a head and for one that is no Flax network.
    """
    images, labels = labelled(_flax(reader), knowledge)
    patch, shape = knowledge.patch, images.shape[1:]
    change = jnp.zeros((int(np.prod(patch)),) * 2)
    batches = _draws(knowledge.seed, images, labels, batch)
    change = descend(_adapter_loss, patch, change, reading(reader, shape), batches, steps, rate)
    return before(jax.jit(jax.vmap(lambda image: _adapted(image, change, patch))), reader, shape)


def _statistics(state: Any) -> bool:
    return bool(jax.tree.leaves(nnx.filter_state(state, nnx.BatchStat)))


@functools.partial(jax.jit, static_argnums=0)
def _of_batch(graphdef, state, mean, std, pixels):
    """Mean and variance of this batch at every BatchNorm, each behind norms by their own batch statistics."""
    module = nnx.merge(graphdef, state)
    module.train()
    for _, norm in nnx.iter_graph(module):
        if isinstance(norm, nnx.BatchNorm):
            norm.momentum = 0.0
    module.encode((pixels - mean) / std)
    return nnx.state(module, nnx.BatchStat)


def batch_statistics(reader: Model, knowledge: Knowledge, weight: float = 1.0, batch: int = 16) -> Model:
    """The reader with BatchNorm's statistics re-estimated on the releases, without labels (Schneider et al. 2020, arXiv 2006.16971).

    weight: of the new statistics beside the old ones, 0 to 1. Releases that fill no whole batch are left out.
    Raises UserError without releases, for a reader without BatchNorm and for one that is no Flax network.
    """
    releases = given(knowledge.releases, "releases")
    if not _statistics(_flax(reader).state):
        raise UserError(f"{reader.name} has no BatchNorm, so there are no statistics to re-estimate")
    pixels, layer = adapt(releases, reader.preprocess), reader.first_layer
    batch = min(batch, len(pixels))
    found = [
        _of_batch(reader.graphdef, reader.state, layer.mean, layer.std, pixels[start : start + batch])
        for start in range(0, len(pixels) - batch + 1, batch)
    ]
    old, rest = nnx.split_state(reader.state, nnx.BatchStat, ...)
    new = jax.tree.map(lambda before, *after: (1 - weight) * before + weight * sum(after) / len(after), old, *found)
    return _with_state(reader, nnx.merge_state(new, rest))


class PatchNetwork(nnx.Module):
    """A small convolutional network whose first layer cuts the image into the release's own patches."""

    def __init__(self, patch: tuple[int, int, int], classes: int, width: int, *, rngs: nnx.Rngs):
        self.stem = nnx.Conv(patch[2], width, patch[:2], patch[:2], padding="VALID", rngs=rngs)
        self.convs = nnx.List([nnx.Conv(width, width, (3, 3), rngs=rngs) for _ in range(3)])
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(3)])
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images: Float[Array, "n height width channels"]) -> Outputs:
        """Logits, and the mean of the last map."""
        x = self.stem(images)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + conv(jax.nn.relu(norm(x)))
        features = jnp.mean(x, axis=(1, 2))
        return Outputs(self.head(features), features)


def _scratch_loss(graphdef, params, scale, batch):
    images, labels = batch
    return _cross_entropy(nnx.merge(graphdef, params)((images - 0.5) / scale).logits, labels)


@functools.partial(jax.jit, static_argnums=0)
def _from_scratch(graphdef, params, scale, images):
    return nnx.merge(graphdef, params)((images - 0.5) / scale)


def from_scratch(
    reader: Model, knowledge: Knowledge, steps: int = 100, width: int = 64, rate: float = 2e-3, batch: int = 16
) -> Model:
    """A `PatchNetwork` trained on the labelled releases, in the reader's place: it has its name and classes, and nothing else of it.

    Raises UserError without labels and for a reader without a head.
    """
    images, labels = labelled(reader, knowledge)
    module = PatchNetwork(knowledge.patch, reader.num_classes, width, rngs=nnx.Rngs(knowledge.seed))
    graphdef, params = nnx.split(module)
    scale = jnp.float32(max(float(images.std()), 1e-3))
    batches = _draws(knowledge.seed, images, labels, batch)
    params = descend(_scratch_loss, graphdef, params, scale, batches, steps, rate)
    forward = functools.partial(_from_scratch, graphdef, params, scale)
    taken = before(lambda pixels: pixels, reader, images.shape[1:])
    return dataclasses.replace(taken, architecture="from_scratch", forward=forward)


_LABELLED = frozenset({"releases", "labels"})


def _fine_tuned(name: str, title: str, share: float) -> Attack:
    choices = ({"rate": 1e-5}, {"rate": 1e-4}, {"rate": 1e-3, "refresh": True}, {"rate": 1e-3, "weights": "head"})
    grid = tuple({"share": share, "steps": 300, "batch": 16, **choice} for choice in choices)
    quick = ({"share": share, "steps": 8, "rate": 1e-3, "weights": "head"},)
    source = "fine-tuning on labelled releases, as NTLBench tries on models"
    return Attack(name, 5, title, "reader", fine_tune, _LABELLED, grid, quick, source)


ATTACKS = (
    _fine_tuned("fine_tune_1", "Fine-tuned on 1 % of the labels", 0.01),
    _fine_tuned("fine_tune_10", "Fine-tuned on 10 % of the labels", 0.1),
    _fine_tuned("fine_tune_100", "Fine-tuned on all labels", 1.0),
    Attack(
        "linear_adapter", 5, "Linear patch adapter", "reader", linear_adapter, _LABELLED,
        tuple({"steps": 300, "rate": rate, "batch": 16} for rate in (1e-4, 1e-3, 1e-2)), ({"steps": 6},),
        "one linear layer of patches before a frozen reader, as in stitching (Bansal et al. 2021, arXiv 2106.07682)",
    ),
    Attack(
        "batch_statistics", 5, "BatchNorm re-estimated", "reader", batch_statistics, frozenset({"releases"}),
        tuple({"weight": weight, "batch": 32} for weight in (0.25, 0.5, 1.0)), ({"weight": 1.0},),
        "Schneider et al. 2020, arXiv 2006.16971",
    ),
    Attack(
        "from_scratch", 5, "Trained from scratch", "reader", from_scratch, _LABELLED,
        tuple({"steps": 3000, "width": width} for width in (64, 128)), ({"steps": 40},),
        "an unauthorized trainer who has only the release and its labels",
    ),
)  # fmt: skip
