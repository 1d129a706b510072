"""Stage analyse: why the release works, or does not: spectra of first layers and of data, and how they lie to each other.

What the paper on non-transferable examples explains them by, measured on the job's models and images with baselines, and its link
from spectra to deviation put to the test.
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float32

from ne_jax import files
from ne_jax.core.pixels import ByteImages, from_bytes, to_float
from ne_jax.core.rules import low_sensitivity
from ne_jax.core.spectrum import spectrum
from ne_jax.data.preprocess import adapt
from ne_jax.errors import UserError
from ne_jax.measure import analysis as items
from ne_jax.measure.analysis import Subject
from ne_jax.measure.analysis_records import Analysis, Depths
from ne_jax.models import depth
from ne_jax.models.model import Model
from ne_jax.stages.job import Job

ANALYSIS = "analysis.json"
_LARGE = 50_000  # numbers of an image above which a Jacobian's products are worth saving


def run(
    job: Job,
    *,
    images: int = 64,
    bases: int = 8,
    draws: int = 32,
    depths: int = 3,
    jacobian_images: int = 2,
    directions: int = 8,
) -> Analysis:
    """Write analysis.json and return what was found.

    images: of the source, at most 64. bases: random orthonormal bases that alignment is compared with, at least one. draws: noise images
    that a gain is measured on. depths: how many, from the first layer to the last block, on `jacobian_images` images with `directions`
    singular values each; one image and two values where images are large.
    """
    clean = job.sample_pixels()[:images]
    subjects = _subjects(job, clean)
    rows = items.pair_rows(subjects, draws)
    found = Analysis(
        authorized=job.authorized.name,
        rule=f"{job.config.subspace.rule} {job.config.subspace.value:g}",
        images=len(clean),
        without_subspace={each.model.name: each.reason for each in subjects if each.reason},
        spectra={each.model.name: items.spectrum_row(each) for each in subjects},
        alignment={each.model.name: items.alignment_row(each.model, from_bytes(clean), bases) for each in subjects},
        pairs=rows,
        preparations=items.preparation_rows(job.authorized, job.space, clean),
        depths=_depths(job, clean, depths, jacobian_images, directions),
        link=items.link_rows(subjects, rows),
    )
    files.write_json(job.workdir / ANALYSIS, found)
    return found


def _subjects(job: Job, clean: ByteImages) -> list[Subject]:
    """The authorized models first, then the readers, each once."""
    models = {model.name: model for model in (job.authorized, *job.also)}
    models |= {reader.name: reader for reader in job.readers() if reader.name not in models}
    return [_subject(job, model, from_bytes(clean)) for model in models.values()]


def _subject(job: Job, model: Model, images: Float32[np.ndarray, "n height width channels"]) -> Subject:
    rule, layer, found = job.config.subspace, model.first_layer, None
    try:
        found = spectrum(layer, model.preprocess.image_shape)
        if model.name == job.authorized.name:
            return Subject(model, found, job.space)
        seen = jax.vmap(layer.response)(adapt(images, model.preprocess))
        norm = float(np.median(np.linalg.norm(np.asarray(seen).reshape(len(seen), -1), axis=1)))
        space = low_sensitivity(found, rule.rule, rule.value, psnr_db=job.config.recode.psnr_db, feature_norm=norm)
    except UserError as error:
        return Subject(model, found, None, str(error))
    return Subject(model, found, space)


def _depths(job: Job, clean: ByteImages, depths: int, images: int, directions: int) -> Depths:
    large = clean[0].size > _LARGE
    images, directions = (1, min(directions, 2)) if large else (images, directions)
    try:
        outputs = depth.outputs_by_depth(job.authorized)
    except UserError as error:
        return Depths(left_out=str(error))
    chosen = to_float(clean[:images])
    return Depths(rows=items.depth_rows(outputs, chosen, job.space, depths, directions, 24 if large else 48))
