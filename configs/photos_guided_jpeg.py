"""configs/photos_guided.py with JPEG in the loop: the authorized model reads the files also after JPEG of quality 75.

bash scripts/install.sh requirements.txt requirements-zoo.txt
python -m ne_jax.main --config=configs/photos_guided_jpeg.py --workdir=runs/photos_guided_jpeg --stage=all

Time: 4 s an image on 2 CPU cores. Expect (n = 200, 24.2 dB), before and after JPEG 75: class token 1.0000 and .9916; Lite0 agrees on
2.5 % and 4 %, Lite1 on 32 % and 32.5 %.
"""

from configs import photos_guided


def get_config():
    """350 of 588 directions at 24 dB; every step also brings down what DINOv2's first layer sees after JPEG."""
    config = photos_guided.get_config()
    config.recode.jpeg_quality = 75
    config.recode.steps = 36
    return config
