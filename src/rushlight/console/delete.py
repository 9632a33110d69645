"""Deleting a run: the question, and the answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rushlight.console.output import new_grid, open_console
from rushlight.console.progress import of
from rushlight.formats import format_bytes
from rushlight.texts import text


def ask_to_delete(row: Mapping[str, Any]) -> bool:
    """Ask whether to delete a run; `row` is the result of `describe_deletion`."""
    from rich.text import Text

    console = open_console(to_stderr=True)
    table = new_grid()
    table.add_row(text("console.upkeep.run"), Text(str(row["name"]), "bold"))
    table.add_row(text("console.upkeep.folder"), str(row["folder"]))
    if row["model"]:
        epochs = of(row["epochs_done"], row["epochs"])
        trained = text("console.upkeep.trained-what", model=row["model"], data=row["data"], epochs=epochs)
        table.add_row(text("console.upkeep.trained"), trained)
    table.add_row(text("console.upkeep.started"), time.strftime("%Y-%m-%d %H:%M", time.localtime(row["started"])))
    can_resume = row["status"] in ("interrupted", "failed", "unfinished")
    status = text(f"console.status.{row['status']}")
    if can_resume:
        status = text("console.upkeep.can-resume", status=status, run=row["typed"])
    table.add_row(text("console.upkeep.status"), status)
    table.add_row(text("console.upkeep.size"), format_bytes(row["bytes"]))
    if row["strangers"]:
        strangers = text("console.upkeep.strangers", names=", ".join(row["strangers"]))
        table.add_row(text("console.upkeep.also-in-it"), strangers)
    console.print(table)
    console.print(text("console.upkeep.ask"), end=" ")
    try:
        if input().strip().lower() in ("y", "yes"):
            return True
    except EOFError:
        console.print()
    except KeyboardInterrupt:
        console.print("\n" + text("console.upkeep.nothing-deleted"))
        raise
    console.print(text("console.upkeep.nothing-deleted"))
    return False


def print_deletion(name: str, freed: int, left: object) -> None:
    """Print the space that was freed, and the path of what could not be deleted."""
    console = open_console()
    console.print(text("console.upkeep.deleted", name=name, size=format_bytes(freed)), soft_wrap=True)
    if left is not None:
        console.print(text("console.upkeep.left", path=left), soft_wrap=True)
