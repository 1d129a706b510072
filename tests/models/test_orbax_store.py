"""Ported networks kept with orbax: the very state, whole or not at all, found again by the hash of its source."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from ne_jax import UserError
from ne_jax.models import loading
from ne_jax.models.loading import load_model, save_model
from ne_jax.models.porting import checkpoints, orbax_store
from ne_jax.models.registry import ASSETS

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 1), np.uint8)
RESNET = ASSETS / "resnet_a.safetensors"


def leaves(state) -> dict[tuple, np.ndarray]:
    return {path: np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}


def assert_same(first, second):
    """Every leaf, bit for bit, and what is said of the network."""
    ours, theirs = leaves(first.state), leaves(second.state)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        assert leaf.dtype == theirs[path].dtype
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=str(path))
    for name in ("architecture", "preprocess", "num_classes", "publisher", "notes", "sha256"):
        assert getattr(first, name) == getattr(second, name), name


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> pathlib.Path:
    """resnet_a as a store."""
    path = tmp_path_factory.mktemp("stores") / "resnet_a"
    save_model(load_model("resnet_a"), path)
    return path


def test_a_store_gives_the_very_network_back(store):
    """Save and load: every leaf bit-equal, BatchNorm's statistics too, same logits, same notes and hash of the source."""
    before, after = load_model("resnet_a"), load_model("resnet_fashion", store)
    assert_same(before, after)
    statistics = {path: leaf for path, leaf in leaves(after.state).items() if path[-1] in ("mean", "var")}
    assert len(statistics) > 10 and all(leaf.std() > 0 for leaf in statistics.values())
    np.testing.assert_array_equal(before.apply(PIXELS), after.apply(PIXELS))
    assert after.name == "resnet_fashion" and orbax_store.is_store(store)


def test_a_store_is_not_overwritten(store):
    """Saving where something is already is refused, and leaves it."""
    with pytest.raises(UserError, match=rf"^{store} exists; give another folder, or remove it$"):
        save_model(load_model("vit_a"), store)
    assert orbax_store.read_note(store).architecture == "resnet_fashion"


def test_the_cache_restores_without_porting(tmp_path, monkeypatch):
    """The same source a second time is restored: nothing is ported, the network is the same."""
    first = load_model("resnet_a", cache=tmp_path)
    (entry,) = tmp_path.iterdir()
    assert entry.name == f"resnet_fashion-112-torchvision-{first.sha256[:32]}"

    def never(*_):
        raise AssertionError("ported again")

    monkeypatch.setattr(checkpoints, "port", never)
    assert_same(first, load_model("resnet_a", cache=tmp_path))
    assert list(tmp_path.iterdir()) == [entry]


def test_the_cache_is_keyed_by_the_source_s_bytes(tmp_path):
    """Another file under the same name is another entry, and what was kept of the first is not given for it."""
    path, cache = tmp_path / "model.safetensors", tmp_path / "cache"
    shutil.copy(RESNET, path)
    first = load_model("resnet_fashion", path, cache=cache)
    shutil.copy(ASSETS / "resnet_b.safetensors", path)
    second = load_model("resnet_fashion", path, cache=cache)
    assert len(list(cache.iterdir())) == 2 and first.sha256 != second.sha256
    assert_same(second, load_model("resnet_b"))
    assert_same(load_model("resnet_fashion", path, cache=cache), second)


def test_a_killed_save_is_no_store(tmp_path):
    """A save that dies before its end leaves nothing that is taken for a network; the next one starts anew and succeeds."""
    script = """
        import os, sys, pathlib, orbax.checkpoint as ocp
        from ne_jax.models.loading import load_model

        def die(*arguments, **keywords):
            os._exit(9)

        pathlib.Path.rename = pathlib.Path.replace = os.rename = os.replace = die
        import etils.epath.gpath, etils.epath.backend
        for backend in vars(etils.epath.backend).values():
            if isinstance(backend, type) and hasattr(backend, "rename"):
                backend.rename = backend.replace = die
        load_model("resnet_a", cache=sys.argv[1])
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 9, run.stderr[-2000:]
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and "tmp" in left[0].name and any(left[0].iterdir())  # it had begun to write
    wanted = tmp_path / f"resnet_fashion-112-torchvision-{load_model('resnet_a').sha256[:32]}"
    assert not wanted.exists() and not orbax_store.is_store(wanted)
    assert_same(load_model("resnet_a", cache=tmp_path), load_model("resnet_a"))
    assert orbax_store.is_store(wanted)


LOADS = """
    import json, sys
    from ne_jax import UserError
    from ne_jax.models.loading import load_model

    told = {}
    for path in sys.argv[1:]:
        try:
            load_model("resnet_fashion", path)
        except UserError as error:
            told[path] = str(error)
    print(json.dumps(told))
"""


def test_a_damaged_store_is_told(store, tmp_path):
    """A store of which any needed file is gone or cut is told in one line with the way out."""
    copies = []
    for name in ("_METADATA", "manifest.ocdbt", "d/*", "ocdbt.process_0/d/*"):
        for how in ("gone", "empty", "half"):
            copies.append(tmp_path / f"{len(copies)}")
            shutil.copytree(store, copies[-1])
            path = max(copies[-1].glob(name), key=lambda place: place.stat().st_size)
            kept = path.read_bytes()[: path.stat().st_size // 2 if how == "half" else 0]
            path.unlink()
            if how != "gone":
                path.write_bytes(kept)
    # In another process: where one of orbax's reads fails, its others end later, with warnings, in the midst of other tests.
    command = [sys.executable, "-c", textwrap.dedent(LOADS), *map(str, copies)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    told = json.loads(run.stdout.splitlines()[-1])
    assert list(told) == list(map(str, copies))
    for path, message in told.items():
        start = f"checkpoint {path} for resnet_fashion: cannot be restored ("
        assert message.startswith(start) and message.endswith("; port it again") and "\n" not in message
        assert len(message) < len(start) + 150


def test_a_store_of_another_architecture_is_told(store):
    """The note says what a store is of; asking for something else is told in one line."""
    with pytest.raises(UserError, match=rf"^checkpoint {store} is of resnet_fashion, not vit_fashion$"):
        load_model("vit_a", store)
    with pytest.raises(UserError, match=rf"^checkpoint {store} is for images of 112 pixels; port its source again$"):
        load_model("resnet_fashion", store, image_size=224)


def test_a_foreign_orbax_folder_is_told(tmp_path):
    """Someone else's orbax checkpoint is not guessed at."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "foreign", {"weight": np.ones(3, np.float32)})
    with pytest.raises(
        UserError, match=r"an orbax checkpoint, but not of scripts/port_checkpoint.py; port it first$"
    ) as caught:
        load_model("resnet_fashion", tmp_path / "foreign")
    assert "\n" not in str(caught.value)


def test_every_fault_of_a_store_is_told(tmp_path):
    """A store whose note lies: missing, surplus and misshapen leaves together, in one line."""
    model = load_model("resnet_a")
    flat = {path: leaf for path, leaf in nnx.to_flat_state(model.state) if path != ("head", "bias")}
    names = {"architecture": "resnet_fashion", "publisher": "torchvision", "sha256": ""}
    note = orbax_store.Note(**names, image_size=112, num_classes=12, preprocess={}, notes=[])
    flat["head", "extra"] = flat["head", "kernel"]
    orbax_store.save(tmp_path / "store", nnx.from_flat_state(flat), note)
    with pytest.raises(UserError) as caught:
        load_model("resnet_fashion", tmp_path / "store")
    assert str(caught.value) == (
        f"checkpoint {tmp_path / 'store'} for resnet_fashion does not fit: "
        "1 missing: head.bias; 1 surplus: head.extra; 1 misshapen: head.kernel"
    )


def test_notes_are_kept(tmp_path):
    """What loading had to say of the source is said again by the store."""
    tensors = checkpoints.safetensors.numpy.load_file(RESNET)
    bare = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    checkpoints.safetensors.numpy.save_file(bare, tmp_path / "model.safetensors")
    first = load_model("resnet_fashion", tmp_path / "model.safetensors", cache=tmp_path / "cache")
    second = load_model("resnet_fashion", tmp_path / "model.safetensors", cache=tmp_path / "cache")
    assert first.notes == ("no head: features only",) and second.num_classes == 0
    assert_same(first, second)
    np.testing.assert_array_equal(first.features(PIXELS), second.features(PIXELS))


SHARDED = """
    import json, sys
    import jax, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from ne_jax.models.loading import load_model

    pixels = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 1), np.uint8)
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    models = [load_model("resnet_fashion", path, sharding=everywhere) for path in sys.argv[1:]]
    leaves = [leaf for model in models for leaf in jax.tree.leaves(model.state)]
    print(json.dumps({
        "devices": sorted({len(leaf.sharding.device_set) for leaf in leaves}),
        "replicated": all(leaf.is_fully_replicated for leaf in leaves),
        "logits": [np.asarray(model.apply(pixels)).tolist() for model in models],
    }))
"""


def test_networks_are_placed_on_every_device(store):
    """On 8 devices a replicated sharding puts every leaf on all of them, from a store and from a published file alike, with the
    logits of one device."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(SHARDED), str(store), str(RESNET)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["devices"] == [8] and found["replicated"]
    expected = np.asarray(load_model("resnet_a").apply(PIXELS))
    for logits in found["logits"]:
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * expected.std())


def test_a_store_of_one_device_is_restored_on_the_default_one(store):
    """Without a sharding leaves are on the default device alone."""
    model = loading.load_model("resnet_fashion", store)
    assert {device for leaf in jax.tree.leaves(model.state) for device in leaf.devices()} == {jax.devices()[0]}
