"""The kinds of the entries in JSON files: what is read is checked against them before anything is done with it.

A kind is a function that tells whether a value is of it; a dict of kinds by name, where a name that ends in "?" may be
absent and others may be there; or a list of one kind, for a list of such.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Kind = Callable[[Any], bool] | dict[str, Any] | list[Any]

LAST_SECOND = 1e11  # of the year 5138: a later time is damage, and no calendar shows it
LARGEST = 2**63  # whole numbers are smaller


def is_text(value: Any) -> bool:
    """Tell whether a value is text."""
    return isinstance(value, str)


def is_object(value: Any) -> bool:
    """Tell whether a value is a JSON object."""
    return isinstance(value, dict)


def is_flag(value: Any) -> bool:
    """Tell whether a value is true or false."""
    return isinstance(value, bool)


def is_whole_number(value: Any) -> bool:
    """Tell whether a value is a whole number of at most 64 bits."""
    return type(value) is int and -LARGEST <= value < LARGEST  # no bool


def is_count(value: Any) -> bool:
    """Tell whether a value is a whole number from 0 on."""
    return type(value) is int and 0 <= value < LARGEST


def is_count_below(most: int) -> Kind:
    """Return the kind of whole numbers from 0 on that are smaller than `most`."""
    return lambda value: is_count(value) and value < most


def is_finite(value: Any) -> bool:
    """Tell whether a value is a finite number."""
    return math.isfinite(value) if isinstance(value, float) else is_whole_number(value)


def is_positive(value: Any) -> bool:
    """Tell whether a value is a finite number greater than 0."""
    return is_finite(value) and value > 0


def is_share(value: Any) -> bool:
    """Tell whether a value is a share of one."""
    return (isinstance(value, float) or type(value) is int) and 0 <= value <= 1


def is_time(value: Any) -> bool:
    """Tell whether a value is a time or a span of time, in seconds."""
    return (isinstance(value, float) or type(value) is int) and 0 <= value < LAST_SECOND


def is_one_of(*texts: str) -> Kind:
    """Return the kind of some texts."""
    return lambda value: isinstance(value, str) and value in texts


def maybe(kind: Kind) -> Kind:
    """Return the kind of values that are of a kind, or null."""
    is_right = checker(kind)
    return lambda value: value is None or is_right(value)


def pair_of(kind: Kind) -> Kind:
    """Return the kind of lists of two values of a kind."""
    are_right = checker([kind])
    return lambda value: are_right(value) and len(value) == 2


def named(kind: Kind) -> Kind:
    """Return the kind of objects whose values are all of a kind, whatever their names."""
    is_right = checker(kind)
    return lambda value: isinstance(value, dict) and all(map(is_right, value.values()))


def either(*kinds: Kind) -> Kind:
    """Return the kind of values that are of one of the kinds."""
    checkers = [checker(kind) for kind in kinds]
    return lambda value: any(is_right(value) for is_right in checkers)


def checker(kind: Kind) -> Callable[[Any], bool]:
    """Return a function that tells whether a value is of a kind, three times as fast as `wrong_entry`, which names what is wrong."""
    if callable(kind):
        return kind
    if isinstance(kind, list):
        is_right = checker(kind[0])
        return lambda value: isinstance(value, list) and all(map(is_right, value))
    checkers = {name.removesuffix("?"): checker(inner) for name, inner in kind.items()}
    required = {name for name in kind if not name.endswith("?")}

    def are_right(value: Any) -> bool:
        if not isinstance(value, dict):
            return False
        for name, entry in value.items():
            is_right = checkers.get(name)
            if is_right is not None and not is_right(entry):
                return False
        return value.keys() >= required

    return are_right


def wrong_entry(value: Any, kind: Kind, name: str = "") -> str | None:
    """Return the name of the first entry that is absent or of another kind, as "model.name"; None where there is none."""
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return name
        for key, inner in kind.items():
            entry = key[:-1] if key[-1] == "?" else key
            if entry in value:
                found = wrong_entry(value[entry], inner, f"{name}.{entry}" if name else entry)
                if found is not None:
                    return found
            elif key is entry:
                return f"{name}.{entry}" if name else entry
        return None
    if isinstance(kind, list):
        if not isinstance(value, list):
            return name
        if callable(kind[0]) and all(map(kind[0], value)):
            return None
        entries = (wrong_entry(entry, kind[0], f"{name}[{index}]") for index, entry in enumerate(value))
        return next((found for found in entries if found is not None), None)
    return None if kind(value) else name
