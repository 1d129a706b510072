"""Versions are known wherever the package comes from."""

import importlib.metadata
import tomllib

import pytest

import ne_jax
from ne_jax.release.manifest import read_manifest
from ne_jax.stages.versions import versions
from tests import in_process, jobs


@pytest.fixture
def not_installed(monkeypatch):
    """As in a clone on PYTHONPATH: nobody knows of an installed ne_jax."""
    known = importlib.metadata.version

    def version(name):
        if name.replace("-", "_") == "ne_jax":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_a_clone_that_was_not_installed_does_every_stage(not_installed, tmp_path):
    """It encodes, checks, evaluates, attacks and reports, and what it released verifies: the version is in the clone itself."""
    few = {"data.limit": 8, "release.formats": ("png8",), "readers": ("vit_a", "vit_b"), "evaluate.curve_psnr_db": ()}
    few |= {"attack.only": ("median",), "report.pictures": 1}
    few |= {f"attack.{name}": 2 for name in ("images", "own_images", "releases", "public")}
    config = jobs.write_config(tmp_path / "config.py", jobs.small_leaves(tmp_path, **few))
    done = in_process.call(f"--config={config}", f"--workdir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    release = tmp_path / "run" / "releases" / "png8"
    assert read_manifest(release).versions["ne_jax"] == ne_jax.__version__
    assert f"ne_jax {ne_jax.__version__}, jax " in (tmp_path / "run" / "report.md").read_text()
    assert in_process.call("--stage=verify", f"--release={release}").returncode == 0


def test_the_version_is_in_the_clone(not_installed):
    """Nobody asks the installer for it, who knows nothing there; other packages are asked for in one place."""
    assert versions("ne_jax", "jax") == {"ne_jax": ne_jax.__version__, "jax": importlib.metadata.version("jax")}
    asking = [path for path in (jobs.ROOT / "ne_jax").rglob("*.py") if "importlib.metadata" in path.read_text()]
    assert [path.name for path in asking] == ["versions.py"]


def test_installer_and_code_cannot_disagree():
    """pyproject.toml has no version of its own; it reads the code's, and so did whoever installed this one."""
    settings = tomllib.loads((jobs.ROOT / "pyproject.toml").read_text())
    assert "version" not in settings["project"] and "version" in settings["project"]["dynamic"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ne_jax.__version__"}
    assert importlib.metadata.version("ne_jax") == ne_jax.__version__


def test_a_package_without_a_version_costs_no_run():
    """Its version is unknown, and the others are told."""
    assert versions("ne_jax", "no-such-package") == {"ne_jax": ne_jax.__version__, "no-such-package": "unknown"}
