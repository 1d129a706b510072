"""Noise keys: the same image in the same artefact has one key, and nothing else shares it (contract 4)."""

import jax
import numpy as np

from ne_jax.recoding.noise_keys import noise_keys

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 1), np.uint8)


def words(*given) -> list[tuple[int, ...]]:
    return [tuple(row) for row in np.asarray(jax.random.key_data(noise_keys(*given))).tolist()]


def test_a_key_hangs_on_everything_that_it_is_derived_from():
    """Secret, artefact, shape and pixels: another one of any of them is another key."""
    kept = words(b"s", b"a", IMAGES)
    turned = IMAGES.reshape(3, 6, 4, 1)
    brighter = IMAGES.copy()
    brighter[:, 0, 0, 0] ^= 1
    others = [
        words(*given)
        for given in ((b"t", b"a", IMAGES), (b"s", b"b", IMAGES), (b"s", b"a", turned), (b"s", b"a", brighter))
    ]
    every = [word for row in (kept, *others) for word in row]
    assert len(set(every)) == len(every) == 15


def test_a_key_hangs_on_nothing_else():
    """Not on the batch nor on the place in it."""
    kept = words(b"s", b"a", IMAGES)
    assert words(b"s", b"a", IMAGES[::-1]) == kept[::-1] and words(b"s", b"a", IMAGES[1:2]) == kept[1:2]


def test_artefact_and_shape_cannot_be_mistaken_for_each_other():
    """Where one ends and the other begins is part of what is hashed."""
    assert words(b"s", b"a(4, 6, 1)", IMAGES)[0] != words(b"s", b"a", IMAGES)[0]
    assert words(b"s", b"", IMAGES)[0] != words(b"s", b"(4, 6, 1)", IMAGES)[0]
