"""What is generated from the code, as Markdown: the options, the errors, the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import click
import typer

from rushlight import texts
from rushlight.cli.app import app
from rushlight.cli.help import explain
from rushlight.options import options_reference

FLAG = r"(?<![\w-])--[a-z][a-z-]*"  # of the command line
WORDS = {
    "en": {"option": "option", "meaning": "meaning", "default": "default", "kind": "type", "arguments": "Arguments", "options": "Options"},
    "zh": {"option": "选项", "meaning": "含义", "default": "默认值", "kind": "类型", "arguments": "参数", "options": "选项"},
}  # fmt: skip


def markdown(name: str, language: str) -> str:
    """Return the generated Markdown called `name`: "options", "errors" or "commands"."""
    makers = {"options": options, "errors": errors, "commands": commands}
    return makers[name](language)


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────


def options(language: str) -> str:
    """Return a table of the options of each panel, as their declaration has them."""
    return options_reference(language)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────


def errors(language: str) -> str:
    """Return every error: its key, what is wrong, and what to do next."""
    catalogue, source = read_errors(language)
    lines: list[str] = []
    groups: dict[str, list[str]] = {}
    group = ""
    for line in source.splitlines():
        if heading := re.match(r"\s*# ── (.+?) ─", line):
            group = heading[1]
        elif key := re.match(r"\[([a-z0-9-]+)\]", line):
            groups.setdefault(group, []).append(key[1])
    for group, keys in groups.items():
        lines += ["", f"## {group[:1].upper()}{group[1:]}"]
        for key in keys:
            problem, advice = catalogue[key]
            lines += [
                "",
                f"(error-{key})=",
                f"`{key}`",
                f": {literal(problem)}",
                "",
                f"  {literal(advice)}" if advice else "",
            ]
    missing = set(catalogue) - {key for keys in groups.values() for key in keys}
    assert not missing, f"errors without a place in the index: {sorted(missing)}"
    return "\n".join(lines)


def read_errors(language: str) -> tuple[dict[str, tuple[str, str]], str]:
    """Return the catalogue of a language by key, and the file's text, whose comments group the keys."""
    source = (texts.FOLDER / language / "errors.toml").read_text(encoding="utf-8")
    entries: dict[str, Any] = tomllib.loads(source)
    return {key: (whole(entry["problem"]), whole(entry.get("advice", ""))) for key, entry in entries.items()}, source


def whole(text: str | dict[str, str]) -> str:
    """Return a text; of one with a form for one and a form for many, that for many."""
    return text if isinstance(text, str) else text["other"]


def literal(text: str) -> str:
    """Return a text as Markdown that shows it as it is, with its `{places}` marked."""
    escaped = re.sub(r"([\\<>*_\[\]#|~])", r"\\\1", " ".join(text.replace("`", "").split()))
    return re.sub(r"\{[^{}]*\}|" + FLAG, lambda place: f"`{place[0].replace(chr(92), '')}`", escaped)


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────


def commands(language: str) -> str:
    """Return every command of `rushlight`: its usage, its arguments, and its options by panel."""
    group: Any = typer.main.get_command(app)
    return "\n".join(line for name, command in group.commands.items() for line in describe(name, command, language))


def describe(name: str, command: click.Command, language: str) -> Iterator[str]:
    """Yield the lines of one command."""
    words = WORDS[language]
    context = click.Context(command, info_name=f"rushlight {name}")
    explain(command, context, language)
    pieces = [piece for piece in command.collect_usage_pieces(context) if piece]
    usage = " ".join(["rushlight", name, *pieces]).replace("[[", "[").replace("]]", "]")
    yield from ("", f"## rushlight {name}", "", "```text", usage, "```", "")
    yield plain(command.help or "")
    if command.epilog:
        yield from ("", plain(command.epilog))
    panels: dict[str, list[click.Parameter]] = {}
    for parameter in command.get_params(context):
        is_argument = parameter.param_type_name == "argument"
        panel = words["arguments"] if is_argument else getattr(parameter, "rich_help_panel", None) or words["options"]
        if not getattr(parameter, "hidden", False) and parameter.name != "help":
            panels.setdefault(panel, []).append(parameter)
    for panel, parameters in panels.items():
        yield from ("", f"**{panel}**", "", f"| | {words['meaning']} | {words['default']} |", "|---|---|---|")
        for parameter in parameters:
            yield f"| {spelled(parameter)} | {cell(plain(getattr(parameter, 'help', '') or ''))} | {cell(shown_default(parameter))} |"


def spelled(parameter: click.Parameter) -> str:
    """Return how a parameter is written."""
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name}`"
    names = [*parameter.opts, *parameter.secondary_opts]
    return " ".join(f"`{name}`" for name in names)


def shown_default(parameter: click.Parameter) -> str:
    """Return a default as `--help` shows it."""
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    default = parameter.default
    return (
        ""
        if default in (None, False, ()) or callable(default) or str(default).startswith("Sentinel")
        else f"`{default}`"
    )


def plain(text: str) -> str:
    """Return a help text as Markdown, without rich's markup."""
    return re.sub(FLAG, r"`\g<0>`", " ".join(re.sub(r"\[/?(?:bold|dim|cyan|green|yellow|red)\]", "", text).split()))


def cell(text: str) -> str:
    """Return a text that can stand in a table's cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
