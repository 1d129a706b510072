"""Files that other Python packages carry: real weights and real photographs, without any download."""

from __future__ import annotations

import importlib.util
import pathlib

from ne_jax.errors import UserError


def find(place: str) -> pathlib.Path:
    """The file "package/folder/name" of an installed package, which is not imported. Raises UserError without it."""
    package, _, inside = place.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{place}: the package {package} is not installed; pip install -r requirements-zoo.txt")
    path = pathlib.Path(spec.submodule_search_locations[0], inside)
    if not path.is_file():
        raise UserError(f"{place}: the installed {package} has no such file; pip install -r requirements-zoo.txt")
    return path
