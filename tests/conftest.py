"""Run-time checks of every shape and dtype that ne_jax's signatures promise, and layers whose spectrum is chosen."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jaxtyping

# Before the first import of ne_jax, and kept for the whole session. The tower: an int is a float, as PEP 484 has it.
jaxtyping.install_import_hook("ne_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from flax import nnx  # noqa: E402

import ne_jax  # noqa: E402
from tests.memory import mappings  # noqa: E402
from tests.schedule import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: E402, F401  hooks
from tests.verified import copy, job  # noqa: E402, F401  fixtures of test_verify and test_damage

# A script that starts the tests in its background has them ignore Ctrl-C, and every process that they start and stop would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("ne_jax", deadline=None, max_examples=20, database=None, derandomize=True)
hypothesis.settings.load_profile("ne_jax")


@pytest.fixture(scope="module", autouse=True)
def forgotten_programs() -> Iterator[None]:
    """After a file, when much was compiled: JAX forgets its programs, each of which keeps memory and three of the 65,530 mappings
    that Linux gives a process. Without this the longest runs are ended by the system."""
    yield
    if mappings() > 12_000:
        jax.clear_caches()
        gc.collect()


class Chosen(NamedTuple):
    """A first layer whose singular value decomposition is known before the code runs."""

    layer: ne_jax.FirstLayer
    sigma: np.ndarray  # (d,), descending, zero beyond min(outputs, d)
    vectors: np.ndarray  # (d, d), column i belongs to sigma[i]


def _orthogonal(generator: np.random.Generator, size: int, first: np.ndarray | None = None) -> np.ndarray:
    """A random orthogonal matrix; its first column is along `first` if given."""
    matrix = generator.standard_normal((size, size))
    if first is not None:
        matrix[:, 0] = first
    return np.linalg.qr(matrix)[0]


def _make_layer(sigma, window=(2, 2, 3), outputs=None, *, seed=0, std=None, first=None, padding="VALID") -> Chosen:
    dimension = int(np.prod(window))
    outputs = dimension if outputs is None else outputs
    sigma = np.asarray(sigma, np.float64)
    assert len(sigma) == min(dimension, outputs)
    generator = np.random.default_rng(seed)
    left = _orthogonal(generator, outputs)[:, : len(sigma)]
    right = _orthogonal(generator, dimension, first)
    std = np.linspace(0.2, 0.4, window[2]) if std is None else np.asarray(std)
    matrix = (left * sigma) @ right[:, : len(sigma)].T
    kernel = matrix.T.reshape(*window, outputs) * std[:, None]
    layer = ne_jax.FirstLayer(kernel, window[:2], padding, np.linspace(0.4, 0.6, window[2]), std)
    return Chosen(layer, np.pad(sigma, (0, dimension - len(sigma))), right)


@pytest.fixture(scope="session")
def make_layer() -> Callable[..., Chosen]:
    """make_layer(sigma, window, outputs): a layer whose `matrix` is U diag(sigma) V^T, U and V random orthogonal."""
    return _make_layer


@pytest.fixture(scope="session")
def graded(make_layer) -> Chosen:
    """d = 48: sigma from 1 down to 1e-3 in 40 equal ratios, then 8 exact zeros."""
    return make_layer(np.geomspace(1, 1e-3, 40), (4, 4, 3), outputs=40)


@pytest.fixture(scope="session")
def space(graded) -> ne_jax.Subspace:
    """The 24 directions of smallest sigma of `graded`, 8 of them null, on images of 4 x 4 patches."""
    return ne_jax.low_sensitivity(ne_jax.spectrum(graded.layer, (16, 16, 3)), "count", 24)


@pytest.fixture(scope="session")
def keys() -> jax.Array:
    return jax.random.split(jax.random.key(2), 64)


@pytest.fixture(scope="session")
def images() -> jax.Array:
    """64 images, uniform noise in [0, 1], of the shape of `space`."""
    return jax.random.uniform(jax.random.key(1), (64, 16, 16, 3))


@pytest.fixture(scope="session")
def random_model() -> Callable[..., nnx.Module]:
    """random_model(build, config): a module whose every leaf, BatchNorm's mean and var too, is distinct random numbers.

    Uniform in (-.3, .3), or (.1, .7) for variances and scales. Built abstractly: nothing is compiled.
    """

    def fill(build: Callable[..., nnx.Module], config, seed: int = 0) -> nnx.Module:
        module = nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0)))
        generator, filled = np.random.default_rng(seed), {}
        for path, leaf in nnx.to_flat_state(nnx.state(module)):
            low = 0.1 if path[-1] in ("var", "scale") else -0.3
            filled[path] = leaf.replace(jnp.asarray(low + generator.uniform(0, 0.6, leaf.shape), jnp.float32))
        nnx.update(module, nnx.from_flat_state(filled))
        return module

    return fill
