"""One image, one artefact: everything that decides an image's pixels, beside the image itself and the secret (contracts 2 and 4)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from ne_jax.core.pixels import psnr_db, to_float
from ne_jax.models.as_reader import Reading, reading
from ne_jax.models.model import Model
from ne_jax.recoding.design import Context, Recipe
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.noise_keys import noise_keys, release_key
from ne_jax.release.formats import FORMATS
from ne_jax.stages.job import Job

_ELSEWHERE = (
    "surrogates",
    "fit",
)  # of a design's settings: these stand as checkpoints, and this one is about errors only


def decides(job: Job, release_format: str, **changes: Any) -> dict[str, Any]:
    """All of it, by name. Formats of one number type have the same. changes: other settings of the section `recode`, such as psnr_db."""
    settings, design = dataclasses.replace(job.config.recode, **changes), job.design(release_format)
    return {
        "authorized": [_identity(model) for model in (job.authorized, *job.also)],
        "subspace": [job.config.subspace.rule, job.config.subspace.value, job.space.num_directions],
        "design": design.name if design.generation == 1 else f"{design.name} {design.generation}",
        "settings": {name: getattr(settings, name) for name in design.settings if name not in _ELSEWHERE},
        "surrogates": [_identity(model) for model in job.surrogates] if design.needs_surrogates else [],
        "replace": settings.replace,
        "psnr_db": float(settings.psnr_db),
        "numbers": np.dtype(FORMATS[release_format].dtype).name,
    }


def _identity(model: Model) -> list[Any]:
    return [model.sha256, dataclasses.asdict(model.preprocess)]


def artefact(job: Job, release_format: str, **changes: Any) -> bytes:
    """The SHA-256 of `decides`."""
    return hashlib.sha256(json.dumps(decides(job, release_format, **changes), sort_keys=True).encode()).digest()


def keys_of(job: Job, release_format: str, pixels: np.ndarray, **changes: Any) -> Key[Array, " n"]:
    """The noise key of each clean image, uint8, in the artefact of a format."""
    return noise_keys(job.secret(), artefact(job, release_format, **changes), pixels)


def context(job: Job, release_format: str) -> Context:
    """What designs may look at beside an image, in the artefact of a format."""
    own, shape = (job.authorized, *job.also), job.authorized.preprocess.image_shape
    return Context(
        job.space,
        layers=tuple(model.first_layer for model in own),
        surrogate_layers=tuple(model.first_layer for model in job.surrogates),
        authorized=functools.partial(_readings, own, shape),
        surrogates=functools.partial(_readings, job.surrogates, shape),
        settings=job.config.recode,
        threshold=job.config.subspace.value,
        release_key=lambda: release_key(job.secret(), artefact(job, release_format)),
    )


def _readings(models: Sequence[Model], shape: tuple[int, int, int]) -> tuple[Reading, ...]:
    return tuple(reading(model, shape) for model in models)


def recipe(job: Job, release_format: str) -> Recipe:
    """How the images of a format are recoded."""
    design, settings = job.design(release_format), job.config.recode
    directions, dtype = design.directions(context(job, release_format)), FORMATS[release_format].dtype
    return Recipe(design, directions, settings.psnr_db, dtype, settings.replace, settings.rounds)


def recode_job(job: Job, release_format: str, pixels: np.ndarray, **changes: Any) -> np.ndarray:
    """The NEs of clean `pixels` as `release_format` stores them, by the job's recipe with `changes`, such as another psnr_db, and the
    noise that goes with it."""
    keys = keys_of(job, release_format, pixels, **changes)
    return np.asarray(encode_batch(keys, pixels, dataclasses.replace(recipe(job, release_format), **changes)).stored)


def realised_psnr_db(clean: Array | np.ndarray, stored: Array | np.ndarray) -> np.ndarray:
    """PSNR in dB of each stored image (floating point or uint8) against its clean uint8 pixels."""
    return np.asarray(jax.vmap(psnr_db)(to_float(stored) - to_float(clean)))
