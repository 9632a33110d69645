"""What the user says of a run, or asks of it: a note and tags, another name, to stop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.errors import RunError
from rushlight.kinds import Kind, is_text
from rushlight.runs.folder import check_name
from rushlight.runs.lock import move_run

NOTE, STOP = "note.json", "stop.request"
LONGEST_NOTE, LONGEST_TAG, MOST_TAGS = 10_000, 50, 20  # characters, characters, tags
NOTE_KIND: Kind = {"note": is_text, "tags": [is_text]}
NO_NOTE: dict[str, Any] = {"note": "", "tags": []}


def read_note(folder: Path) -> dict[str, Any]:
    """Return a run's "note" and "tags"; empty ones where there are none, or no readable ones."""
    return files.readable_json(folder / NOTE, NOTE_KIND) or NO_NOTE


def write_note(folder: Path, note: str, tags: Sequence[str]) -> None:
    """Write a run's note and tags, cut to the length that is kept. Raises StorageError."""
    kept = dict.fromkeys(tag.strip()[:LONGEST_TAG] for tag in tags if tag.strip())
    files.write_json(folder / NOTE, {"note": note[:LONGEST_NOTE], "tags": list(kept)[:MOST_TAGS]})


def ask_to_stop(folder: Path) -> None:
    """Ask the process that trains a run to save its state and stop, as Ctrl-C does; it deletes the request when it has seen it."""
    files.write_bytes(folder / STOP, b"")


def rename_run(folder: Path, name: str) -> Path:
    """Rename a run that no process uses; return its folder.

    Raises RunError for a name that is taken or that some system refuses, and for a run in use; StorageError.
    """
    check_name(name)
    target = folder.with_name(name)
    if os.path.lexists(target):
        raise RunError("run-exists", name=name, runs=folder.parent)
    move_run(folder, target)
    return target
