"""The declaration by which a source of data says what it opens, and how."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from rushlight.data.splits import Data
from rushlight.errors import DataError


@dataclass(frozen=True)
class SourceKind:
    """A kind of source: the key of its name in messages, which sources are of it, and how they are opened.

    `open(source, **options)` takes those options of `DataOptions` that are its parameters. Where `validation` and
    `test` are among them, it opens data given apart by itself; else that is opened as data for a trained model is.
    `progress` and `memory_limit` (bytes of samples to keep in memory) are given where there is a parameter for them.
    """

    words: str
    matches: Callable[[Any], bool]
    open: Callable[..., Data]

    def takes(self, option: str) -> bool:
        """Tell whether `open` has a parameter of this name."""
        return option in inspect.signature(self.open).parameters


def refuse_folder(error: OSError) -> NoReturn:
    """Raise DataError for a folder that cannot be read: its files would be missing without a word."""
    raise DataError("folder-unreadable", path=error.filename, reason=error.strerror) from error
