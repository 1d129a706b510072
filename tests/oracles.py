"""The published implementations that ports are compared with: torch, torchvision, timm, transformers. Random weights, every leaf
random, so that no leaf can be forgotten, swapped or read in the wrong order without a difference."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

import numpy as np
import torch

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)  # workers run side by side
# Order-one activations: what norms multiply with, what they add, residual branches that do not grow the stream too fast.
_BRANCH = ("gamma", "layer_scale", "lambda")


@contextlib.contextmanager
def _without_compiled_operators() -> Iterator[None]:
    """torchvision's wheels on PyPI are built for CUDA: their compiled part (detection only) does not load beside a CPU build of
    torch, and importing torchvision then fails when it describes these operators. Leaves the description out."""
    register = torch.library.register_fake

    def skip(name, *args, **kwargs):
        return (lambda function: function) if name.startswith("torchvision::") else register(name, *args, **kwargs)

    torch.library.register_fake = skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.library.register_fake = register


with _without_compiled_operators():
    import timm
    import torchvision
    import transformers

__all__ = ["close", "randomise", "timm", "torch", "torchvision", "transformers"]


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every leaf of `module`, buffers too, random; activations stay of order one. Returns `module` in eval mode."""
    generator = np.random.default_rng(seed)
    for name, leaf in module.state_dict().items():
        if not leaf.is_floating_point():
            continue
        last, shape = name.rsplit(".", 1)[-1], tuple(leaf.shape)
        normal = generator.standard_normal(shape)
        if last == "running_var" or (last == "weight" and leaf.ndim == 1):
            value = generator.uniform(0.5, 1.5, shape)
        elif any(part in name for part in _BRANCH):
            value = generator.uniform(0.2, 0.6, shape)
        elif leaf.ndim >= 2 and last.endswith("weight"):
            value = normal / np.sqrt(np.prod(shape[1:]))
        else:
            value = 0.2 * normal
        leaf.copy_(torch.from_numpy(np.asarray(value, np.float32)))
    return module.eval()


def close(ours, theirs, limit: float) -> None:
    """Assert max |ours - theirs| <= limit x standard deviation of theirs; `theirs` must be neither constant nor huge."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    spread = float(theirs.std())
    assert 1e-2 < spread < 1e2, f"activations are not of order one: {spread}"
    found = float(np.abs(ours - theirs).max()) / spread
    print(f"differs by {found:.1e} standard deviations, limit {limit:.0e}, n = {len(ours)}")  # pytest -rP shows it
    assert found <= limit, f"differs by {found:.2e} standard deviations, limit {limit:.0e}"
