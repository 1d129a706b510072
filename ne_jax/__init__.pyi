from .core.bounds import certify, compare_logits, failure_upper_bound, reader_deviation, spectral_gap
from .core.first_layer import FirstLayer, stacked
from .core.jacobian import jacobian_spectrum
from .core.rules import low_sensitivity, strongest_psnr_db
from .core.spectrum import Spectrum, spectrum
from .core.subspace import Subspace
from .errors import UserError
from .models.loading import load_model
from .recoding.contrastive import contrastive, zoo_gain
from .recoding.deep import Deep, deep_recode
from .recoding.guided import Guide, guided_recode
from .recoding.subspace_noise import isotropic, recode

__all__ = [
    "Deep", "FirstLayer", "Guide", "Spectrum", "Subspace", "UserError", "certify", "compare_logits", "contrastive", "deep_recode",
    "failure_upper_bound", "guided_recode", "isotropic", "jacobian_spectrum", "load_model", "low_sensitivity", "reader_deviation",
    "recode", "spectral_gap", "spectrum", "stacked", "strongest_psnr_db", "zoo_gain",
]  # fmt: skip
