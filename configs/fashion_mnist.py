"""All 10,000 test images of Fashion-MNIST, encoded for vit_a: the figures of the README.

    python -m ne_jax.main --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist --stage=all

Time: 6 minutes on 2 CPU cores for both. Expect: vit_a keeps 88.9 % on both; vit_b 11.3 and 10.7 %, resnet_a 10.0 and 10.6 %, resnet_b
12.0 and 10.0 % (float32 and png8); vit_a_tuned 88 %.
8-bit PNG at the strongest that fits into [0, 1]. Float32 files at 0 dB, noise as large as the pixel range, are another artefact, from a
job of their own: --config.release.formats=float32 in another workdir.
"""

from ne_jax.config import default


def get_config():
    """Defaults, with the strongest PNG that fits."""
    config = default()
    config.recode.psnr_db = 0.0
    config.recode.fit = True
    config.recode.replace = True  # vit_a's subspace holds most of an image's energy: left in, it could be read
    return config
