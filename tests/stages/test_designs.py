"""Designs that look at other models, through the stages: contrastive, guided, several authorized models, cost."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import UserError
from ne_jax.measure import answers
from ne_jax.models.loading import load_model
from ne_jax.release import manifest, verify
from ne_jax.report.result_tables import results_text
from ne_jax.stages import check, encode, evaluate, inspect_model
from ne_jax.stages.cost import cost
from tests.jobs import encode_into, opened, rows, small_config

GUIDED = {
    "recode.design": "guided", "recode.surrogates": ("resnet_a",), "recode.psnr_db": 16.0, "recode.steps": 4,
    "release.formats": ("png8",), "data.limit": 6, "readers": ("vit_a", "resnet_a"), "evaluate.curve_psnr_db": (),
}  # fmt: skip


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """A guided release, certified and evaluated."""
    path = tmp_path_factory.mktemp("guided")
    with opened(path, "run", **GUIDED) as job:
        encode.run(job)
        return job, check.run(job)["png8"], evaluate.run(job)


def test_certificates_and_verify_work_unchanged(guided):
    """Bound and prediction hold on every guided file, and a stranger's verify says that the release holds."""
    job, summary, _ = guided
    assert summary.bound_holds == summary.prediction_kept == summary.n == 6
    found = verify.run(job.release_dir("png8"), load_model("vit_a"), job.private_dir)
    assert found.holds and found.private.stand == 6


def test_baselines_stand_in_the_same_table(guided):
    """Noise in the subspace and the surrogates led away without any constraint, at the same strength, with n and interval."""
    *_, records = guided
    by = {(row.condition, row.reader, row.metric): row for row in records}
    for condition in answers.BASELINES:
        row = by[condition, "resnet_a", "agreement"]
        assert row.n == 6 and row.psnr_db == pytest.approx(16.0, abs=0.1) and len(row.ci95) == 2
    assert "nobody authorized" in results_text(records)


def test_the_manifest_names_the_surrogates(guided):
    """Who reads the manifest learns which models the release was led away from, and nothing of a single image."""
    ne = manifest.read_manifest(guided[0].release_dir("png8"))
    assert (ne.design, ne.settings["surrogates"], ne.settings["steps"]) == ("guided", ["resnet_a"], 4)


def test_cost_is_counted_and_bounded(tmp_path):
    """Forward passes an image grow with the steps, and a run above recode.max_passes is refused before it starts."""
    with opened(tmp_path, "four", **GUIDED) as job:
        four = cost(job)
    with opened(tmp_path, "eight", **GUIDED | {"recode.steps": 8}) as job:
        assert cost(job) == pytest.approx(2 * four)
    # resnet_a's forward pass has 3.4 times the operations of vit_a's, and a gradient about three times those of a pass.
    assert four > 4
    with opened(tmp_path, "bound", **GUIDED | {"recode.max_passes": four / 2}) as job:
        with pytest.raises(UserError, match=r"takes \d+ forward passes of vit_a an image, more than recode.max_passes"):
            encode.run(job)
        assert not job.release_dir("png8").exists()


def test_cost_is_counted_by_the_cpu(tmp_path, monkeypatch):
    """The compilers of GPUs and TPUs count no operations: a job there asks the CPU's, whatever device the networks lie on."""
    devices = []
    lower = jax.stages.Traced.lower

    def watched(traced, **options):
        devices.append(jax.config.jax_default_device)
        return lower(traced, **options)

    with opened(tmp_path, "run", **GUIDED) as job:
        monkeypatch.setattr(jax.stages.Traced, "lower", watched)
        assert cost(job) > 0
    assert devices and all(device is not None and device.platform == "cpu" for device in devices)


def test_contrastive_is_a_drop_in_for_both_kinds_of_files(tmp_path):
    """Noise in fewer directions, chosen by the surrogates: float files lie in V_N at the strength asked, 8-bit ones are boxed."""
    leaves = {"recode.design": "contrastive", "recode.surrogates": ("vit_b",), "recode.psnr_db": 14.0, "data.limit": 6}
    job = encode_into(tmp_path, "run", **leaves, **{"release.formats": ("float32", "png8")})
    ne = manifest.read_manifest(job.release_dir("float32"))
    assert ne.directions == job.space.num_directions // 2 and ne.design == "contrastive"
    clean = job.sample_pixels().astype(np.float32) / 255
    images = rows(job, "float32")
    for name, before in zip(job.source.names, clean, strict=True):
        delta = jnp.asarray(images[name] - before)
        assert jnp.linalg.norm(delta - job.space.project(delta)) <= 1e-4 * jnp.linalg.norm(delta)
        assert -10 * np.log10(float(jnp.mean(delta**2))) == pytest.approx(14.0, abs=0.01)


def test_two_models_are_authorized_at_once(tmp_path):
    """Both keep every prediction and every bound on the same files, while a model that is not authorized loses its answers."""
    leaves = {"also_authorized": ("vit_b",), "release.formats": ("float32",), "readers": ("vit_a", "vit_b", "resnet_a")}
    with opened(tmp_path, "run", **leaves) as job:
        assert job.space.num_directions == 784 - 2 * 128
        encode.run(job)
        summary = check.run(job)["float32"]
        ne = manifest.read_manifest(job.release_dir("float32"))
        clean = load_model("resnet_a").apply(job.sample_pixels()).argmax(-1)
        images = np.stack([rows(job, "float32")[name] for name in job.source.names])
    other = summary.also_authorized["vit_b"]
    assert summary.prediction_kept == summary.bound_holds == other.prediction_kept == other.bound_holds == 20
    assert summary.utility_kept == other.utility_kept == 20
    assert 1 <= summary.bound_over_gap_median <= 20
    assert [entry.name for entry in ne.also_authorized] == ["vit_b"]
    assert ne.certificate["also_authorized"]["vit_b"] == other.to_json()
    assert np.mean(np.asarray(load_model("resnet_a").apply(images).argmax(-1)) == np.asarray(clean)) <= 0.4


@pytest.mark.parametrize(
    ("leaves", "told"),
    [
        ({"recode.design": "guided"}, "needs recode.surrogates"),
        ({"recode.design": "dep"}, "choose auto, gaussian, boxed, hardened, contrastive, guided, deep, paper"),
        ({**GUIDED, "recode.replace": True}, "recode.replace does not go with recode.design guided"),
        ({**GUIDED, "recode.steps": 0}, "recode.steps is 0"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, leaves, told):
    """Each names the leaf and the way out."""
    with pytest.raises(UserError, match=told):
        small_config(tmp_path, **leaves)


def test_models_authorized_together_must_see_the_same(tmp_path):
    """ResNet's windows are not vit_a's patches: refused by name."""
    with pytest.raises(UserError, match="same windows"), opened(tmp_path, "run", also_authorized=("resnet_a",)):
        pass


def test_inspect_recommends_a_design(tmp_path):
    """Patches with null directions: guided for little noise; overlapping windows: deep. Each with its reason, in the file too."""
    for name, leaves, design in (
        ("patches", {}, "guided"),
        ("stem", {"authorized": "resnet_a", "subspace.rule": "count", "subspace.value": 200.0}, "deep"),
    ):
        with opened(tmp_path, name, **leaves, **{"data.limit": 4, "release.formats": ("png8",), "readers": ()}) as job:
            found = inspect_model.run(job)
            assert found.recommended_design == design
            assert f"recode.design={design}" in inspect_model.describe(found)
            assert json.loads((job.workdir / "inspect.json").read_text())["recommended_design"] == design
