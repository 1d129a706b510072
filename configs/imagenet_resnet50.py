"""ImageNet validation, ResNet-50 authorized, the other backbones of the paper's code as readers.

    python -m ne_jax.main --config=configs/imagenet_resnet50.py --workdir=runs/imagenet_resnet50 --stage=all

Data, checkpoints, readers, time and published clean accuracy: see configs/imagenet_vit_b16.py. ResNet-50 itself: 80.3 % published with the
NE paper, 80.1 % of them claimed at 0 dB.

That claim is about unfolded 7x7 windows, which the authors' code feeds to the network in the place of an image. Here the release is an
image, and windows overlap: only directions of whole images count, and none of them is exactly null (a random stem of this shape has
sigma_min / sigma_1 = .33, the trained one of EfficientNet-Lite0 .03). So take the strength curve as the answer and not the first
row: at 0 dB the authorized model will fail too. `--stage=inspect` tells which strength costs 1 % of the first layer's response.
"""

import importlib.util
import pathlib

_SHARED = importlib.util.spec_from_file_location("vit", pathlib.Path(__file__).parent / "imagenet_vit_b16.py")
_VIT = importlib.util.module_from_spec(_SHARED)
_SHARED.loader.exec_module(_VIT)


def get_config():
    """The fifth of all directions that the stem sees least, at the paper's strengths."""
    config = _VIT.get_config()
    config.authorized = "resnet50"
    config.subspace.rule = "count"
    config.subspace.value = 30_000.0
    return config
