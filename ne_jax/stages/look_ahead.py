"""Before a job takes its time: how large its releases get, what an image costs, and what strength fits, from a sample."""

from __future__ import annotations

import jax
import numpy as np
from absl import logging

from ne_jax.core.pixels import to_float
from ne_jax.errors import UserError
from ne_jax.recoding.subspace_noise import white_noise
from ne_jax.release.formats import FORMATS
from ne_jax.release.writing import check_finite, estimate, free_bytes, to_stored
from ne_jax.stages.artefact import keys_of, realised_psnr_db, recode_job
from ne_jax.stages.cost import cost
from ne_jax.stages.job import Job

# A boxed sample that stays this much weaker than asked, in dB, says that the strength does not fit.
_REACH_DB = 0.1
_WARN_SHARE = 0.95  # of the free space
FEW = 4  # images that are looked at ahead where each takes many passes of networks


def look_ahead(job: Job, formats: list[str]) -> None:
    """Tell how large the releases get and what strength fits, from a sample. Raises UserError if the strength asked does not."""
    passes = cost(job)
    if passes:
        print(f"{job.config.recode.design}: {passes:.0f} forward passes of {job.authorized.name} an image")
    clean = job.sample_pixels()[: FEW if passes else None]
    shape, needed = job.authorized.preprocess.image_shape, 0
    for name in formats:
        design = job.design(name)
        stored = (_white_noise if design.runs_networks else recode_job)(job, name, clean)
        check_finite(stored, name)
        if "fit" in design.settings and not job.config.recode.fit:
            _check_reach(job, realised_psnr_db(clean, stored))
        size = estimate(name, shape, len(job.source.names), stored)
        needed += size
        print(f"{name}: about {_told(size)} for {len(job.source.names):,} images")
    free = free_bytes(job.workdir)
    if needed > free * _WARN_SHARE:
        logging.warning(
            "%s free in %s, about %s needed: it may fill up; what is written then is kept",
            _told(free), job.workdir, _told(needed),
        )  # fmt: skip


def _white_noise(job: Job, release_format: str, clean: np.ndarray) -> np.ndarray:
    """Stored images that take about as many bytes as NEs of the strength asked, where these take many passes of networks each."""
    keys, box = keys_of(job, release_format, clean), FORMATS[release_format].dtype == np.uint8
    noisy = jax.vmap(lambda key, image: white_noise(key, image, job.config.recode.psnr_db, box=box))(
        keys, to_float(clean)
    )
    return to_stored(np.asarray(noisy), release_format)


def _told(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _check_reach(job: Job, realised: np.ndarray) -> None:
    """Raise UserError if `recode.psnr_db` does not fit into [0, 1]."""
    asked = job.config.recode.psnr_db
    if np.median(realised) > asked + _REACH_DB:
        raise UserError(
            f"recode.psnr_db={asked:g} cannot be reached inside [0, 1]: the strongest that fits is {np.median(realised):.1f} dB "
            f"(median of {len(realised)} images, {realised.min():.1f} to {realised.max():.1f}); ask for {np.ceil(realised.max()):g} "
            "or more, set recode.fit=True to take the strongest of each image, or release float32 only"
        )
