"""The ImageNet configs, on checkpoints in the publishers' real format with random numbers, and a small tree like ImageNet's."""

import contextlib
import importlib.util
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from ne_jax.config import checked
from ne_jax.release import manifest
from ne_jax.stages import check, encode, evaluate
from ne_jax.stages.job import open_job
from tests.oracles import torch, transformers

CONFIGS = pathlib.Path(__file__).parent.parent.parent / "configs"
SWIN = dict(embed_dim=24, depths=[1, 1], num_heads=[2, 2], num_labels=1000)  # small: `from_torch` does not care


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """1,000 class folders as ImageNet's; the first six have an image, of odd sizes, one grey."""
    root = tmp_path_factory.mktemp("imagenet") / "val"
    generator = np.random.default_rng(0)
    for number in range(1000):
        folder = root / f"n{10_000_000 + 7 * number:08d}"
        folder.mkdir(parents=True)
        shape = [(48, 64, 3), (65, 50), (300, 231, 3)][number % 3]
        pixels = generator.integers(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(folder / f"ILSVRC2012_val_{number:08d}.JPEG", quality=50)
    return root


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders as the Hub has them, of the sizes that the configs name; only what the tests load is written."""
    root, t = tmp_path_factory.mktemp("checkpoints"), transformers
    torch.manual_seed(0)
    made = {
        "vit_b16": t.ViTForImageClassification(t.ViTConfig(num_labels=1000)),
        "resnet50": t.ResNetForImageClassification(t.ResNetConfig(num_labels=1000)),
        "convnext_t": t.ConvNextForImageClassification(t.ConvNextConfig(num_labels=1000)),
        "swin_b": t.SwinForImageClassification(t.SwinConfig(**SWIN)),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
    t.ViTImageProcessor().save_pretrained(root / "swin_b")
    return root


@contextlib.contextmanager
def job_of(config_name, tree, checkpoints, workdir, readers, changes=()):
    spec = importlib.util.spec_from_file_location(config_name, CONFIGS / f"{config_name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    models = {name: dict(config.models[name]) for name in readers}
    for name, entry in models.items():
        if entry["architecture"].startswith("torch:"):
            entry["architecture"] = f"torch:transformers/{checkpoints / name}"
        else:
            entry["checkpoint"] = str(checkpoints / name)
    config.models, config.readers = ConfigDict(models), readers
    leaves = {"data.path": str(tree), "data.limit": 3, "batch_size": 3, "evaluate.curve_psnr_db": ()}
    leaves |= {"release.formats": ("float32", "png8"), "release.again": True}
    config.update_from_flattened_dict(leaves | {"evaluate.baseline_images": 1} | dict(changes))
    job = open_job(checked(config), workdir)
    with job.lock:
        yield job


@pytest.mark.slow  # test_photographs.py goes the same way with published weights of real size
def test_vit_b16_from_checkpoint_to_accuracy(tree, checkpoints, tmp_path):
    """The whole way, real sizes and formats: labels from 1,000 class folders, readers of four families, one of another framework."""
    readers = ("vit_b16", "resnet50", "convnext_t", "swin_b")
    with job_of("imagenet_vit_b16", tree, checkpoints, tmp_path / "run", readers) as job:
        assert len(job.source.classes) == 1000 and job.authorized.architecture == "vit_b16"
        assert encode.run(job) == 0
        records = evaluate.run(job)
    assert {(row.reader, row.metric) for row in records} == {
        (reader, metric) for reader in readers for metric in ("accuracy", "agreement", "feature_cosine")
    }
    rows = [r for r in records if (r.metric, r.condition) == ("feature_cosine", "ne")]
    cosines = {(row.reader, row.release_format): row.value for row in rows}
    # Random networks: argmax hangs on a hair, features do not. No direction is exactly null here.
    assert min(cosines["vit_b16", "float32"], cosines["vit_b16", "png8"]) > 0.99
    assert max(cosines["convnext_t", "float32"], cosines["swin_b", "float32"]) < 0.7
    kept = manifest.read_manifest(job.release_dir("float32"))
    assert kept.image_shape == (224, 224, 3) and kept.psnr_db_realised.median == pytest.approx(0, abs=0.01)


@pytest.mark.slow  # test_photographs.py does the same with an EfficientNet, whose stem overlaps, too
def test_resnet50_from_checkpoint_to_certificates(tree, checkpoints, tmp_path):
    """A stem whose windows overlap, at real size: the release is of images, its bound holds, and the weak end of the curve is kept
    better than white noise of the same strength would."""
    changes = {"recode.psnr_db": 20.0}
    with job_of("imagenet_resnet50", tree, checkpoints, tmp_path / "run", ("resnet50", "vit_b16"), changes) as job:
        assert job.space.num_directions in (29_999, 30_000)  # a direction and its conjugate stay together
        assert job.space.total_directions == 224 * 224 * 3
        assert encode.run(job) == 0
        summary = check.run(job)
        assert all(found.bound_holds == found.n == 3 and found.deviation == {} for found in summary.values())
        records = evaluate.run(job)
    rows = [r for r in records if (r.metric, r.reader) == ("feature_cosine", "resnet50")]
    cosines = {(row.condition, row.release_format): row.value for row in rows}
    assert all(cosines["ne", name] > cosines["gaussian", name] for name in ("float32", "png8"))
