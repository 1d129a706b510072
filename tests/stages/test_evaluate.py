"""Who can read a release: records, control, attacks."""

import json

import jax
import numpy as np
import pytest
import scipy.stats

from ne_jax.attacks.denoising import mean_of_nine
from ne_jax.core.rules import low_sensitivity
from ne_jax.core.spectrum import spectrum
from ne_jax.core.subspace import remove_subspace
from ne_jax.data import sources
from ne_jax.data.preprocess import Preprocess, adapt
from ne_jax.errors import UserError
from ne_jax.measure import answers
from ne_jax.recoding.subspace_noise import recode
from ne_jax.release import owner_files
from ne_jax.report import report
from ne_jax.stages import check, encode, evaluate, inspect_model, pairs
from ne_jax.stages.artefact import keys_of, realised_psnr_db
from tests.jobs import opened

FIELDS = {"authorized", "reader", "condition", "release_format", "psnr_db", "metric", "value", "n", "ci95"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A whole run on 20 images, up to evaluate."""
    tmp_path = tmp_path_factory.mktemp("evaluate")
    leaves = {"evaluate.curve_psnr_db": (0.0, 20.0), "evaluate.curve_images": 9}
    with opened(tmp_path, "run", **leaves) as job:
        inspect_model.run(job)
        encode.run(job)
        check.run(job)
        evaluate.run(job)
    return job


def lines(job, name):
    return [json.loads(line) for line in (job.workdir / name).read_text().splitlines()]


def test_every_reader_has_every_condition(evaluated):
    """Contract 8: clean row, NE and control for every reader and format, with n, PSNR and interval."""
    records = lines(evaluated, evaluate.RESULTS)
    assert all(row.keys() >= FIELDS for row in records)
    found = {(r["reader"], r["condition"], r["release_format"], r["metric"]) for r in records}
    conditions = answers.CONDITIONS
    for reader in evaluated.config.readers:
        for condition in conditions:
            for name in evaluated.config.release.formats:
                assert {(reader, condition, name, metric) for metric in ("accuracy", "agreement")} <= found
    assert len(found) == len(records)
    assert {row["n"] for row in records} == {20}


def test_values_are_what_the_models_say_of_the_files(evaluated):
    """Contract 2: an accuracy equals the one counted here from the files on disk, one image at a time."""
    from PIL import Image

    from ne_jax.models.loading import load_model

    model, source = load_model("vit_b"), evaluated.source
    said = []
    for name in source.names:
        pixels = np.asarray(Image.open(evaluated.release_dir("png8") / "images" / f"{name}.png"))
        said.append(int(model.apply(pixels[None, :, :, None])[0].argmax()))
    key = ("vit_b", "ne", "png8", "accuracy")
    (row,) = [
        r
        for r in lines(evaluated, evaluate.RESULTS)
        if (r["reader"], r["condition"], r["release_format"], r["metric"]) == key
    ]
    assert row["value"] == np.mean(said == source.labels())


def test_intervals_are_wilsons(evaluated):
    """The interval of a share belongs to the value and n of its row, by Wilson's formula written out."""
    z = scipy.stats.norm.ppf(0.975)
    for row in lines(evaluated, evaluate.RESULTS):
        if row["metric"] == "feature_cosine":
            continue
        p, n = row["value"], row["n"]
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        np.testing.assert_allclose(row["ci95"], [centre - half, centre + half], atol=1e-5)


def test_the_interval_of_a_mean_is_students():
    """Cosines are means of numbers: t times the standard error on both sides; one value or equal ones have no width."""
    values = np.array([0.2, 0.5, 0.9, 0.4])
    half = scipy.stats.t.ppf(0.975, 3) * values.std(ddof=1) / 2
    np.testing.assert_allclose(answers.interval(values), (0.5 - half, 0.5 + half))
    assert answers.interval(np.ones(4)) == (1, 1) and answers.interval(np.array([0.3])) == (0.3, 0.3)
    assert answers.interval(np.array([0.9, 1.0]))[1] == 1  # no cosine is above 1


def test_feature_cosines_are_those_of_the_files(evaluated):
    """The cosine of a row is the mean over images of the angle between the reader's features of clean and stored pixels."""
    from ne_jax.models.loading import load_model

    model, cosines = load_model("resnet_b"), []
    for pair in pairs.pairs(evaluated, "float32"):
        clean, stored = (np.asarray(model.features(x)[: pair.kept], np.float64) for x in (pair.clean, pair.stored))
        cosines += [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(clean, stored, strict=True)]
    key = ("resnet_b", "ne", "float32", "feature_cosine")
    names = ("reader", "condition", "release_format", "metric")
    (row,) = [r for r in lines(evaluated, evaluate.RESULTS) if tuple(r[name] for name in names) == key]
    assert row["value"] == pytest.approx(np.mean(cosines), abs=1e-5) and row["n"] == len(cosines)


def test_certificates_have_a_line_an_image(evaluated):
    """Every stored image of every format is certified, and every bound holds."""
    rows = [json.loads(line) for line in (evaluated.private_dir / owner_files.CERTIFICATES).read_text().splitlines()]
    assert [(row["release_format"], row["image"]) for row in rows] == [
        (name, image) for name in evaluated.config.release.formats for image in evaluated.source.names
    ]
    assert all(row["holds"] and row["feature_gap"] <= row["bound"] for row in rows)
    terms = ("subspace_term", "residual_term", "precision_term")
    np.testing.assert_allclose([row["bound"] for row in rows], [sum(row[t] for t in terms) for row in rows], rtol=1e-5)


def test_the_control_has_the_strength_of_the_ne(evaluated):
    """Contract 8: the control's PSNR is the NE's, image by image, in both number formats."""
    for name in evaluated.config.release.formats:
        pair = next(pairs.pairs(evaluated, name))
        psnr = realised_psnr_db(pair.clean, pair.stored)
        keys = keys_of(evaluated, name, pair.clean)
        noisy = evaluate.control(keys, pair.clean.astype(np.float32) / 255, psnr, name)
        np.testing.assert_allclose(realised_psnr_db(pair.clean, noisy)[: pair.kept], psnr[: pair.kept], atol=0.05)
        if name == "png8":
            assert noisy.min() >= 0 and noisy.max() <= 1


def test_a_stage_says_what_it_needs(tmp_path):
    """A stage run too early names the missing file and the stage that makes it."""
    with opened(tmp_path, "run") as job:
        for stage, wanted in ((check, "encode"), (evaluate, "encode"), (report, "inspect")):
            with pytest.raises(UserError, match=f"run --stage={wanted} first"):
                stage.run(job)


def test_data_without_labels_gives_no_accuracy(tmp_path):
    """No accuracy is made up where the classes are not the model's."""
    folder = tmp_path / "images"
    folder.mkdir()
    source = sources.open_source("fashion_mnist")
    for index in range(4):
        source.read(index).save(folder / f"{index}.png")
    leaves = {"data.kind": "folder", "data.path": str(folder), "evaluate.curve_psnr_db": ()}
    with opened(tmp_path, "run", **leaves) as job:
        encode.run(job)
        assert {row.metric for row in evaluate.run(job)} == {"agreement", "feature_cosine"}


def test_projection_removes_gaussian_noise_entirely(make_layer):
    """Tier 4: who knows V_N gets the clean image's sensitive part back, to float accuracy."""
    layer = make_layer(np.r_[np.linspace(3, 1, 20), np.zeros(28)], (4, 4, 3)).layer
    space = low_sensitivity(spectrum(layer, (16, 16, 3)), "relative", 1e-2)
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    stored = jax.vmap(lambda key, image: recode(key, image, space, 0.0))(keys, images)
    np.testing.assert_allclose(remove_subspace(stored, space), remove_subspace(images, space), atol=1e-5)


def test_mean_filter_is_a_3x3_mean():
    """Tier 1 against a loop."""
    image = np.random.default_rng(0).uniform(size=(1, 5, 6, 2)).astype(np.float32)
    padded = np.pad(image[0], ((1, 1), (1, 1), (0, 0)), mode="edge")
    expected = [[padded[i : i + 3, j : j + 3].mean((0, 1)) for j in range(6)] for i in range(5)]
    np.testing.assert_allclose(mean_of_nine(image)[0], expected, rtol=1e-5)


def test_readers_of_another_size_get_the_same_file_through_their_own_preprocessing():
    """Contract 2: values outside [0, 1] survive; a constant stays itself; grey becomes three equal channels."""
    spec = Preprocess(8, (0.5,) * 3, (0.5,) * 3, resize="shorter", resize_to=10, interpolation="bicubic")
    out = adapt(np.full((2, 16, 16, 1), 1.5, np.float32), spec)
    assert out.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(out, 1.5, atol=1e-5)
    same = np.zeros((1, 8, 8, 3), np.float32)
    assert adapt(same, spec) is same
