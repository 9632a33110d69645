"""Deleting a run: the question, and the answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rushlight.console.output import open_console
from rushlight.console.progress import of
from rushlight.formats import format_bytes


def ask_to_delete(row: Mapping[str, Any]) -> bool:
    """Ask whether to delete a run; `row` is the result of `describe_deletion`."""
    from rich.table import Table
    from rich.text import Text

    console = open_console(to_stderr=True)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("run", Text(str(row["name"]), "bold"))
    table.add_row("folder", str(row["folder"]))
    if row["model"]:
        table.add_row("trained", f"{row['model']} on {row['data']}, {of(row['epochs_done'], row['epochs'])} epochs")
    table.add_row("started", time.strftime("%Y-%m-%d %H:%M", time.localtime(row["started"])))
    can_resume = row["status"] in ("interrupted", "failed", "unfinished")
    resume = f"; rushlight resume {row['typed']} would go on with it" if can_resume else ""
    table.add_row("status", row["status"] + resume)
    table.add_row("size", format_bytes(row["bytes"]))
    if row["strangers"]:
        table.add_row("also in it", f"{', '.join(row['strangers'])}: not written by Rushlight, and deleted too")
    console.print(table)
    console.print("Delete it? [y/N] ", end="")
    try:
        if input().strip().lower() in ("y", "yes"):
            return True
    except EOFError:
        console.print()
    except KeyboardInterrupt:
        console.print("\nNothing was deleted.")
        raise
    console.print("Nothing was deleted.")
    return False


def print_deletion(name: str, freed: int, left: object) -> None:
    """Print the space that was freed, and the path of what could not be deleted."""
    console = open_console()
    console.print(f"Deleted {name}: {format_bytes(freed)} are free again.", soft_wrap=True)
    if left is not None:
        rest = f"The operating system would not delete all of it; delete the rest by hand: {left}"
        console.print(rest, soft_wrap=True)
