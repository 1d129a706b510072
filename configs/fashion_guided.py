"""The shipped vit_a authorized, guided away from resnet_a and vit_b; resnet_b and convnext_a are never looked at.

python -m ne_jax.main --config=configs/fashion_guided.py --workdir=runs/fashion_guided --stage=all

Time: .3 s an image on 2 CPU cores that have other work. Expect (n = 500): vit_a keeps 500 of 500 predictions; accuracy of resnet_a .03,
vit_b .07, resnet_b .06, convnext_a .16.
"""

from configs import fashion_mnist


def get_config():
    """The first 500 test images as 8-bit files at 16 dB."""
    config = fashion_mnist.get_config()
    config.data.limit = 500
    config.batch_size = 64
    config.readers = ("vit_a", "resnet_a", "vit_b", "resnet_b", "convnext_a", "vit_a_tuned")
    config.release.formats = ("png8",)
    config.recode.design = "guided"
    config.recode.surrogates = ("resnet_a", "vit_b")
    config.recode.psnr_db = 16.05
    config.recode.replace = False
    config.evaluate.curve_psnr_db = ()
    config.evaluate.baseline_images = 64
    return config
