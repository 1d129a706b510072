"""The config as a ConfigDict, which config files and the command line fill, and the checked Config that is made of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from ne_jax.config.leaf import made, no_leaf
from ne_jax.config.schema import Config
from ne_jax.errors import UserError


class _Leaves(ConfigDict):
    """Where it is locked, a mistyped leaf is an error that names the nearest one, and no new leaf."""

    def __setitem__(self, key: str, value: Any) -> None:
        if self.is_locked and key not in self:
            raise KeyError(no_leaf(key, self))
        super().__setitem__(key, value)


def default() -> ConfigDict:
    """The default config, for a config file to change: Fashion-MNIST's test set, encoded for the shipped vit_a.

    Takes values of any type; `checked` tells the wrong ones.
    """
    config = _defaults(Config)
    config.lock()
    config.models.unlock()
    return config


def _defaults(kind: type) -> ConfigDict:
    values = _Leaves(type_safe=False)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            values[field.name] = _defaults(field.type)
        else:
            new = field.default is dataclasses.MISSING
            values[field.name] = field.default_factory() if new else field.default
    return values


def checked(config: Any) -> Config:
    """The frozen config of what get_config() gives. Raises UserError in one line that names the leaf that is unknown or wrong."""
    try:
        given = config.to_dict()
    except AttributeError as error:
        raise UserError(
            f"--config: get_config() returns {type(config).__name__}; return what default() made"
        ) from error
    return made(Config, given)
