"""The shape of the house: small files, small functions, few rooms, a sign at every door."""

import ast
import pathlib

import pytest

import ne_jax

HOUSE = pathlib.Path(ne_jax.__file__).parent
FILES = {str(path.relative_to(HOUSE)): path.read_text() for path in sorted(HOUSE.rglob("*.py"))}
LINES, FUNCTION_LINES, ROOMS = 300, 40, 15


def functions(text):
    """(name, lines) of every function of a file, methods and inner ones too, from def to its last line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_files_are_short():
    """A file can be read at one go: nobody needs to look for what it knows."""
    long = [f"{name} ({len(text.splitlines())})" for name, text in FILES.items() if len(text.splitlines()) > LINES]
    assert not long, f"files of more than {LINES} lines; split them by what a reader looks for: {', '.join(long)}"


def test_functions_are_short():
    """A function does one thing."""
    long = [
        f"{file}: {name} ({lines})"
        for file, text in FILES.items()
        for name, lines in functions(text)
        if lines > FUNCTION_LINES
    ]
    assert not long, f"functions of more than {FUNCTION_LINES} lines; give their parts names: {', '.join(long)}"


def test_the_top_has_few_entries():
    """Who opens the package sees its rooms, and not a heap of files."""
    found = sorted({path.name for path in HOUSE.iterdir()} - {"__pycache__"})
    assert len(found) <= ROOMS, f"{len(found)} entries in ne_jax/, not at most {ROOMS}: {', '.join(found)}"


def test_every_module_says_what_it_knows():
    """A docstring at its top, folders' too."""
    silent = [name for name, text in FILES.items() if not ast.get_docstring(ast.parse(text))]
    assert not silent, f"modules without a docstring: {', '.join(silent)}"


@pytest.mark.parametrize("spaces", [0, 4])
def test_a_function_is_as_long_as_its_last_line_says(spaces):
    """The count is of lines from def to the end, docstring and signature included, for methods too."""
    text = ("class A:\n" if spaces else "") + " " * spaces + "def f(\n    a,\n):\n" + " " * (spaces + 4) + "return a\n"
    assert list(functions(text)) == [("f", 4)]
