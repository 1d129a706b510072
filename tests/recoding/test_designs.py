"""The table of designs: what a record says of its design is so."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ne_jax import UserError, config, low_sensitivity, spectrum
from ne_jax.recoding.design import Context, Design, Recipe
from ne_jax.recoding.designs import DESIGNS, choose
from ne_jax.recoding.encode_batch import encode_batch
from ne_jax.recoding.subspace_noise import BOXED, GAUSSIAN

COUNT, PSNR_DB = 3, 20.0
DTYPES = (np.uint8, np.float16, np.float32)


class Answer(NamedTuple):
    logits: jax.Array
    features: jax.Array


def look(weights, image, warp=None) -> Answer:
    """A network of one layer, as designs are handed networks."""
    features = jnp.tanh(weights[0] @ image.ravel())
    return Answer(weights[1] @ features, features)


def reader(seed: int) -> jax.tree_util.Partial:
    numbers = np.random.default_rng(seed)
    weights = numbers.standard_normal((16, 768)) / 30, numbers.standard_normal((5, 16))
    return jax.tree_util.Partial(look, tuple(jnp.asarray(each, jnp.float32) for each in weights))


@pytest.fixture(scope="module")
def context(make_layer) -> Context:
    """A job's view: no direction is exactly null, and the channels have different std, so that not all subspaces are alike."""
    layer, other = (make_layer(np.geomspace(1, 1e-3, 48), (4, 4, 3), seed=seed).layer for seed in (0, 1))
    space = low_sensitivity(spectrum(layer, (16, 16, 3)), "count", 24)
    settings = dataclasses.replace(config.Config().recode, steps=2, restore=1, surrogates=("other",))
    return Context(
        space, (layer,), (other,), lambda: (reader(0),), lambda: (reader(1),), settings, 0.03, lambda: jax.random.key(5)
    )


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(80, 176, (COUNT, 16, 16, 3), np.uint8)


def holding(design: Design) -> list[type[np.generic]]:
    """The number formats that can hold what the design makes."""
    return [dtype for dtype in DTYPES if not (design.leaves_box and dtype == np.uint8)]


@pytest.mark.parametrize("name", DESIGNS)
def test_a_record_is_whole(name):
    """Its row has its name, people are told what it does in one line, and its settings are leaves of the config; who runs networks
    leads some away."""
    design = DESIGNS[name]
    assert design.name == name != "auto" and design.does and "\n" not in design.does
    assert set(design.settings) <= vars(config.Config().recode).keys()
    assert set(design.told) <= set(design.settings) - {"replace"}
    assert design.needs_surrogates or not design.runs_networks
    assert hash(design) == hash(dataclasses.replace(design))


@pytest.mark.parametrize("name", DESIGNS)
def test_a_record_says_what_the_design_does(name, context, keys, pixels):
    """Of every format that can hold it: its changes lie in the subspace if it says so, and else not; 8 bits stay in [0, 1], and
    only a design that says what is wrong then may fail."""
    design = DESIGNS[name]
    directions, found = design.directions(context), design.subspace(context)
    assert 0 < found.num_directions < found.total_directions == 48
    for dtype in holding(design):
        recipe = Recipe(design, directions, 30.0 if design.warning else PSNR_DB, dtype)
        made = encode_batch(keys[:COUNT], pixels, recipe)
        assert made.stored.dtype == dtype and made.stored.shape == pixels.shape
        assert made.met.all() or design.unmet
        delta = jnp.asarray(made.stored, jnp.float32) / (255 if dtype == np.uint8 else 1) - pixels / np.float32(255)
        outside = jnp.linalg.norm(delta - jax.vmap(context.space.project)(delta)) / jnp.linalg.norm(delta)
        assert outside < 0.02 if design.inside else outside > 0.1


@pytest.mark.parametrize("name", DESIGNS)
def test_gradients_grow_with_the_steps(name, context):
    """A run's cost is told before it starts: none for noise, and for every attempt as many gradients as there are steps or more."""
    design = DESIGNS[name]
    if design.gradients is None:
        return
    few = design.gradients(context.settings)
    assert few.surrogates == context.settings.steps and few.authorized in (0, 2 + 2 * 7)
    assert design.gradients(dataclasses.replace(context.settings, restarts=2)) == (
        3 * few.surrogates,
        3 * few.authorized,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_auto_is_the_noise_that_a_format_holds(dtype):
    """8 bits get boxed noise, floating point the noise at its exact strength; a design by name is itself in any format."""
    assert choose("auto", dtype) is (BOXED if dtype == np.uint8 else GAUSSIAN)
    assert all(choose(name, dtype) is DESIGNS[name] for name in DESIGNS)


def test_a_name_that_is_not_in_the_table_is_told():
    """In one line with all that there are."""
    with pytest.raises(UserError, match='"giuded" is unknown; choose auto, gaussian, boxed, .*, paper$'):
        choose("giuded", np.uint8)


def test_recipes_share_a_program_if_only_numbers_differ(context):
    """Directions and strength are leaves; the rest is structure, compared by value and not by identity."""

    def structure(psnr_db, **static):
        return jax.tree.structure(Recipe(dataclasses.replace(BOXED), context.space, psnr_db, np.uint8, **static))

    assert structure(1.0) == structure(2.0) and hash(structure(1.0)) == hash(structure(2.0))
    assert structure(1.0) != structure(1.0, rounds=7) and structure(1.0) != structure(1.0, replace=True)
