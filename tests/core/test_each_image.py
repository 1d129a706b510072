"""Batches over meshes: what can be traced, and the bits on devices (virtual ones of the CPU, in a process of their own)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from ne_jax import (
    Deep,
    FirstLayer,
    Guide,
    UserError,
    certify,
    deep_recode,
    guided_recode,
    isotropic,
    low_sensitivity,
    recode,
    spectrum,
)
from ne_jax.core.each_image import image_by_image
from ne_jax.models.model import Outputs
from ne_jax.recoding.hardened import hardened
from tests import jobs

SHAPE, COUNT = (8, 8, 3), 8
STRIDES = {"patches": (4, 4), "overlapping": (2, 2)}


@jax.tree_util.register_static
class Reader:
    """A linear classifier of random weights, by its number."""

    def __init__(self, seed: int):
        self.weights = np.random.default_rng(seed).standard_normal((192, 10)).astype(np.float32) / 14

    def __call__(self, image, warp=None):
        seen = image if warp is None else jnp.einsum("ab,bcd,ec->aed", warp[1], image, warp[0])
        return Outputs(seen.ravel() @ self.weights, jnp.tanh(seen.ravel() @ self.weights))


READERS = Reader(1), Reader(2)


@functools.cache
def functions(kind: str) -> dict[str, Callable]:
    """What works on keys and images, by name, for a layer of that kind."""
    kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 10))
    layer = FirstLayer(kernel, STRIDES[kind], "VALID", 3 * [0.5], 3 * [0.3])
    space = low_sensitivity(spectrum(layer, SHAPE), "count", 30)
    guide = Guide(space, READERS[:1], steps=2, restarts=1)
    deep = Deep(READERS[:1], READERS[1:], steps=1, restore=1, restarts=1)
    of_one = {
        "gaussian": lambda key, image: recode(key, image, space, 12.0),
        "boxed": lambda key, image: recode(key, image, space, 12.0, design="boxed"),
        "boxed, replace": lambda key, image: recode(key, image, space, 12.0, design="boxed", replace=True),
        "isotropic": lambda key, image: isotropic(key, image, 20.0),
        "isotropic, box": lambda key, image: isotropic(key, image, 20.0, box=True),
        "guided": lambda key, image: guided_recode(key, image, guide, 20.0),
        "deep": lambda key, image: deep_recode(key, image, deep, 20.0).image,
    }
    if kind == "patches":
        noisy = hardened(jax.random.key(3), space)
        of_one["hardened"] = lambda key, image: recode(key, image, noisy, 12.0)
    return {name: jax.vmap(one) for name, one in of_one.items()} | {
        "certify": lambda keys, images: certify(layer, space, images, 0.9 * images)
    }


NAMES = (
    "gaussian", "boxed", "boxed, replace", "isotropic", "isotropic, box", "guided", "deep", "certify",
)  # fmt: skip


def batch() -> tuple[jax.Array, jax.Array]:
    return jax.random.split(jax.random.key(0), COUNT), jax.random.uniform(jax.random.key(1), (COUNT, *SHAPE))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["explicit", "shard_map"])
@pytest.mark.parametrize("kind", STRIDES)
def test_batches_over_a_mesh_are_traced(kind, how, name):
    """On JAX's default mesh of 4 devices, whose axes are Explicit, and inside shard_map: no reshape and no loop is refused, and the
    result is sharded as the batch."""
    mesh = AbstractMesh((4,), ("x",), (AxisType.Explicit,))
    spec, function = PartitionSpec("x"), functions(kind)[name]
    arguments = [jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=NamedSharding(mesh, spec)) for each in batch()]
    if how == "shard_map":
        function = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)
    found = jax.tree.leaves(jax.eval_shape(function, *arguments))
    assert all(leaf.shape[0] == COUNT and leaf.sharding.spec[0] == "x" for leaf in found)


# In a process with 8 devices: each function over meshes of 4, against the same on one device, bit by bit.
DEVICES = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tests.core.test_each_image import batch, functions
kind, *names = sys.argv[1:]
spec = PartitionSpec("x")
for name in names:
    function = functions(kind)[name]
    expected = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.jit(function)(*batch()))]
    for axis in (AxisType.Explicit, AxisType.Auto):
        mesh = jax.make_mesh((4,), ("x",), (axis,), devices=jax.devices()[:4])
        ways = {"eager": function, "jit": jax.jit(function)}
        if axis == AxisType.Explicit:
            ways = {"jit": jax.jit(function), "shard_map": jax.jit(jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec))}
        with jax.set_mesh(mesh):
            arguments = [jax.device_put(each, NamedSharding(mesh, spec)) for each in batch()]
            for way, run in ways.items():
                found = jax.tree.leaves(run(*arguments))
                assert len(found[0].sharding.device_set) == 4, (name, axis, way, found[0].sharding)
                for one, other in zip(found, expected, strict=True):
                    assert np.array_equal(np.asarray(one), other), (name, axis, way)
"""


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        # boxed, in a whole job: test_many_devices_give_the_same_files.
        ("patches", ("gaussian", "certify")),
        pytest.param("patches", (*NAMES, "hardened"), marks=pytest.mark.slow),
        # certify of overlapping windows, and gaussian there, differ in last bits: WORKSPACE_NOTES.md, "Core".
        pytest.param("overlapping", ("boxed", "isotropic", "guided"), marks=pytest.mark.slow),
    ],
)
def test_devices_give_the_same_bits(kind, names):
    """An Explicit mesh of 4 devices, an Auto one and shard_map give what one device gives, and each keeps its share of the batch."""
    done = jobs.run(["python", "-c", DEVICES, kind, *names], XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert done.returncode == 0, done.stderr[-3000:]


def test_bits_do_not_depend_on_the_batch_nor_on_jit():
    """An image alone, in a batch of any size, inside jit or outside: the same bits."""
    keys, images = batch()
    run = functions("patches")["gaussian"]
    whole = run(keys, images)
    for some in (slice(0, 1), slice(3, 6)):
        assert np.array_equal(run(keys[some], images[some]), whole[some])
    assert np.array_equal(jax.jit(run)(keys, images), whole)


def test_a_function_of_one_image_composes():
    """vmap of vmap, grad of vmap, vmap of grad and jvp of a function that goes image by image are those of the function."""

    def plain(scale, image):
        return {"image": scale["by"] * jnp.sin(image), "sum": jnp.sum(image**3)}

    looped, scale, images = image_by_image(plain), {"by": jnp.float32(2)}, jnp.arange(12.0).reshape(2, 3, 2)

    def total(function, images):
        found = jax.vmap(jax.vmap(function, (None, 0)), (None, 0))(scale, images)
        return jnp.sum(found["image"] ** 2) + jnp.sum(found["sum"])

    np.testing.assert_allclose(total(looped, images), total(plain, images), rtol=1e-6)
    gradients = [jax.grad(functools.partial(total, function))(images) for function in (looped, plain)]
    np.testing.assert_allclose(*gradients, rtol=1e-5)
    each = [jax.vmap(jax.grad(lambda row, f=function: f(scale, row)["sum"]))(images[0]) for function in (looped, plain)]
    np.testing.assert_allclose(*each, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "certify"])
def test_wrong_scale_never_passes(name):
    """Pixels in 0 to 255: under vmap, jit and grad the image and its gradient are NaN, all of it; an image beside it is untouched."""
    keys, images = batch()
    run = functions("patches")[name]
    mixed, compiled = jnp.concatenate([255 * images[:1], images[1:2]]), jax.jit(run)
    found = run(keys[:2], mixed)
    assert np.isnan(found[0]).all() and np.array_equal(found[1], compiled(keys[1:2], mixed[1:])[0])
    assert np.isnan(compiled(keys[:1], mixed[:1])).all()
    if name in ("gaussian", "isotropic"):  # the others end in steps, whose gradient is zero
        assert np.isnan(jax.grad(lambda images: run(keys[:1], images).sum())(mixed[:1])).all()


@pytest.mark.parametrize("strength", [float("nan"), -float("inf")])
def test_a_strength_that_is_no_number_never_passes(strength):
    """Refused by name; NaN where it is traced."""
    keys, images = batch()
    kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 10))
    layer = FirstLayer(kernel, (4, 4), "VALID", 3 * [0.5], 3 * [0.3])
    space = low_sensitivity(spectrum(layer, SHAPE), "count", 30)
    for run in (
        lambda psnr_db: recode(keys[0], images[0], space, psnr_db),
        lambda psnr_db: recode(keys[0], images[0], space, psnr_db, design="boxed"),
        lambda psnr_db: isotropic(keys[0], images[0], psnr_db, box=True),
    ):
        with pytest.raises(UserError, match="psnr_db is .*give a strength in dB"):
            run(strength)
        assert np.isnan(jax.jit(run)(jnp.float32(strength))).all()


def test_the_control_takes_bytes():
    """isotropic of uint8 at 20 dB is at 20 dB of the image's own scale."""
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    delta = np.asarray(isotropic(jax.random.key(0), image, 20.0), np.float64) - image / 255
    assert -10 * np.log10(np.mean(delta**2)) == pytest.approx(20, abs=1e-3)
