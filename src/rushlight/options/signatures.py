"""Signatures and docstrings that show every option, and their types for type checkers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from rushlight.options.declare import OPTIONS, TAKES, Options
from rushlight.texts import Note

if TYPE_CHECKING:
    from torch import nn

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Trains(Protocol[P, R_co]):
    """The type of `train` and `epochs`, for type checkers: the options are those of `Options`."""

    def __call__(self, model: str | nn.Module, data: Any = "fashion-mnist", *args: P.args, **options: P.kwargs) -> R_co:
        """Call the function."""
        ...


class Resumes(Protocol[P, R_co]):
    """The type of `resume`."""

    def __call__(
        self, run: Any, model: str | nn.Module | None = None, data: Any = None, *args: P.args, **options: P.kwargs
    ) -> R_co:
        """Call the function."""
        ...


class Opens(Protocol[P, R_co]):
    """The type of `open_data`."""

    def __call__(self, source: Any, test: Any = None, *args: P.args, **options: P.kwargs) -> R_co:
        """Call the function."""
        ...


def shows(verb: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Let a function's signature and docstring show a verb's options with their types, defaults and meanings."""

    def show(function: Callable[..., R]) -> Callable[..., R]:
        signature = inspect.signature(function)
        own = [entry for entry in signature.parameters.values() if entry.kind is not inspect.Parameter.VAR_KEYWORD]
        options = [OPTIONS[name] for name in TAKES[verb]]
        keywords = [
            inspect.Parameter(
                option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.type
            )
            for option in options
        ]
        function.__signature__ = signature.replace(parameters=[*own, *keywords])  # type: ignore[attr-defined]
        lines = []
        for option in options:
            meaning = f"{option.help} {option.in_python or ''}".rstrip()
            default = option.in_words or option.default
            lines.append(f"    {Note('words.option-line', name=option.name, default=default, meaning=meaning)}")
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *lines, ""])
        return function

    return show


def trains(options: Callable[P, Options]) -> Callable[[Callable[..., R]], Trains[P, R]]:
    """Give `train` and `epochs` the options as their keywords, for readers and for type checkers."""
    return shows("train")


def resumes(options: Callable[P, Options]) -> Callable[[Callable[..., R]], Resumes[P, R]]:
    """Give `resume` the options that a run which goes on takes."""
    return shows("resume")


def opens(options: Callable[P, Options]) -> Callable[[Callable[..., R]], Opens[P, R]]:
    """Give `open_data` the options that concern data."""
    return shows("open_data")


def tunes(function: Callable[..., R]) -> Callable[..., R]:
    """Give `tune` the options that every run of a study takes."""
    return shows("tune")(function)
