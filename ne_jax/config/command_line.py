"""--config=FILE.py and --config.LEAF=VALUE, and mistakes in both told in one line.

A text that should be a number goes through as it is, for `checked` to tell with the leaf's name and what it takes.
"""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import re
import sysconfig
import traceback
from collections.abc import Iterator
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from ne_jax.config.config_dict import default
from ne_jax.config.leaf import leaves, no_leaf
from ne_jax.config.schema import Config
from ne_jax.data.local_path import expanded
from ne_jax.errors import UserError

# What a person's config file raises when it is wrong.
FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError, flags.Error,
)  # fmt: skip
_OURS = (sysconfig.get_path("stdlib"), str(pathlib.Path(__file__).parents[1]))
_INSTALLED = {"site-packages", "dist-packages"}  # of whichever environment; a path may add another's


class _Number(flags.ArgumentParser):
    def parse(self, argument: Any) -> Any:
        for kind in (int, float):
            try:
                return kind(argument) if isinstance(argument, str) else argument
            except ValueError:
                continue
        return argument


class _Bool(flags.BooleanParser):
    def parse(self, argument: Any) -> Any:
        try:
            return super().parse(argument)
        except ValueError:
            return argument


class _List(tuple_parser.TupleParser):
    """vit_a,vit_b or ('vit_a', 'vit_b') or 0,10 or one of these alone; nothing for none."""

    def parse(self, argument: Any) -> tuple:
        if not isinstance(argument, str):
            return super().parse(argument)
        try:
            value = ast.literal_eval(argument)
        except (ValueError, SyntaxError):  # names without quotes
            text = argument.strip()
            text = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
            value = [name.strip().strip("'\"") for name in text.split(",") if name.strip()]
        return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def define() -> flags.FlagHolder:
    """The flag --config."""
    for kind, parser in ((int, _Number()), (float, _Number()), (bool, _Bool()), (tuple, _List())):
        config_flags.register_flag_parser_for_type(kind, parser)
    return config_flags.DEFINE_config_file("config", None, "config file, such as configs/quickstart.py")


def with_whole_path(argv: list[str]) -> list[str]:
    """`argv` with the path of the config file as a shell would have it, which leaves ~ after = alone."""
    found = [re.fullmatch(r"(--?config=)(.+)", word, re.DOTALL) for word in argv]
    return [each[1] + expanded(each[2], "--config") if each else word for each, word in zip(found, argv, strict=True)]


def refuse_unknown(argv: list[str]) -> None:
    """Raise UserError for --config.NAME where no leaf has that name; it names the nearest."""
    known = [*leaves(default().to_dict()), *(field.name for field in dataclasses.fields(Config))]
    for name in re.findall(r"(?m)^--?(?:no)?config\.([^=\[\n]+)", "\n".join(argv)):
        if name not in known and not name.startswith("models."):
            raise UserError(f"--config.{name}: {no_leaf(name, known)}")


def mistake(error: BaseException) -> UserError:
    """One line for what flags or a config file raised; with file and line where these are a config file's."""
    for each in _chain(error):
        if isinstance(each, SyntaxError) and each.filename:
            return UserError(f"--config: {each.filename}, line {each.lineno}: {each.msg}")
        places = [at for at in traceback.extract_tb(each.__traceback__) if _is_persons(at.filename)]
        if places and not isinstance(each, OSError):
            return UserError(f"--config: {places[-1].filename}, line {places[-1].lineno}: {_reason(each)}")
    if isinstance(error, flags.Error):
        return UserError(str(error).splitlines()[0])
    if isinstance(error, OSError):
        return UserError(f"--config: {str(error).splitlines()[-1].strip()}")  # what the system says
    return UserError(f"--config: the command line sets what the config has not: {_reason(error)}")


def _is_persons(filename: str) -> bool:
    """Whether code is neither the interpreter's, nor ours, nor an installed package's."""
    return not filename.startswith(("<", *_OURS)) and not _INSTALLED & set(pathlib.PurePath(filename).parts)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """What was raised, and what it was raised for: ml_collections and absl wrap what a config file raises."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    """In one line; ml_collections wraps a KeyError into an AttributeError, and str() of a KeyError puts quotes around it."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__
