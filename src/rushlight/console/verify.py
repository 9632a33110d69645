"""Verifying runs: the progress line and the tables."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rushlight.console.output import new_table, open_console, print_unwrapped
from rushlight.console.progress import DRAW_SECONDS, LiveLine
from rushlight.formats import format_bytes
from rushlight.texts import Note, shown, text

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

STYLES = {
    "whole": "green", "damaged": "bold red", "missing": "bold red", "in-use": "bold cyan", "other-version": "yellow",
    "not-yet": "dim",
}  # fmt: skip
WIDE, FULL = 64, 100  # columns from which sizes are shown: of one run's files, of all runs


@contextlib.contextmanager
def checking(total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that adds up checked bytes and shows the sum on standard error."""
    line, done, shown_at = LiveLine(to_stderr=True), 0, 0.0

    def watch(count: int) -> None:
        nonlocal done, shown_at
        done += count
        now = time.monotonic()
        if line.is_live and now - shown_at >= DRAW_SECONDS:
            shown_at = now
            said = text("console.upkeep.checking", done=format_bytes(done), total=format_bytes(total))
            line.draw([said], done / total if total else None)

    try:
        watch(0)
        yield watch
    finally:
        line.clear()


def print_verification(found: Mapping[str, Any]) -> None:
    """Print one run's files with their damage, and what that means."""
    from rich.text import Text

    console = open_console()
    console.print(Text.assemble((shown(found["run"]), "bold"), "  ", state_of_run(found)), soft_wrap=True)
    console.print(shown(found["folder"]), style="dim", soft_wrap=True)
    has_size = console.width >= WIDE
    table = verification_table(text("console.upkeep.part"), has_size)
    for file in found["parts"]:
        size = [format_bytes(file["bytes"]) if file["bytes"] else ""] if has_size else []
        table.add_row(file["name"], state_text(file["state"]), *size, shown(file["detail"]))
    print_unwrapped(console, table)
    console.print(shown(found["meaning"]), soft_wrap=not console.is_terminal)


def print_verifications(results: Sequence[Mapping[str, Any]]) -> None:
    """Print a row for each run, the total, and the command that tells more."""
    from rich.cells import cell_len

    console = open_console()
    has_size = console.width >= FULL
    table = verification_table(text("console.upkeep.run"), has_size)
    name_width = max(cell_len(shown(found["run"])) for found in results)
    if console.is_terminal:
        name_width = min(name_width, console.width // 2)  # whole names, as far as that goes: they are to be typed
        table.columns[-1].max_width = max(8, console.width - name_width - (25 if has_size else 15))
    table.columns[0].min_width = name_width
    for found in results:
        size = [format_bytes(found["bytes"])] if has_size else []
        table.add_row(found["run"], state_of_run(found), *size, in_short(found))
    print_unwrapped(console, table)
    damaged = [found for found in results if not found["whole"]]
    key = "console.upkeep.some-damaged" if damaged else "console.upkeep.all-whole"
    runs, total = Note("console.upkeep.runs", count=len(results)), format_bytes(sum(run["bytes"] for run in results))
    console.print(text(key, runs=runs, size=total, damaged=len(damaged)))
    if damaged:
        hint = text("console.upkeep.look-at", run=damaged[0]["typed"])
        console.print(hint, soft_wrap=not console.is_terminal)


def verification_table(heading: str, has_size: bool) -> Table:
    """Return an empty table for names, states, sizes where there is room, and details."""
    table = new_table()
    table.add_column(heading, overflow="fold")
    table.add_column(text("console.upkeep.state"), no_wrap=True)
    if has_size:
        table.add_column(text("console.upkeep.size"), justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    return table


def state_of_run(found: Mapping[str, Any]) -> Text:
    """Return in colour whether a run is whole, damaged, or in use and whole so far."""
    return state_text("damaged" if not found["whole"] else "in-use" if found["in_use_by"] else "whole")


def state_text(state: str) -> Text:
    """Return a state in the user's language, in colour."""
    from rich.text import Text

    key = state.replace(" ", "-")
    return Text(text(f"runs.state.{key}"), STYLES[key])


def in_short(found: Mapping[str, Any]) -> str:
    """Return a run's first damage, or the checkpoints and the bundle that can be used."""
    broken = [file for file in found["parts"] if file["state"] in ("damaged", "missing")]
    if broken:
        first = f"{broken[0]['name']}: {shown(broken[0]['detail']) or state_text(broken[0]['state'])}"
        return first if len(broken) == 1 else text("console.upkeep.and-more", first=first, count=len(broken) - 1)
    whole = [file["name"] for file in found["parts"] if file["state"] == "whole"]
    usable = text("console.upkeep.checkpoints", count=sum(name.startswith("checkpoints/") for name in whole))
    return text("console.upkeep.checkpoints-and-bundle", checkpoints=usable) if "model" in whole else usable
