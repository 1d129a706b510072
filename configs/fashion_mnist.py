"""All 10,000 test images of Fashion-MNIST, encoded for vit_a: the figures of the README.

    python -m ne_jax.main --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist --stage=all

Time: TIME on 2 CPU cores. Expect: vit_a reads both releases as it reads clean images; vit_b, resnet_a and resnet_b are near chance.
Two releases: float32 files at 0 dB, noise as large as the pixel range, and 8-bit PNG at the strongest that fits into [0, 1].
"""

from ne_jax.config import default


def get_config():
    """Defaults, with the strongest PNG that fits."""
    config = default()
    config.recode.psnr_db = 0.0
    config.recode.fit = True
    config.recode.replace = True  # vit_a's subspace holds most of an image's energy: left in, it could be read
    return config
