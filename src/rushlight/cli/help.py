"""The words of `--help`, from the catalogue, in the language of the process; read only when help is asked for."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from rushlight import files
from rushlight.cli.values import SHORT
from rushlight.errors import UsageError, suggest
from rushlight.options import OPTIONS, found_text, is_ray_address
from rushlight.texts import Note, language, text

SEARCHED = ("lr", "batch_size", "schedule", "augment", "momentum", "weight_decay", "hidden")  # unless they are given
OF_NUMBERS = {"integer": "int", "float": "float", "number": "float"}  # by a word of typer's error
OTHER_FLAGS = {("tune", "--processes"): "--jobs", ("train", "--jobs"): "--processes"}  # of other commands, for ours
TYPERS_ERROR: Any = typer.BadParameter.__base__  # its UsageError, to which typer gives no name


def write_usage(command: Any, ctx: Any, formatter: Any) -> None:
    """Write the usage line of a command."""
    pieces = " ".join(command.collect_usage_pieces(ctx))
    usage = text("help.page.usage")
    formatter.write_usage(ctx.command_path, pieces, prefix=usage if usage.endswith("：") else f"{usage} ")


class Command(TyperCommand):
    """A command whose help comes from the catalogue."""

    format_usage = write_usage

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Read the arguments; `--ray` without an address after it is `--ray=local`."""
        read = [
            "--ray=local" if word == "--ray" and not is_ray_address(after) else word
            for word, after in pairwise([*args, ""])
        ]
        return super().parse_args(ctx, read)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help page."""
        explain(self, ctx, language())
        super().format_help(ctx, formatter)


class Program(TyperGroup):
    """`rushlight` itself, whose help comes from the catalogue."""

    format_usage = write_usage

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help page."""
        explain(self, ctx, language())
        super().format_help(ctx, formatter)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by its name; UsageError suggests the nearest one."""
        if cmd_name not in self.commands:
            known = list(self.commands)
            suggestion = suggest(cmd_name, known)
            raise UsageError("unknown-command", name=cmd_name, known=", ".join(known), suggestion=suggestion)
        return self.commands[cmd_name]


def explain(command: Any, context: Any, code: str) -> None:
    """Give a command and its parameters their words in one language, and typer its own."""
    from typer import rich_utils  # it imports rich

    class Folding(rich_utils.OptionHighlighter):
        """Lets a text without blanks go on in the next line, as Chinese does; typer would cut it off."""

        def __call__(self, text: Any) -> Any:
            found = super().__call__(text)
            found.overflow = "fold"
            return found

    def words(section: str, name: str) -> str:
        found = found_text(section, name)
        return "" if found is None else found.translated(code)

    section = f"help.commands.{command.name}."
    command.help = "\n\n".join(filter(None, (words(section, "summary"), words(section, "about"))))
    command.epilog = words(section, "epilog")
    for inner in getattr(command, "commands", {}).values():
        inner.help = words(f"help.commands.{inner.name}.", "summary")
    for parameter in command.get_params(context):
        name, is_option = parameter.name, parameter.param_type_name == "option"
        parameter.help = words(section, name) or words("help.options." if is_option else "help.arguments.", name)
        if is_option and command.name in ("train", "resume", "tune"):
            option = OPTIONS.get(SHORT[name][0] if name in SHORT else name)
            own = "search" if command.name == "tune" and name not in ("json", "help") else "run"
            panel, usual = (own, "") if option is None else (option.panel, str(option.default or ""))
            parameter.rich_help_panel = words("help.panels.", panel)
            default = words("help.defaults.", name)
            if command.name == "tune":
                searched = words("help.page.", "searched") if name in SEARCHED else default or usual
                default = {"compile": "never", "name": ""}.get(name, searched)
            if command.name == "resume":  # what is not given stays as it was
                default = words("help.page.", "as-before") if panel != "run" else default or usual
            parameter.show_default = default or True
    for name in ("arguments", "options", "commands"):
        setattr(rich_utils, f"{name.upper()}_PANEL_TITLE", words("help.page.", name))
    rich_utils.DEFAULT_STRING = words("help.page.", "default").replace("{value}", "{}")
    rich_utils.REQUIRED_LONG_STRING = words("help.page.", "required")
    rich_utils.highlighter = Folding()


def teach(error: Exception, arguments: list[str], app: typer.Typer) -> Exception:
    """Return typer's errors about arguments, and the system's about paths, in our words; any other error as it is."""
    if isinstance(error, OSError) and error.filename is not None:
        path = os.fsdecode(error.filename)
        if isinstance(error, FileNotFoundError):
            return UsageError("no-such-file", path=path)
        found = files.explanation(error, path)
        return found if found.key != "disk-error" else UsageError("path-refused", path=path, reason=error.strerror)
    if not isinstance(error, TYPERS_ERROR):
        return error
    context, parameter, kind = getattr(error, "ctx", None), getattr(error, "param", None), type(error).__name__
    named = [argument for argument in arguments if not argument.startswith("-")][:1]
    command = context.command_path if context else " ".join(["rushlight", *named])
    if kind == "NoSuchOption":
        known = list(options_by_flag(context.command)) if context else []
        ours = OTHER_FLAGS.get((context.command.name, error.option_name)) if context else None
        suggestion = Note("training.called-here", name=ours) if ours else suggest(error.option_name, known)
        return UsageError("unknown-flag", command=command, option=error.option_name, suggestion=suggestion)
    if kind == "BadOptionUsage" and named:  # it has no context
        taken: Any = typer.main.get_command(app)
        option = options_by_flag(taken.commands[named[0]]).get(error.option_name)
        for flag, _, value in (word.partition("=") for word in arguments):
            if value and flag == error.option_name and option is not None and option.is_flag:
                return UsageError("switch-with-value", command=command, option=flag, value=value)
        value = getattr(option, "metavar", None) or "VALUE"
        return UsageError("flag-without-value", command=command, option=error.option_name, value=value)
    if kind == "UsageError" and context is not None:  # there are more arguments than the command has
        return about_extra(error.message.rpartition("(")[2].removesuffix(")").split(), arguments, context)
    if parameter is None:
        return UsageError("bad-command-line", command=command, reason=error.format_message())
    name = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.metavar
    if kind == "MissingParameter":
        usage = " ".join("latest" if each == "RUN" else each for each in argument_names(context))
        return UsageError("missing-argument", command=command, name=name, usage=usage)
    wanted = next((kind for word, kind in OF_NUMBERS.items() if word in error.message), "")
    reason = found_text("help.page.takes-", wanted) or error.message
    return UsageError("bad-flag", command=command, option=name, reason=reason)


def about_extra(words: list[str], arguments: list[str], context: Any) -> UsageError:
    """Return what is wrong with more arguments than a command has: most often one stands after an option that takes none."""
    before, value = next((pair for pair in pairwise(arguments) if pair[1] in words), ("", ""))
    command, option = context.command_path, options_by_flag(context.command).get(before)
    if before == "--ray":
        return UsageError("ray-address", option="ray", value=value)
    if option is not None and option.is_flag:
        return UsageError("switch-with-value", command=command, option=before, value=value)
    usage = " ".join([command, *argument_names(context)])
    return UsageError("too-many-arguments", command=command, listed=" ".join(words), usage=usage)


def options_by_flag(command: Any) -> dict[str, Any]:
    """Return a command's options, each by all of its names."""
    return {flag: entry for entry in command.params if entry.param_type_name == "option" for flag in entry.opts}


def argument_names(context: Any) -> list[str]:
    """Return the names of a command's arguments, as the help has them; none without a command."""
    entries = context.command.params if context else []
    return [entry.metavar for entry in entries if entry.param_type_name == "argument"]
