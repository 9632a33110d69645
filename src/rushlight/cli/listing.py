"""`rushlight runs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rushlight import console, files, runs
from rushlight.errors import RunError, UsageError
from rushlight.texts import text


def show_runs(folder: Path, as_json: bool) -> None:
    """Print all runs, the newest first."""
    found = [plain_summary(summary) for summary in runs.list_runs(folder)]
    if as_json:
        console.print_json(found)
    elif found:
        console.print_runs(found)
    else:
        console.print_lines(text("console.no-runs", runs=folder))


def show_run(folder: Path, run: str, as_json: bool) -> None:
    """Print one run: its recipe, its figures, its sessions, and its curves."""
    path = runs.find_run(folder, run)
    summary, recipe, history = runs.summarize_run(path), runs.read_recipe(path), runs.read_history(path)
    sessions = runs.list_sessions(path, summary.status == "running")
    if as_json:
        console.print_json({**plain_summary(summary), "recipe": recipe, "history": history, "sessions": sessions})
    else:
        console.print_run(plain_summary(summary), recipe, history, runs.read_losses(path), sessions)


def plain_summary(summary: Any) -> dict[str, Any]:
    """Return a summary as JSON-ready values."""
    return {**vars(summary), "folder": str(summary.folder)}


def verify(folder: Path, run: str | None, as_json: bool) -> bool:
    """Check one run, or all of them, and print the result; return whether all is whole."""
    folders = runs.run_folders(folder) if run is None else [runs.find_run(folder, run)]
    found: list[dict[str, Any]] = []
    with console.checking(sum(map(files.bytes_on_disk, folders))) as watch:
        for path in folders:
            checked = runs.verify_run(path, watch)
            found.append({
                "run": path.name, "folder": str(path), "typed": checked.typed, "status": checked.summary.status,
                "whole": checked.is_whole, "in_use_by": checked.holder or None, "bytes": sum(file.bytes for file in checked.files),
                "meaning": checked.meaning, "parts": [vars(file) for file in checked.files],
            })  # fmt: skip
    damaged = sum(not result["whole"] for result in found)
    if as_json:
        everything = {"runs": found, "whole": len(found) - damaged, "damaged": damaged}
        console.print_json(everything if run is None else found[0])
    elif run is not None:
        console.print_verification(found[0])
    elif found:
        console.print_verifications(found)
    else:
        console.print_lines(text("console.no-runs", runs=folder))
    return not damaged


def delete(folder: Path, run: str | None, is_sure: bool, as_json: bool) -> None:
    """Show one run, ask whether to delete it, and delete it."""
    if run is None:
        raise UsageError("delete-needs-run")
    path = runs.find_run_to_delete(folder, run)
    if not is_sure and not sys.stdin.isatty():
        raise RunError("delete-needs-answer", path=path)
    if not is_sure and not console.ask_to_delete(runs.describe_deletion(path)):
        return
    freed, left = runs.delete_run(path)
    if as_json:
        deleted = {"deleted": path.name, "folder": str(path), "bytes": freed}
        console.print_json({**deleted, "left": None if left is None else str(left)})
    else:
        console.print_deletion(path.name, freed, left)
