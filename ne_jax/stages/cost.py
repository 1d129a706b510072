"""What recoding an image costs, in forward passes of the authorized model."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ne_jax.errors import UserError
from ne_jax.models.as_reader import reading
from ne_jax.recoding.deep import SOLVER_STEPS
from ne_jax.stages.job import Job


def cost(job: Job) -> float:
    """Forward passes of the authorized model that one image takes, by the compiler's count of operations; 0 for designs that run no
    network. All steps that deep recoding may take count; the one look at the clean image does not.

    Raises UserError above `recode.max_passes`.
    """
    settings = job.config.recode
    if settings.design not in ("guided", "deep"):
        return 0.0
    shape = job.authorized.preprocess.image_shape
    one, *also = (reading(model, shape) for model in (job.authorized, *job.also))
    gradients = sum(_operations(reading(model, shape), shape, True) for model in job.surrogates) * settings.steps
    if settings.design == "deep":
        own = sum(_operations(model, shape, True) for model in (one, *also))
        gradients += own * (settings.steps + (settings.restore + 1) * (1 + SOLVER_STEPS))
    passes = gradients * (settings.restarts + 1) / _operations(one, shape, False)
    if 0 < settings.max_passes < passes:
        raise UserError(
            f"recode.design {settings.design} takes {passes:.0f} forward passes of {job.authorized.name} an image, more than "
            f"recode.max_passes={settings.max_passes:g}; lower recode.steps, or raise it"
        )
    return passes


def _operations(reader: Any, shape: tuple[int, ...], gradient: bool) -> float:
    """Floating-point operations of one look at an image, or of its gradient."""
    leaves, structure = jax.tree.flatten(reader)

    def look(image, leaves):
        logits, features = structure.unflatten(leaves)(image)
        return jnp.sum(features) + (0 if logits is None else jnp.sum(logits))

    run = jax.grad(look) if gradient else look
    return jax.jit(run).lower(jax.ShapeDtypeStruct(shape, jnp.float32), leaves).cost_analysis()["flops"]
