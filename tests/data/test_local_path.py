"""Paths as people write them: ~ is a home, and a place elsewhere is refused instead of made into a folder."""

import pwd
from unittest import mock

import pytest

from ne_jax import load_model
from ne_jax.config import checked, default
from ne_jax.config.schema import Config, ModelConfig
from ne_jax.data.local_path import expanded
from ne_jax.errors import UserError
from ne_jax.models.registry import ASSETS
from tests import in_process, jobs
from tests.test_config import declared

ELSEWHERE = ("gs://bucket/run", "s3://bucket/a b", "hdfs://host/x", "https://host/model.safetensors", "file:///tmp/x")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_path_is_what_a_shell_makes_of_it(home):
    """~ and ~USER in front, and nothing else, is changed."""
    user = pwd.getpwuid(0)
    assert expanded("~/a/~b", "--workdir") == f"{home}/a/~b" and expanded("~", "--workdir") == str(home)
    assert expanded(f"~{user.pw_name}/x", "cache") == f"{user.pw_dir}/x"
    for path in ("", "a/~", "./~x", "/a:b", "a:1.0.0", "package:x/y", "name/with:colon", "shards/{000..012}.tar"):
        assert expanded(path, "data.path") == path


@pytest.mark.parametrize("path", ELSEWHERE)
def test_places_that_are_not_on_this_machine_are_refused(path):
    """In one line that names the setting, the path and the way out."""
    with pytest.raises(UserError, match=rf"^cache {path}: \w+:// is not supported; give a path of this machine"):
        expanded(path, "cache")


def test_a_user_whom_nobody_knows_is_told():
    """Else a folder of that name would be made."""
    with pytest.raises(
        UserError, match=r"^--workdir ~nobody_such/x: there is no user nobody_such; .* or \./~nobody_such/x"
    ):
        expanded("~nobody_such/x", "--workdir")


def test_every_leaf_that_is_a_path_is_expanded(home):
    """All that say so of themselves, and no other: a text about a path is one."""
    paths = {name for name, _, known in [*declared(Config), *declared(ModelConfig, "models.mine.")] if known.path}
    named = {
        name for name, _, known in [*declared(Config), *declared(ModelConfig, "models.mine.")] if "path" in known.unit
    }
    assert paths == named >= {"data.path", "cache", "recode.secret_file", "attack.external", "models.mine.checkpoint"}
    for name in paths - {"models.mine.checkpoint"}:
        config = default()
        config.update_from_flattened_dict({name: "~/x"})
        section, _, leaf = name.rpartition(".")
        found = checked(config)
        assert getattr(getattr(found, section) if section else found, leaf) == f"{home}/x"
        config.update_from_flattened_dict({name: "s3://x"})
        with pytest.raises(UserError, match=f"^{name} s3://x: s3:// is not supported"):
            checked(config)


def test_a_model_s_checkpoint_is_expanded_where_it_is_kept_and_loaded(home):
    """In the config that a workdir keeps, and by load_model for who has no config."""
    entry = {"architecture": "vit_fashion", "checkpoint": "~/vit.safetensors"}
    assert Config(models={"mine": entry}).models["mine"]["checkpoint"] == f"{home}/vit.safetensors"
    (home / "vit.safetensors").symlink_to(ASSETS / "vit_a.safetensors")
    assert load_model("vit_fashion", "~/vit.safetensors").sha256 == load_model("vit_a").sha256
    with pytest.raises(UserError, match=r"^checkpoint gs://b/vit.npz: gs:// is not supported"):
        load_model("vit_fashion", "gs://b/vit.npz")
    with pytest.raises(UserError, match=r"^model transformers/ s3://b/x: s3:// is not supported"):
        load_model("torch:transformers/s3://b/x")
    with pytest.raises(UserError, match=r"^checkpoint gs://b/x.onnx: gs:// is not supported"):
        load_model("onnx:gs://b/x.onnx")


def test_the_command_s_own_paths_are_expanded(home, monkeypatch):
    """Config file, workdir and release: what is made lies in the home, and nowhere a folder named ~ or gs: appears."""
    monkeypatch.setattr(in_process, "ROOT", home)
    jobs.write_config(home / "my.py", jobs.small_leaves(home, **{"data.limit": 4, "release.formats": ("png8",)}))
    done = in_process.call("--config=~/my.py", "--workdir=~/run", "--stage=encode")
    assert done.returncode == 0, done.stderr
    assert (home / "run" / "releases" / "png8" / "manifest.json").is_file()
    private = "--private=~/run/private"
    line = jobs.told(in_process.call("--stage=verify", "--release=~/run/releases/png8", private))
    assert line.startswith(f"error: {home}/run/private/certificates.jsonl: No such file")
    for flag in ("workdir", "config", "compilation_cache"):
        given = {"config": "~/my.py", "workdir": "~/other"} | {flag: "gs://bucket/x"}
        found = jobs.told(in_process.call(*(f"--{name}={value}" for name, value in given.items()), "--stage=encode"))
        assert found.startswith(f"error: --{flag} gs://bucket/x: gs:// is not supported")
    for flag in ("release", "private", "public_key"):
        given = {"release": "~/run/releases/png8"} | {flag: "gs://bucket/x"}
        found = jobs.told(in_process.call(*(f"--{name}={value}" for name, value in given.items()), "--stage=verify"))
        assert found.startswith(f"error: --{flag} gs://bucket/x: gs:// is not supported")
    assert not [path for path in home.rglob("*") if path.name in ("~", "gs:", "other")]


def test_compiled_programs_are_kept_in_the_home(home):
    """--compilation_cache=~/cache, which no shell expands."""
    with mock.patch("ne_jax.stages.compilation_cache.use") as use:
        from ne_jax import main

        words = ["--config=configs/quickstart.py", "--workdir=gs://x", "--stage=encode", "--compilation_cache=~/cache"]
        in_process.finished(lambda argv: main.main(main._parse(argv)), *words)
        in_process.finished(lambda argv: main.main(main._parse(argv)), *words[:-1], "--compilation_cache=")
    assert [call.args for call in use.call_args_list] == [(f"{home}/cache",), ("",)]
