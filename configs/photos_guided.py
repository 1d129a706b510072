"""DINOv2 ViT-S/14 authorized on photographs, guided: one surrogate, EfficientNet-Lite0; Lite1 is never looked at.

bash scripts/install.sh requirements.txt requirements-zoo.txt
python -m ne_jax.main --config=configs/photos_guided.py --workdir=runs/photos_guided --stage=all

Time: half an hour on 2 CPU cores that have other work (3 s an image). Expect (first 204 crops, 24.05 dB): class token cosine at least
.9996, Lite0 agrees on 0 %, Lite1 on 12.3 % [8.4 %, 17.5 %]; under white noise of that strength .935, 45 % and 53 %.
"""

from configs import photos


def get_config():
    """350 of 588 directions, sigma / sigma_1 up to .02, at 24 dB."""
    config = photos.get_config()
    config.subspace.value = 350
    config.release.formats = ("png8",)
    config.recode.design = "guided"
    config.recode.surrogates = ("efficientnet_lite0",)
    config.recode.psnr_db = 24.05
    config.recode.steps = 24
    config.evaluate.curve_psnr_db = ()
    return config
