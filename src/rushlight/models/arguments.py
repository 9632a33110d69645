"""Constructor arguments of models, to JSON and back."""

from __future__ import annotations

from typing import Any


def as_json(value: Any) -> Any:
    """Return a constructor argument JSON-ready."""
    return list(value) if isinstance(value, (tuple, set)) else value


def restored(value: Any) -> Any:
    """Return an argument as it was before JSON made its tuples lists."""
    return tuple(value) if isinstance(value, list) else value
