"""The config of a job: frozen dataclasses that check themselves. Config files change a few leaves of `default()` and say why."""

from ne_jax.config.config_dict import checked, default
from ne_jax.config.leaf import leaves
from ne_jax.config.rules import RELEASE_SECTIONS, first_difference
from ne_jax.config.schema import Config

__all__ = ["RELEASE_SECTIONS", "Config", "checked", "default", "first_difference", "leaves"]
