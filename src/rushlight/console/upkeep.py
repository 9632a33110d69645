"""Verifying and deleting runs: the tables, the progress line, the question."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rushlight.console.output import open_console
from rushlight.console.progress import DRAW_SECONDS, LiveLine, of
from rushlight.console.report import open_table
from rushlight.formats import format_bytes

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {
    "whole": "green",
    "damaged": "bold red",
    "missing": "bold red",
    "in use": "bold cyan",
    "torn": "yellow",
    "other version": "yellow",
    "not yet": "dim",
    "leftover": "dim",
}
WIDE, FULL = 64, 100  # columns from which sizes are shown: of one run's parts, of all runs


@contextlib.contextmanager
def checking(total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many more bytes were checked, and shows it on standard error in a terminal."""
    line, done, shown_at = LiveLine(to_stderr=True), 0, 0.0

    def watch(count: int) -> None:
        nonlocal done, shown_at
        done += count
        now = time.monotonic()
        if line.is_live and now - shown_at >= DRAW_SECONDS:
            shown_at = now
            line.draw([f"checking {format_bytes(done)} of {format_bytes(total)}"], done / total if total else None)

    try:
        watch(0)
        yield watch
    finally:
        line.clear()


def print_verification(found: Mapping[str, Any]) -> None:
    """Print one run's parts with what is wrong with them, and what that means."""
    from rich.text import Text

    console = open_console()
    console.print(Text.assemble((str(found["run"]), "bold"), "  ", state_text(found)), soft_wrap=True)
    console.print(str(found["folder"]), style="dim", soft_wrap=True)
    table = open_table()
    table.add_column("part", overflow="fold")
    table.add_column("state", no_wrap=True)
    has_size = console.width >= WIDE
    if has_size:
        table.add_column("size", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for part in found["parts"]:
        size = [format_bytes(part["bytes"]) if part["bytes"] else ""] if has_size else []
        table.add_row(part["name"], Text(part["state"], STYLES.get(part["state"], "")), *size, part["detail"])
    print_wide(console, table)
    console.print(found["meaning"], soft_wrap=not console.is_terminal)


def print_verifications(results: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each run, the total, and what to look at next."""
    console = open_console()
    table = open_table()
    has_size = console.width >= FULL
    name_width, detail_width = widths(console, results, has_size)
    table.add_column("run", overflow="fold", width=name_width)  # whole: it is to be typed
    table.add_column("state", no_wrap=True)
    if has_size:
        table.add_column("size", justify="right", no_wrap=True)
    table.add_column("", overflow="fold", max_width=detail_width)
    for found in results:
        size = [format_bytes(found["bytes"])] if has_size else []
        table.add_row(found["run"], state_text(found), *size, in_short(found))
    print_wide(console, table)
    damaged = [found for found in results if not found["whole"]]
    runs = "1 run" if len(results) == 1 else f"{len(results):,} runs"
    size_text = format_bytes(sum(found["bytes"] for found in results))
    console.print(f"{runs}, {size_text}: " + (f"{len(damaged):,} damaged." if damaged else "everything is whole."))
    if damaged:
        hint = f"What that means, and what to do: rushlight runs --verify {damaged[0]['typed']}"
        console.print(hint, soft_wrap=not console.is_terminal)


def widths(console: Console, results: Sequence[Mapping[str, Any]], has_size: bool) -> tuple[int, int | None]:
    """Return how wide the names may be, at most half the page, and what is left for the details."""
    from rich.cells import cell_len

    longest = max(len("run"), *(cell_len(str(found["run"])) for found in results))
    if not console.is_terminal:
        return longest, None
    name_width = min(longest, console.width // 2)
    return name_width, max(8, console.width - name_width - len("damaged") - 8 - (10 if has_size else 0))


def print_wide(console: Console, table: Any) -> None:
    """Print a table; into a file or a pipe, as wide as it likes, so that nothing wraps there."""
    if not console.is_terminal:
        console.width = max(console.width, console.measure(table).maximum)
    console.print(table)


def state_text(found: Mapping[str, Any]) -> Any:
    """Return in colour whether a run is whole, damaged, or in use and whole so far."""
    from rich.text import Text

    state = "damaged" if not found["whole"] else "in use" if found["in_use_by"] else "whole"
    return Text(state, STYLES[state])


def in_short(found: Mapping[str, Any]) -> str:
    """Return what to say of a run in one line: the first thing that is wrong, or what it has."""
    wrong = [part for part in found["parts"] if part["state"] in ("damaged", "missing")]
    if wrong:
        first = f"{wrong[0]['name']}: {wrong[0]['detail'] or wrong[0]['state']}"
        return first + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")
    usable = sum(part["name"].startswith("checkpoints/") and part["state"] == "whole" for part in found["parts"])
    notes = [f"{part['name']} {part['state']}" for part in found["parts"] if part["state"] in ("torn", "leftover")]
    others = sum(part["state"] == "other version" for part in found["parts"])
    bundle = any(part["name"] == "model" and part["state"] == "whole" for part in found["parts"])
    words = [f"{usable} checkpoint{'' if usable == 1 else 's'}"] if usable or not others else []
    words += ["bundle"] if bundle else []
    words += [f"{others} of another version of Rushlight"] if others else []
    return ", ".join([*words, *notes])


def ask_to_delete(row: Mapping[str, Any], typed: str) -> bool:
    """Show the run that is to be deleted, and ask; only a plain yes is one. `row` is its summary, "bytes", "strangers"."""
    console = open_console(to_stderr=True)
    print_doomed(console, row, typed)
    console.print("Delete it? [y/N] ", end="")
    try:
        answer = input()
    except EOFError:
        console.print()
        answer = ""
    except KeyboardInterrupt:
        console.print("\nNothing was deleted.")
        raise
    if answer.strip().lower() in ("y", "yes"):
        return True
    console.print("Nothing was deleted.")
    return False


def print_doomed(console: Console, row: Mapping[str, Any], typed: str) -> None:
    """Print what goes with a run."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("run", Text(str(row["name"]), "bold"))
    table.add_row("folder", str(row["folder"]))
    if row["model"]:
        table.add_row("trained", f"{row['model']} on {row['data']}, {of(row['epochs_done'], row['epochs'])} epochs")
    table.add_row("started", time.strftime("%Y-%m-%d %H:%M", time.localtime(row["started"])))
    unfinished = f"; rushlight resume {typed} would go on with it"
    can_resume = row["status"] in ("interrupted", "failed", "unfinished")
    table.add_row("status", str(row["status"]) + (unfinished if can_resume else ""))
    table.add_row("size", format_bytes(row["bytes"]))
    if row["strangers"]:
        table.add_row("also in it", f"{', '.join(row['strangers'])}: not written by Rushlight, and deleted too")
    console.print(table)


def print_deletion(name: str, freed: int, left: str | None) -> None:
    """Print what was deleted and how much space that freed."""
    console = open_console()
    console.print(f"Deleted {name}: {format_bytes(freed)} are free again.", soft_wrap=True)
    if left is not None:
        console.print(
            f"The operating system would not delete all of it; delete the rest by hand: {left}", soft_wrap=True
        )
