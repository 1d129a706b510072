"""What recoding an image costs, in forward passes of the authorized model."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ne_jax.errors import UserError
from ne_jax.stages.artefact import context
from ne_jax.stages.job import Job


def cost(job: Job) -> float:
    """Forward passes of the authorized model that one image takes, by the compiler's count of operations; 0 for designs that run no
    network. All steps that a design may take count; the one look at the clean image does not.

    Raises UserError above `recode.max_passes`.
    """
    return max(_passes(job, name) for name in {job.design(name): name for name in job.config.release.formats}.values())


def _passes(job: Job, release_format: str) -> float:
    design = job.design(release_format)
    if design.gradients is None:
        return 0.0
    settings, shape, seen = job.config.recode, job.authorized.preprocess.image_shape, context(job, release_format)
    gradients, own = design.gradients(settings), seen.authorized()
    operations = gradients.surrogates * sum(_operations(model, shape, True) for model in seen.surrogates())
    if gradients.authorized:
        operations += gradients.authorized * sum(_operations(model, shape, True) for model in own)
    passes = operations / _operations(own[0], shape, False)
    if 0 < settings.max_passes < passes:
        raise UserError(
            f"recode.design {design.name} takes {passes:.0f} forward passes of {job.authorized.name} an image, more than "
            f"recode.max_passes={settings.max_passes:g}; lower recode.steps, or raise it"
        )
    return passes


def _operations(reader: Any, shape: tuple[int, ...], gradient: bool) -> float:
    """Floating-point operations of one look at an image, or of its gradient. The CPU's compiler counts: those of GPUs and TPUs do not."""
    leaves, structure = jax.tree.flatten(reader)
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    leaves = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]  # on no device

    def look(image, leaves):
        logits, features = structure.unflatten(leaves)(image)
        return jnp.sum(features) + (0 if logits is None else jnp.sum(logits))

    run = jax.grad(look) if gradient else look
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.jit(run).lower(image, leaves).cost_analysis()["flops"]
