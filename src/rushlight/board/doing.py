"""What the page may change: a run's note and tags, its name, that it stops, that it is deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rushlight.board.listing import id_of
from rushlight.runs import ask_to_stop, delete_run, find_run_to_delete, is_locked, rename_run, write_note

CHANGES = ("stop", "note", "rename", "delete")


def change_run(runs: Path, folder: Path, what: str, given: dict[str, Any]) -> dict[str, Any]:
    """Do one of `CHANGES`; return what the page needs to know. RushlightError says why something cannot be done.

    A deletion has to name the run: the page asks the user first. Raises ValueError for a request that the page never makes.
    """
    if what == "stop":
        if is_locked(folder):
            ask_to_stop(folder)
        return {}
    if what == "note":
        note, tags = given.get("note"), given.get("tags")
        if not isinstance(note, str) or not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise ValueError(what)
        write_note(folder, note, tags)
        return {}
    if given.get("name" if what == "delete" else "from") != folder.name:
        raise ValueError(what)
    if what == "rename":
        return {"id": id_of(rename_run(folder, str(given.get("name"))).name)}
    freed, rest = delete_run(find_run_to_delete(runs, folder.name))
    return {"freed": freed, "rest": None if rest is None else rest.name}
