"""Faces whose names are imported at their first use: what takes long to import is imported where it is needed."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package (PEP 562) for the names that it imports `if TYPE_CHECKING`."""

    @functools.cache
    def home_of() -> dict[str, str]:
        import ast  # together with what it imports about as long as all of `import rushlight`
        import pkgutil

        source = ast.parse(pkgutil.get_data(package, "__init__.py") or b"")
        blocks = [node.body for node in source.body if isinstance(node, ast.If)]
        imports = [node for block in blocks for node in block if isinstance(node, ast.ImportFrom)]
        return {each.name: str(node.module) for node in imports for each in node.names}

    def get(name: str) -> Any:
        if name.startswith("__") or name not in home_of():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home_of()[name]), name)

    return get, lambda: sorted(home_of())
