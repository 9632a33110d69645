"""Command-line options that derive from the declared ones, and how their values are read."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from rushlight.errors import UsageError
from rushlight.options import OPTIONS, TAKES

PLAIN_TYPES = (bool, int, float, int | None, float | None)
SHORT: dict[str, tuple[str, Any, str | None]] = {  # a name with an option of its own, for one that takes NAME=VALUE
    "momentum": ("optimizer_arguments", float, None),
    "weight_decay": ("optimizer_arguments", float, None),
    "hidden": ("model_arguments", str, "SIZES"),
}


def takes_options(verb: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, in place of its `**options`, an option for each that `verb` takes, in the declared order."""

    def give(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [entry for entry in signature.parameters.values() if entry.name != "options"]
        options = []
        for option in (OPTIONS[name] for name in TAKES[verb]):
            is_taken = verb != "resume" or option.on_resume != "live"
            if (
                option.flags and is_taken and (verb, option.name) != ("open_data", "quiet")
            ):  # what it prints is all it does
                short = [
                    (name, kind, metavar) for name, (whole, kind, metavar) in SHORT.items() if whole == option.name
                ]
                options += [keyword(name, None, kind, metavar) for name, kind, metavar in short]
                kind: Any = option.type if option.type in PLAIN_TYPES else str
                kind = list[str] if option.repeats else kind
                # else what was not given is left out
                default = option.default if verb in ("train", "open_data") else None
                options.append(keyword(option.name, default, kind, option.metavar, *option.flags))
        parameters = sorted(  # its own come last, but those of a search first
            [*own, *options], key=lambda entry: (entry.kind, (entry in options) == (verb == "tune"))
        )
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {entry.name: entry.annotation for entry in parameters}
        return command

    return give


def keyword(name: str, default: Any, kind: Any, metavar: str | None, *flags: str) -> inspect.Parameter:
    """Return a command-line option as a parameter for typer."""
    declared = Annotated[kind | None, typer.Option(*flags, metavar=metavar)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=declared)


def chosen(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a command line as Python's verbs take them; those that were not given are left out."""
    found = {name: value for name, value in options.items() if value not in (None, []) and name not in SHORT}
    for name, read in (
        ("optimizer_arguments", settings), ("loss_arguments", settings), ("model_arguments", settings),
        ("schedule_arguments", settings), ("groups", groups), ("classes", names), ("image_size", as_size),
    ):  # fmt: skip
        if name in found:
            found[name] = read(OPTIONS[name].flags[0].removeprefix("--"), found[name])
    for name, (whole, *_) in SHORT.items():
        if options.get(name) is not None:
            value = numbers(name, options[name]) if name == "hidden" else options[name]
            found[whole] = {**found.get(whole, {}), name: value}
    return found


def settings(option: str, given: Sequence[str]) -> dict[str, Any]:
    """Return `name=value` pairs as a dict; a value is a Python literal where it reads as one, else text."""
    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UsageError("not-a-setting", option=option, value=pair)
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = value.strip()
    return found


def groups(option: str, given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return 'PATTERN:name=value,…' texts as settings by pattern."""
    return {pattern: settings(option, rest.split(",")) for pattern, _, rest in (each.partition(":") for each in given)}


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Return comma-separated positive whole numbers."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError("not-sizes", option=option, value=text)
    return tuple(map(int, parts))


def names(option: str, text: str) -> tuple[str, ...]:
    """Return comma-separated names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def as_size(option: str, text: str) -> tuple[int, int]:
    """Return '64' as (64, 64) and '48x64' as (48, 64)."""
    sizes = numbers(option, text.lower().replace("x", ","))
    if len(sizes) > 2:
        raise UsageError("not-sizes", option=option, value=text)
    return sizes[0], sizes[-1]
