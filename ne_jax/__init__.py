"""Non-transferable examples in JAX: images that one authorized model reads and others do not (arXiv 2510.10982)."""

from ne_jax.core.bounds import certify, compare_logits, failure_upper_bound, reader_deviation, spectral_gap
from ne_jax.core.first_layer import FirstLayer, stacked
from ne_jax.core.jacobian import jacobian_spectrum
from ne_jax.core.rules import low_sensitivity, strongest_psnr_db
from ne_jax.core.spectrum import Spectrum, spectrum
from ne_jax.core.subspace import Subspace
from ne_jax.errors import UserError
from ne_jax.recoding.contrastive import contrastive, zoo_gain
from ne_jax.recoding.deep import Deep, deep_recode
from ne_jax.recoding.guided import Guide, guided_recode
from ne_jax.recoding.subspace_noise import isotropic, recode

__all__ = [
    "Deep", "FirstLayer", "Guide", "Spectrum", "Subspace", "UserError", "certify", "compare_logits", "contrastive", "deep_recode",
    "failure_upper_bound", "guided_recode", "isotropic", "jacobian_spectrum", "load_model", "low_sensitivity", "reader_deviation",
    "recode", "spectral_gap", "spectrum", "stacked", "strongest_psnr_db", "zoo_gain",
]  # fmt: skip


def __getattr__(name: str):
    """`load_model` on demand, so that the core alone never imports Flax."""
    if name == "load_model":
        from ne_jax.models.loading import load_model

        return load_model
    raise AttributeError(f"module ne_jax has no attribute {name}")
