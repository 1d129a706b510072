"""Compiled programs are kept for the next process, and change nothing of what is made."""

import os
import pathlib

import jax
import pytest

from ne_jax.errors import UserError
from ne_jax.stages import compilation_cache
from tests import jobs

_OPTIONS = ("enable_compilation_cache", "compilation_cache_dir", "compilation_cache_max_size")
_OPTIONS = tuple(f"jax_{name}" for name in (*_OPTIONS, "persistent_cache_min_compile_time_secs"))


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    """JAX's options as they were, afterwards; and no folder that the environment names."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = {name: getattr(jax.config, name) for name in _OPTIONS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_default_is_the_users_cache_folder(tmp_path, monkeypatch):
    """One folder for each kind of processor, which nobody else may write into."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation_cache.use(None)
    place = pathlib.Path(jax.config.jax_compilation_cache_dir)
    assert place.parent == tmp_path / "ne_jax" / "compiled" and place.stat().st_mode & 0o777 == 0o700
    assert place.name.startswith(os.uname().machine) and jax.config.jax_compilation_cache_max_size > 0


def test_nothing_is_kept_where_nobody_wants_it(tmp_path, monkeypatch):
    """An empty flag is off; JAX's own variable is left to JAX, unless the flag says otherwise."""
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.use("")
    assert not jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir == before
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
    compilation_cache.use(None)
    assert jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir == before
    compilation_cache.use(str(tmp_path / "mine"))
    assert pathlib.Path(jax.config.jax_compilation_cache_dir).parent == tmp_path / "mine"


def test_a_folder_that_cannot_be_made_is_told_if_it_was_asked_for(tmp_path, monkeypatch):
    """Otherwise the run goes on without."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--compilation_cache=.*file/x: cannot write \(Not a directory\)"):
        compilation_cache.use(str(tmp_path / "file" / "x"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.use(None)
    assert jax.config.jax_compilation_cache_dir == before


def test_a_second_process_compiles_nothing_and_makes_the_same_files(tmp_path):
    """The step that recodes a batch comes from the cache, and releases are the same to the byte with and without."""
    config = jobs.write_config(tmp_path / "config.py", jobs.small_leaves(tmp_path, **{"release.formats": ("png8",)}))
    cache, made = tmp_path / "cache", []
    for name, folder in (("cold", cache), ("warm", cache), ("without", "")):
        flags = (
            f"--config={config}",
            f"--workdir={tmp_path / name}",
            "--stage=encode",
            f"--compilation_cache={folder}",
        )
        done = jobs.run(jobs.main(*flags))
        assert done.returncode == 0, done.stderr
        made.append(({path.name for path in cache.rglob("jit__step-*-cache")}, jobs.contents(tmp_path / name)))
    assert made[0][0] and made[1][0] == made[0][0] == made[2][0]
    assert made[0][1] == made[1][1] == made[2][1]
