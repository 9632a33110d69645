"""Where the time of a training step goes, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rushlight.console.formats import format_step
from rushlight.console.progress import Progress
from rushlight.console.report import one_digit, open_table

if TYPE_CHECKING:
    from rich.table import Table

LABELS = {"compiled": "compiled step, the rest", "rest": "the rest"}
OPERATORS_SHOWN = 5
BAR = 24  # columns of a part that takes all the time
NAME_WIDTH = 44


def print_profile(progress: Progress, profile: Mapping[str, Any], folder: Path) -> None:
    """Print a profile (the content of profile.json) above the live line: its parts, the heaviest operators, the limit."""
    if progress.quiet:
        return
    progress.line.clear()
    console, wraps = progress.console, not progress.line.is_live
    console.print(f"\n{title(profile)}", style="bold", soft_wrap=wraps)
    console.print(parts_table(profile))
    if profile["operators"]:
        console.print("\nheaviest operators, by their own time", style="bold", soft_wrap=wraps)
        console.print(operators_table(profile))
    console.print(f"\n{profile['limit']['sentence']}", style="bold", soft_wrap=wraps)
    lines = [profile["reading"], where(profile, folder)]
    console.print("\n".join(line for line in lines if line) + "\n", soft_wrap=wraps)
    progress.metric = None  # so that the header stands above the next row again


def title(profile: Mapping[str, Any]) -> str:
    """Return what was measured: the time of one step, and over how many."""
    steps, warm_up = profile["steps"], profile["warm_up_steps"]
    after = f" after {warm_up} to warm up" if warm_up else ""
    return f"profile: {format_step(profile['step_seconds'])} a step ({steps:,} step{'' if steps == 1 else 's'}{after})"


def parts_table(profile: Mapping[str, Any]) -> Table:
    """Return the table of a step's parts, in their order."""
    table = open_table()
    table.add_column("part", no_wrap=True)
    for heading in ("per step", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", style="green", no_wrap=True)
    has_loss = profile["setting"]["has_loss"]
    for name, part in profile["parts"].items():
        if not part[
            "seconds"
        ]:  # the loss in an objective of the user's own; all but the data, where steps are compiled
            continue
        label = "forward, loss" if name == "forward" and not has_loss else LABELS.get(name, name)
        bar = "━" * round(part["share"] * BAR)
        table.add_row(label, format_step(part["seconds"]), one_digit(part["share"]), bar)
    return table


def operators_table(profile: Mapping[str, Any]) -> Table:
    """Return the table of the operators that took longest."""
    table = open_table()
    table.add_column("operator", no_wrap=True, max_width=NAME_WIDTH, overflow="ellipsis")
    for heading in ("calls a step", "per step", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    for operator in profile["operators"][:OPERATORS_SHOWN]:
        name = operator["name"].removeprefix("aten::")
        table.add_row(name, f"{operator['calls']:.4g}", format_step(operator["seconds"]), one_digit(operator["share"]))
    return table


def where(profile: Mapping[str, Any], folder: Path) -> str:
    """Return where the files are, and how to look at the trace."""
    if profile["trace"] is None:
        return f"All figures: {folder / 'profile.json'}"
    steps = profile["traced_steps"]
    return (
        f"A trace of {steps} step{'' if steps == 1 else 's'}: {folder / profile['trace']}\n"
        "Open it with https://ui.perfetto.dev or, in Chrome, chrome://tracing."
    )
