"""How a leaf of the config is declared, what it takes, and how its value is checked."""

from __future__ import annotations

import dataclasses
import difflib
import numbers
import sys
import typing
from collections.abc import Callable, Iterable
from typing import Any

from ne_jax.data.local_path import expanded
from ne_jax.errors import UserError

# The type of a leaf -> what may be given for it, and how that is called.
_KINDS = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "text"),
    dict: (dict, "a mapping"),
}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What is declared of a leaf beside its name, type and default. Numbers: least <= value <= most, or above < value.

    unit: what a number counts, or what a text is. choices: the texts that it takes; a function where to know them takes long.
    path: a text that names a place on this machine; ~ in front is what a shell makes of it.
    """

    help: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    above: float | None = None
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] = ()
    path: bool = False

    def names(self) -> tuple[str, ...]:
        """The choices; empty: any text."""
        return self.choices() if callable(self.choices) else self.choices

    def range(self) -> str:
        """The numbers that it takes, "at least 1"; empty: any finite number."""
        if self.above is not None:
            return f"more than {self.above:g}"
        if self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        return "" if self.least is None else f"at least {self.least:g}"

    def holds(self, value: float) -> bool:
        """Is a number in the range?"""
        low = self.least is None or value >= self.least
        return low and (self.above is None or value > self.above) and (self.most is None or value <= self.most)


def leaf(default: Any, help: str, **facts: Any) -> Any:
    """A field of a config's dataclass; `facts` are those of `Leaf`. A default that can change is a function that makes it."""
    how = {"default_factory": default} if callable(default) else {"default": default}
    return dataclasses.field(**how, metadata={"leaf": Leaf(help, **facts)})


def section(kind: type) -> type:
    """A frozen dataclass of leaves. Its __post_init__ calls `check_leaves`, so tools that check annotations leave it alone."""
    return typing.no_type_check(dataclasses.dataclass(frozen=True, kw_only=True)(kind))


def takes(field: dataclasses.Field, whole: bool = True) -> str:
    """What a leaf takes: "a whole number of images, at least 1". whole: with choices that take long to know."""
    known, (kind, many) = field.metadata["leaf"], _kind(field)
    choices = known.names() if whole or not callable(known.choices) else ()
    if choices:
        return f"{'a list of' if many else 'one of'} {', '.join(choices)}"
    if kind is str:
        return f"a list of {known.unit}" if many else f"text: {known.unit}"
    said = "a list of numbers" if many else _KINDS[kind][1]
    return ", ".join(filter(None, (f"{said} of {known.unit}" if known.unit else said, known.range())))


def check_leaves(config: Any, prefix: str = "") -> None:
    """Check every leaf of a frozen dataclass that was just made. Raises UserError with the leaf's name, `prefix` in front of it.

    An int where a float is wanted becomes one, and a list a tuple.
    """
    for field in dataclasses.fields(config):
        if "leaf" in field.metadata:
            value = _checked(f"{prefix}{field.name}", getattr(config, field.name), field)
            object.__setattr__(config, field.name, value)


def _kind(field: dataclasses.Field) -> tuple[type, bool]:
    """The type of a leaf that is no None, or of what its tuple holds; and whether it is a tuple."""
    return (*typing.get_args(field.type), field.type)[0], typing.get_origin(field.type) is tuple


def _checked(name: str, value: Any, field: dataclasses.Field) -> Any:
    known, (kind, many) = field.metadata["leaf"], _kind(field)
    if value is None and field.default is None:
        return None
    if isinstance(value, tuple):
        value = list(value)
    each = value if many and isinstance(value, list) else [value]
    if many != isinstance(value, list) or not all(_fits(one, kind) for one in each):
        raise UserError(f"{name} is {_shown(value)}; give {takes(field)}")
    each = [expanded(one, name) if known.path else kind(one) for one in each]
    if kind in (int, float) and not all(map(known.holds, each)):
        raise UserError(f"{name} is {_shown(value)}; give {known.range()}")
    choices = known.names()
    if choices and not set(each) <= set(choices):
        told = f"is {value}; choose from" if many else f'"{value}" is unknown; choose'
        raise UserError(f"{name} {told} {', '.join(choices)}")
    return tuple(each) if many else each[0]


def _fits(value: Any, kind: type) -> bool:
    if not isinstance(value, _KINDS[kind][0]) or isinstance(value, bool) != (kind is bool):
        return False
    return kind is not float or abs(value) <= sys.float_info.max  # neither NaN nor an integer beyond


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def leaves(config: Any) -> dict[str, Any]:
    """Flat view of a config or of a nested dict, sorted: "recode.psnr_db" -> value. Tuples become lists, as JSON has them."""
    flat: dict[str, Any] = {}
    nested = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config
    for key, value in sorted(nested.items()):
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": below for name, below in leaves(value).items()}
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def made(kind: type, given: Any, prefix: str = "", **facts: Any) -> Any:
    """The dataclass `kind` with the leaves in `given`, a nested dict, and `facts`. Raises UserError for a leaf that it has not."""
    types = {field.name: field.type for field in dataclasses.fields(kind) if field.name not in facts}
    if not isinstance(given, dict):
        raise UserError(f"{prefix[:-1]} is {_shown(given)}; set what is in it, such as {prefix}{next(iter(types))}")
    for name in given:
        if name not in types:
            raise UserError(no_leaf(f"{prefix}{name}", [f"{prefix}{known}" for known in types]))
    values = {
        name: made(types[name], value, f"{prefix}{name}.") if dataclasses.is_dataclass(types[name]) else value
        for name, value in given.items()
    }
    return kind(**values, **facts)


def no_leaf(name: str, names: Iterable[str]) -> str:
    """That `name` is no leaf, with the nearest of `names`."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "python -m ne_jax.config lists them all"
    return f'there is no leaf "{name}"; {hint}'
