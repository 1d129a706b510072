"""Non-transferable examples in JAX: images that one authorized model reads and others do not (arXiv 2510.10982)."""

import lazy_loader

# The one place: pyproject.toml reads it here, and so does a clone that was not installed.
__version__ = "0.1.0"

# Where the public names are. Each is imported when it is first asked for, so that nobody waits for what is not used.
_PLACES = {
    "core.bounds": ["certify", "compare_logits", "failure_upper_bound", "reader_deviation", "spectral_gap"],
    "core.first_layer": ["FirstLayer", "stacked"],
    "core.jacobian": ["jacobian_spectrum"],
    "core.rules": ["low_sensitivity", "strongest_psnr_db"],
    "core.spectrum": ["Spectrum", "spectrum"],
    "core.subspace": ["Subspace"],
    "errors": ["UserError"],
    "models.loading": ["load_model"],
    "recoding.contrastive": ["contrastive", "zoo_gain"],
    "recoding.hardened": ["hardened"],
    "recoding.deep": ["Deep", "deep_recode"],
    "recoding.guided": ["Guide", "guided_recode"],
    "recoding.subspace_noise": ["isotropic", "recode"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_PLACES)
