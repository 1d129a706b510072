"""Tables of every leaf: docs/CONFIG.md, and the last part of --help."""

from __future__ import annotations

import dataclasses
from typing import Any

from tabulate import tabulate

from ne_jax.config.config_dict import default
from ne_jax.config.leaf import leaves, takes
from ne_jax.config.rules import MAY_CHANGE, RELEASE_SECTIONS
from ne_jax.config.schema import Config, ModelConfig

_INTRODUCTION = f"""# Every leaf of the config

Made by `python -m ne_jax.config > docs/CONFIG.md`. A config file changes leaves of `ne_jax.config.default()`, as those in `configs/`
do. The command line changes them after it: `--config.recode.psnr_db=3`, `--config.readers=vit_a,vit_b`, `--config.recode.fit`.

These decide what a release holds: {", ".join(RELEASE_SECTIONS)}; but not {" and ".join(MAY_CHANGE)}.
A workdir keeps them: another value needs another workdir.
"""


def _sections() -> list[tuple[str, type]]:
    """Prefix and dataclass of each."""
    fields = dataclasses.fields(Config)
    below = ((f"{field.name}.", field.type) for field in fields if "leaf" not in field.metadata)
    return [("", Config), ("models.NAME.", ModelConfig), *below]


def _rows(prefix: str, kind: type, whole: bool) -> list[tuple[str, str, str, str]]:
    """Name, what it takes, default and help of every leaf of a section."""
    values = leaves(default().to_dict())
    fields = [(f"{prefix}{field.name}", field) for field in dataclasses.fields(kind) if "leaf" in field.metadata]
    return [
        (name, takes(field, whole), _shown(values.get(name)), field.metadata["leaf"].help) for name, field in fields
    ]


def _shown(value: Any) -> str:
    """A default, as it is typed; an empty one as nothing."""
    return ",".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def plain() -> str:
    """For a terminal, without help; takes no time."""
    rows = [row[:3] for section in _sections() for row in _rows(*section, whole=False)]
    return tabulate(rows, ("leaf", "takes", "default"), "simple", disable_numparse=True)


def markdown() -> str:
    """The page, a table for each section."""
    parts = [_INTRODUCTION]
    for prefix, kind in _sections():
        rows = [
            (f"`{name}`", what, default and f"`{default}`", told)
            for name, what, default, told in _rows(prefix, kind, True)
        ]
        table = tabulate(rows, ("Leaf", "Takes", "Default", "What it is"), "github", disable_numparse=True)
        parts.append(f"## {prefix.removesuffix('.') or 'The job'}\n\n{kind.__doc__}\n\n{table}\n")
    return "\n".join(parts)
