"""The shipped resnet_a authorized, whose windows overlap; deep, away from vit_a and vit_b; resnet_b and convnext_a are never looked at.

python -m ne_jax.main --config=configs/fashion_deep.py --workdir=runs/fashion_deep --stage=all

Time: .6 s an image on 2 CPU cores that have other work. Expect (n = 300): 299 within the budget, all predictions of resnet_a
kept; accuracy of vit_a .05, vit_b .05, resnet_b .28, convnext_a .16.
"""

from configs import fashion_mnist


def get_config():
    """The first 300 test images as 8-bit files at 16 dB. The subspace, 128 of 12,544 directions, is for the certificates only."""
    config = fashion_mnist.get_config()
    config.data.limit = 300
    config.batch_size = 64
    config.authorized = "resnet_a"
    config.readers = ("resnet_a", "vit_a", "vit_b", "resnet_b", "convnext_a", "vit_a_tuned")
    config.subspace.rule = "count"
    config.subspace.value = 128
    config.release.formats = ("png8",)
    config.recode.design = "deep"
    config.recode.surrogates = ("vit_a", "vit_b")
    config.recode.psnr_db = 16.05
    config.recode.steps = 30
    config.recode.restore = 32
    config.recode.replace = False
    config.evaluate.curve_psnr_db = ()
    config.evaluate.baseline_images = 64
    return config
