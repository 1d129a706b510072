"""EfficientNet-Lite0 authorized on photographs, deep: its windows overlap, so no direction of an image is null. Surrogate: Lite1.

bash scripts/install.sh requirements.txt requirements-zoo.txt
python -m ne_jax.main --config=configs/photos_deep.py --workdir=runs/photos_deep --stage=all

Time: half an hour to encode on 2 CPU cores. Expect (n = 204): 203 crops within the budget, all their predictions kept, 1 reported and left
out; Lite1 agrees on 0 % [0, 1.9]; DINOv2's class token at .831 [.808, .855], under Gaussian noise of that strength at .932.
"""

from configs import photos


def get_config():
    """At 24 dB, 17 crops of each photograph. The subspace, the 86 directions of 150,528 below .03 of sigma_1, is for the certificates'
    bound only."""
    config = photos.get_config()
    config.authorized = "efficientnet_lite0"
    config.data.limit = 204
    config.subspace.value = 86
    config.release.formats = ("png8",)
    config.recode.design = "deep"
    config.recode.surrogates = ("efficientnet_lite1",)
    config.recode.psnr_db = 24.05
    config.recode.steps = 20
    config.recode.logit_gap = 0.3
    config.evaluate.curve_psnr_db = ()
    return config
