"""Where the time of a training step goes, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rushlight.console.formats import format_step
from rushlight.console.progress import Progress
from rushlight.console.report import one_digit, open_table
from rushlight.texts import shown, text

if TYPE_CHECKING:
    from rich.table import Table

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
        console.print("\n" + text("console.profile.operators"), style="bold", soft_wrap=wraps)
        console.print(operators_table(profile))
    console.print("\n" + shown(profile["limit"]["sentence"]), style="bold", soft_wrap=wraps)
    lines = [profile["reading"], where(profile, folder)]
    console.print("\n".join(shown(line) for line in lines if line) + "\n", soft_wrap=wraps)
    progress.metric = None  # so that the header stands above the next row again


def title(profile: Mapping[str, Any]) -> str:
    """Return what was measured: the time of one step, and over how many."""
    time, warm_up = format_step(profile["step_seconds"]), profile["warm_up_steps"]
    steps = text("words.steps", count=profile["steps"])
    if not warm_up:
        return text("console.profile.title", time=time, steps=steps)
    return text("console.profile.title-after-warm-up", time=time, steps=steps, warm_up=warm_up)


def parts_table(profile: Mapping[str, Any]) -> Table:
    """Return the table of a step's parts, in their order."""
    table = open_table()
    table.add_column(text("console.profile.part"), no_wrap=True)
    for heading in ("per-step", "share"):
        table.add_column(text(f"console.profile.{heading}"), justify="right", no_wrap=True)
    table.add_column("", style="green", no_wrap=True)
    has_loss = profile["setting"]["has_loss"]
    for name, part in profile["parts"].items():
        if not part[
            "seconds"
        ]:  # the loss in an objective of the user's own; all but the data, where steps are compiled
            continue
        label = text(f"console.profile.{'forward-and-loss' if name == 'forward' and not has_loss else name}")
        bar = "━" * round(part["share"] * BAR)
        table.add_row(label, format_step(part["seconds"]), one_digit(part["share"]), bar)
    return table


def operators_table(profile: Mapping[str, Any]) -> Table:
    """Return the table of the operators that took longest."""
    table = open_table()
    table.add_column(text("console.profile.operator"), no_wrap=True, max_width=NAME_WIDTH, overflow="ellipsis")
    for heading in ("calls", "per-step", "share"):
        table.add_column(text(f"console.profile.{heading}"), justify="right", no_wrap=True)
    for operator in profile["operators"][:OPERATORS_SHOWN]:
        name = operator["name"].removeprefix("aten::")
        table.add_row(name, f"{operator['calls']:.4g}", format_step(operator["seconds"]), one_digit(operator["share"]))
    return table


def where(profile: Mapping[str, Any], folder: Path) -> str:
    """Return where the files are, and how to look at the trace."""
    if profile["trace"] is None:
        return text("console.profile.all-figures", path=folder / "profile.json")
    steps = text("words.steps", count=profile["traced_steps"])
    trace = text("console.profile.trace", steps=steps, path=folder / profile["trace"])
    return f"{trace}\n{text('console.profile.open-trace')}"
