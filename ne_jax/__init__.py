"""Non-transferable examples in JAX: images that one authorized model reads and others do not (arXiv 2510.10982)."""

from ne_jax.bounds import certify, compare_logits, failure_upper_bound, reader_deviation, spectral_gap
from ne_jax.errors import UserError
from ne_jax.first_layer import FirstLayer
from ne_jax.recode import isotropic, recode
from ne_jax.spectrum import Spectrum, spectrum
from ne_jax.subspace import Subspace, low_sensitivity, strongest_psnr_db

__all__ = [
    "FirstLayer", "Spectrum", "Subspace", "UserError", "certify", "compare_logits", "failure_upper_bound", "isotropic",
    "load_model", "low_sensitivity", "reader_deviation", "recode", "spectral_gap", "spectrum", "strongest_psnr_db",
]  # fmt: skip


def __getattr__(name: str):
    """`load_model` on demand, so that the core alone never imports Flax."""
    if name == "load_model":
        from ne_jax.models.loading import load_model

        return load_model
    raise AttributeError(f"module ne_jax has no attribute {name}")
