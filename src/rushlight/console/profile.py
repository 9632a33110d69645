"""The profile of a training step, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rushlight.console.report import one_digit, open_table
from rushlight.formats import format_step

if TYPE_CHECKING:
    from rich.console import Console

LABELS = {"compiled": "compiled step, the rest", "rest": "the rest"}
OPERATORS_SHOWN = 5
BAR = 24  # columns of a part that has all the time
NAME_WIDTH = 44


def print_profile(console: Console, profile: Mapping[str, Any], wraps: bool) -> None:
    """Print a profile (the content of profile.json, and its folder): its parts, the heaviest operators, the limit."""
    steps, warm_up, folder = profile["steps"], profile["warm_up_steps"], Path(profile["folder"])
    after = f" after {warm_up} to warm up" if warm_up else ""
    title = f"profile: {format_step(profile['step_seconds'])} a step ({steps:,} step{'' if steps == 1 else 's'}{after})"
    console.print(f"\n{title}", style="bold", soft_wrap=wraps)
    table = open_table()
    table.add_column("part", no_wrap=True)
    for heading in ("per step", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", style="green", no_wrap=True)
    for name, part in profile["parts"].items():
        if part["seconds"]:  # else it is inside another: the loss in the user's own objective, all in a compiled step
            label = (
                "forward, loss" if name == "forward" and not profile["setting"]["has_loss"] else LABELS.get(name, name)
            )
            table.add_row(
                label, format_step(part["seconds"]), one_digit(part["share"]), "━" * round(part["share"] * BAR)
            )
    console.print(table)
    if profile["operators"]:
        console.print("\nheaviest operators, by their own time", style="bold", soft_wrap=wraps)
        table = open_table()
        table.add_column("operator", no_wrap=True, max_width=NAME_WIDTH, overflow="ellipsis")
        for heading in ("calls a step", "per step", "share"):
            table.add_column(heading, justify="right", no_wrap=True)
        for entry in profile["operators"][:OPERATORS_SHOWN]:
            name, figures = (
                entry["name"].removeprefix("aten::"),
                (format_step(entry["seconds"]), one_digit(entry["share"])),
            )
            table.add_row(name, f"{entry['calls']:.4g}", *figures)
        console.print(table)
    console.print(f"\n{profile['limit']['sentence']}", style="bold", soft_wrap=wraps)
    traced = profile["traced_steps"]
    place = (
        f"A trace of {traced} step{'' if traced == 1 else 's'}: {folder / profile['trace']}\n"
        "Open it with https://ui.perfetto.dev or, in Chrome, chrome://tracing."
        if profile["trace"] is not None
        else f"All figures: {folder / 'profile.json'}"
    )
    console.print("\n".join(line for line in (profile["reading"], place) if line) + "\n", soft_wrap=wraps)
