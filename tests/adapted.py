"""What tests of foreign networks share: rules, images as a network wants them, and what an adapted first layer must give."""

from __future__ import annotations

import numpy as np

import ne_jax
from ne_jax.data.preprocess import Preprocess
from ne_jax.models.foreign.adapted_model import Adapted
from tests.oracles import close, torch

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
RULES = Preprocess(32, MEAN, STD)


def normalised(pixels):
    """A tensor, channels first."""
    return torch.from_numpy(((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2).copy())


def responds(adapted: Adapted, pixels, truth, bias):
    """The layer that the registry will build gives the network's own numbers, bias added."""
    layer = ne_jax.FirstLayer(adapted.first_layer_kernel, adapted.strides, adapted.padding, adapted.mean, adapted.std)
    ours = np.stack([np.asarray(layer.response(image)) for image in pixels])
    close(ours + (0 if bias is None else bias.detach().numpy()), truth, 1e-5)
