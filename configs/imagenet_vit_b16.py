"""ImageNet validation, ViT-B/16 authorized, the other backbones of the paper's code as readers.

    python -m ne_jax.main --config=configs/imagenet_vit_b16.py --workdir=runs/imagenet_vit_b16 --stage=all

Data: data/imagenet/val with one folder a class (n01440764, ...), or --config.data.kind=tfds --config.data.path=imagenet2012
--config.data.split=validation (prepared as array_record). Checkpoints: ids of the Hugging Face Hub, fetched if huggingface_hub is
installed; for a folder or file of yours: --config.models.vit_b16.checkpoint=PATH. Swin runs through torch and transformers
(requirements-zoo.txt) and needs a folder.
Try it first with --config.data.limit=500. All 50,000 images as float32 take 30 GB.

Published clean accuracy: ResNet-50 80.3 % (the NE paper's), DeiT-B 81.8 % (arXiv 2012.12877), ConvNeXt-T 82.1 % and -B 83.8 %
(arXiv 2201.03545), Swin-B 83.5 % (arXiv 2103.14030). The paper's claim at 0 dB: the authorized model keeps its accuracy, others
fall to about 0.1 %.
Time: not run here, for lack of ImageNet. On 2 CPU cores about 3 images a second go through ViT-B/16, so 500 images through the six
models and all conditions take about an hour and a half; a GPU takes minutes.
"""

from ne_jax.config import default

MODELS = {
    "vit_b16": {"architecture": "vit_b16", "checkpoint": "google/vit-base-patch16-224"},
    "resnet50": {"architecture": "resnet50", "checkpoint": "microsoft/resnet-50"},
    "deit_b16": {"architecture": "deit_b16", "checkpoint": "facebook/deit-base-patch16-224"},
    "convnext_t": {"architecture": "convnext_t", "checkpoint": "facebook/convnext-tiny-224"},
    "convnext_b": {"architecture": "convnext_b", "checkpoint": "facebook/convnext-base-224"},
    "swin_b": {
        "architecture": "torch:transformers/checkpoints/swin-base-patch4-window7-224",
        "checkpoint": None,
    },
}


def get_config():
    """The paper's strengths, from noise as large as the pixel range (0 dB) up."""
    config = default()
    config.authorized = "vit_b16"
    config.readers = tuple(MODELS)
    config.models = MODELS
    config.data.kind = "folder"
    config.data.path = "data/imagenet/val"
    config.data.split = "validation"
    config.batch_size = 50
    config.subspace.rule = "relative"
    config.subspace.value = 1e-2
    config.release.formats = ("float32",)  # as the paper; png8 is another artefact, for a workdir of its own
    config.recode.psnr_db = 0.0
    config.recode.fit = True
    config.evaluate.curve_psnr_db = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
    config.evaluate.curve_images = 500
    return config
