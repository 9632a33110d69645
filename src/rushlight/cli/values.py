"""Reading option values."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from rushlight.errors import UsageError


def settings(option: str, given: Sequence[str] | None) -> dict[str, Any]:
    """Return `name=value` pairs as a dict; a value is a Python literal where it reads as one, else text."""
    found: dict[str, Any] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UsageError("not-a-setting", option=option, value=pair)
        found[name.strip()] = literal(value.strip())
    return found


def literal(text: str) -> Any:
    """Return what the text says in Python, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Return comma-separated positive whole numbers."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError("not-sizes", option=option, value=text)
    return tuple(map(int, parts))


def names(text: str | None) -> tuple[str, ...] | None:
    """Return comma-separated names."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def as_size(option: str, text: str | None) -> tuple[int, int] | None:
    """Return '64' as (64, 64) and '48x64' as (48, 64)."""
    if text is None:
        return None
    sizes = numbers(option, text.lower().replace("x", ","))
    if len(sizes) > 2:
        raise UsageError("not-sizes", option=option, value=text)
    return sizes[0], sizes[-1]
