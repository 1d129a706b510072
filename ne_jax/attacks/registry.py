"""All attacks, by tier. Another one: a pure function, an `Attack` in its module's tuple, a test of what it promises."""

from __future__ import annotations

from ne_jax.attacks import (
    blind,
    blind_spot,
    denoising,
    known_pairs,
    layer_known,
    network_known,
    processing,
    reader_training,
    released_twice,
    third_moments,
    unet_pairs,
    whole_release,
)
from ne_jax.attacks.attack import Attack

_MODULES = (
    processing,
    denoising,
    blind,
    released_twice,
    known_pairs,
    layer_known,
    blind_spot,
    whole_release,
    third_moments,
    unet_pairs,
    network_known,
    reader_training,
)
ATTACKS: tuple[Attack, ...] = tuple(
    sorted((one for module in _MODULES for one in module.ATTACKS), key=lambda a: a.tier)
)
BY_NAME: dict[str, Attack] = {attack.name: attack for attack in ATTACKS}
