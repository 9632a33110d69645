"""The source of the package as syntax trees: read once for all the tests that look through it."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import rushlight

SOURCE = Path(rushlight.__file__).parent


@functools.cache
def trees() -> dict[str, ast.Module]:
    """The syntax of every source file, by its path in the package."""
    paths = sorted(SOURCE.rglob("*.py"))
    return {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def written(function: ast.expr) -> str:
    """A function as it is called, `files.write_json` for one: that of names without `ast.unparse`, which takes ten times as long."""
    if isinstance(function, ast.Attribute):
        return f"{written(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ast.unparse(function)


@functools.cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """Every call in the source: its file, the function as it is written, and the call."""
    return [
        (name, written(node.func), node)
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]
