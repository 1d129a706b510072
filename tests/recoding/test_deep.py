"""Deep recoding: the authorized network's own answer is the constraint."""

import numpy as np
import pytest

from ne_jax import errors
from ne_jax.data.sources import batches, open_source
from ne_jax.models.as_reader import reading
from ne_jax.models.loading import load_model
from ne_jax.recoding.deep import DEEP as DESIGN
from ne_jax.recoding.deep import Deep
from ne_jax.recoding.design import Recipe
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.noise_keys import noise_keys
from ne_jax.release import manifest
from ne_jax.stages import encode
from tests.jobs import opened

SHAPE, COUNT, DB, STEPS, RESTORE = (112, 112, 1), 12, 16.0, 12, 20
DEEP = {
    "authorized": "resnet_a", "subspace.rule": "count", "subspace.value": 200.0, "readers": ("resnet_a", "vit_a"),
    "recode.design": "deep", "recode.surrogates": ("vit_a",), "recode.psnr_db": DB, "release.formats": ("png8",),
    "data.limit": 4, "batch_size": COUNT, "recode.steps": STEPS, "recode.restore": RESTORE,
}  # fmt: skip


@pytest.fixture(scope="module")
def pixels():
    source = open_source("fashion_mnist", limit=COUNT)
    return next(batches(source, load_model("resnet_a").preprocess, COUNT, range(COUNT), lambda *_: None)).pixels


def readers(*names):
    return tuple(reading(load_model(name), SHAPE) for name in names)


def encoded(pixels, **settings):
    deep = Deep(readers("resnet_a"), readers("vit_a"), steps=STEPS, restore=RESTORE, **settings)
    return encode_batch(noise_keys(bytes(32), b"", pixels), pixels, Recipe(DESIGN, deep, DB, np.uint8))


@pytest.fixture(scope="module")
def found(pixels):
    return encoded(pixels)


def logits(name, images):
    return np.asarray(load_model(name).apply(images), np.float64)


def margin(values, labels):
    rows = np.arange(len(values))
    others = values.copy()
    others[rows, labels] = -np.inf
    return values[rows, labels] - others.max(1)


def test_met_is_true_of_the_stored_file(found, pixels):
    """What is said to be within the budget is, when the authorized model is run on the stored bytes: class, margin and logits."""
    clean, stored = logits("resnet_a", pixels), logits("resnet_a", np.asarray(found.stored))
    met, labels = np.asarray(found.met), clean.argmax(1)
    assert met.mean() >= 0.9
    gap = np.sqrt(np.mean((stored - clean) ** 2, axis=1)) / clean.std(1)
    share = margin(stored, labels) / stored.std(1) / (margin(clean, labels) / clean.std(1))
    assert (gap[met] <= 0.1 + 1e-4).all() and (share[met] >= 0.5 - 1e-4).all()
    assert (stored.argmax(1) == labels)[met].all()


def test_the_surrogate_fails_where_the_authorized_model_does_not(found, pixels):
    """ResNet's windows overlap and no direction is null; its answers stay, and the surrogate's go, at the strength asked or weaker."""
    stored = np.asarray(found.stored)
    assert np.mean(logits("vit_a", stored).argmax(1) == logits("vit_a", pixels).argmax(1)) <= 0.34
    assert (np.asarray(found.psnr_db) >= DB - 0.05).all() and np.median(found.psnr_db) <= DB + 1


def test_an_image_is_the_same_in_any_batch(found, pixels):
    """Contract 4, to the bit."""
    np.testing.assert_array_equal(encoded(pixels[[3]]).stored[0], found.stored[3])


def test_what_cannot_be_kept_is_told_and_not_released(tmp_path):
    """A budget that no image meets: every image is reported with the way out, and none is in the release."""
    with opened(tmp_path, "run", **DEEP | {"recode.logit_gap": 1e-6}) as job:
        with pytest.raises(errors.UserError, match="not protected at this strength"):
            encode.run(job)
        assert manifest.read_manifest(job.release_dir("png8")).images == 0


def test_an_encoded_release_says_how_it_was_made(tmp_path):
    """The manifest names design, surrogates and budget; all four images are there."""
    with opened(tmp_path, "run", **DEEP) as job:
        assert encode.run(job) == 0
        ne = manifest.read_manifest(job.release_dir("png8"))
    assert (ne.design, ne.images, ne.settings["surrogates"], ne.settings["steps"]) == ("deep", 4, ["vit_a"], STEPS)
    assert ne.settings["margin_share"] == 0.5 and ne.settings["logit_gap"] == 0.1
