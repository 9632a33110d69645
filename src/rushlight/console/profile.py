"""The profile of a training step, as a table and what limits the step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rushlight.console.output import new_table
from rushlight.console.report import one_digit
from rushlight.formats import format_step
from rushlight.texts import Note, shown, text

if TYPE_CHECKING:
    from rich.console import Console


def print_profile(console: Console, profile: Mapping[str, Any], wraps: bool) -> None:
    """Print a profile (the content of profile.json, and its folder): its parts, the heaviest operators, the limit."""
    parts, folder, table = profile["parts"], Path(profile["folder"]), new_table()
    steps = Note("words.steps", count=profile["steps"])
    title = text("console.profile.title", time=format_step(profile["median_seconds"]), steps=steps)
    console.print(f"\n{title}", style="bold", soft_wrap=wraps)
    for name in ("part", "median", "mean", "share"):
        table.add_column(text(f"console.profile.{name}"), justify="left" if name == "part" else "right", no_wrap=True)
    for name, part in parts.items():
        if part["seconds"]:  # else it is inside another: the loss in the user's own objective, all in a compiled step
            label = "forward-and-loss" if name == "forward" and not parts["loss"]["seconds"] else name
            label = "compiled" if name == "rest" and "compiled" in profile["causes"] else label
            times = format_step(part["median_seconds"]), format_step(part["seconds"])
            table.add_row(text(f"console.profile.{label}"), *times, one_digit(part["share"]))
    console.print(table)
    console.print(f"\n{shown(profile['limit']['sentence'])}", style="bold", soft_wrap=wraps)
    lines = [text("console.profile.all-figures", path=folder / "profile.json")]
    if heaviest := profile["operators"][:4]:
        listed = (f"{each['name'].removeprefix('aten::')} {format_step(each['seconds'])}" for each in heaviest)
        lines.insert(0, text("console.profile.operators", listed=", ".join(listed)))
    if profile["trace"] is not None:
        traced = Note("words.steps", count=profile["traced_steps"])
        lines.append(text("console.profile.trace", steps=traced, path=folder / profile["trace"]))
    console.print("\n".join(lines) + "\n", soft_wrap=wraps)
