"""The profile of a training step, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rushlight.console.report import new_table, one_digit
from rushlight.formats import format_step
from rushlight.texts import Note, shown, text

if TYPE_CHECKING:
    from rich.console import Console

OPERATORS_SHOWN = 5
BAR = 24  # columns of a part that has all the time
NAME_WIDTH = 44


def print_profile(console: Console, profile: Mapping[str, Any], wraps: bool) -> None:
    """Print a profile (the content of profile.json, and its folder): its parts, the heaviest operators, the limit."""
    folder, warm_up = Path(profile["folder"]), profile["warm_up_steps"]
    steps, duration = Note("words.steps", count=profile["steps"]), format_step(profile["step_seconds"])
    key = "console.profile.title-after-warm-up" if warm_up else "console.profile.title"
    title = text(key, time=duration, steps=steps, warm_up=warm_up)
    console.print(f"\n{title}", style="bold", soft_wrap=wraps)
    table = new_table()
    table.add_column(text("console.profile.part"), no_wrap=True)
    for name in ("per-step", "share"):
        table.add_column(text(f"console.profile.{name}"), justify="right", no_wrap=True)
    table.add_column("", style="green", no_wrap=True)
    for name, part in profile["parts"].items():
        if part["seconds"]:  # else it is inside another: the loss in the user's own objective, all in a compiled step
            label = "forward-and-loss" if name == "forward" and not profile["setting"]["has_loss"] else name
            cells = (format_step(part["seconds"]), one_digit(part["share"]), "━" * round(part["share"] * BAR))
            table.add_row(text(f"console.profile.{label}"), *cells)
    console.print(table)
    if profile["operators"]:
        console.print(f"\n{text('console.profile.operators')}", style="bold", soft_wrap=wraps)
        table = new_table()
        table.add_column(text("console.profile.operator"), no_wrap=True, max_width=NAME_WIDTH, overflow="ellipsis")
        for name in ("calls", "per-step", "share"):
            table.add_column(text(f"console.profile.{name}"), justify="right", no_wrap=True)
        for entry in profile["operators"][:OPERATORS_SHOWN]:
            figures = (f"{entry['calls']:.4g}", format_step(entry["seconds"]), one_digit(entry["share"]))
            table.add_row(entry["name"].removeprefix("aten::"), *figures)
        console.print(table)
    console.print(f"\n{shown(profile['limit']['sentence'])}", style="bold", soft_wrap=wraps)
    place = text("console.profile.all-figures", path=folder / "profile.json")
    if profile["trace"] is not None:
        traced = Note("words.steps", count=profile["traced_steps"])
        place = text("console.profile.trace", steps=traced, path=folder / profile["trace"])
        place += "\n" + text("console.profile.open-trace")
    reading = [shown(profile["reading"])] if profile["reading"] else []
    console.print("\n".join([*reading, place]) + "\n", soft_wrap=wraps)
