"""The first 2,000 test images of Fashion-MNIST, encoded for vit_a: configs/fashion_mnist.py made small.

    python -m ne_jax.main --config=configs/quickstart.py --workdir=runs/quickstart --stage=all

Time: about 2 minutes on 2 CPU cores, and then as many for the attacks. Expect: the figures of configs/fashion_mnist.py within their
intervals. One artefact: 8-bit PNG. Float files, which hold stronger noise, are another one, from a job of their own:
--config.release.formats=float32 in another workdir.
"""

from ne_jax.config import default


def get_config():
    """The full job's settings on fewer images and fewer points of the curve."""
    config = default()
    config.data.limit = 2000
    config.recode.psnr_db = 0.0
    config.recode.fit = True
    config.recode.replace = True  # vit_a's subspace holds most of an image's energy: left in, it could be read
    config.evaluate.curve_psnr_db = (0.0, 10.0, 15.0, 20.0)
    config.evaluate.curve_images = 250
    config.attack.own_images = 16
    config.attack.releases = 64
    config.attack.public = 64
    return config
