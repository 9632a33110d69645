"""`rushlight runs`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rushlight.console import (
    ask_to_delete,
    checking,
    print_deletion,
    print_json,
    print_run,
    print_runs,
    print_verification,
    print_verifications,
)
from rushlight.errors import RunError, UsageError
from rushlight.runs import (
    RunSummary,
    Verification,
    delete_run,
    find_run,
    find_run_to_delete,
    list_runs,
    list_sessions,
    meaning,
    read_history,
    read_losses,
    read_recipe,
    run_folders,
    size_of,
    strangers,
    summarize,
    summarize_files_or_damage,
    typed,
    verify_run,
)


def show_runs(runs: Path, as_json: bool) -> None:
    """Print all runs, the newest first."""
    found = list_runs(runs)
    if as_json:
        print_json([plain(summary) for summary in found])
    elif found:
        print_runs([plain(summary) for summary in found])
    else:
        print(no_runs(runs))  # noqa: T201


def no_runs(runs: Path) -> str:
    """Return what to say of a folder without runs."""
    return f"There are no runs in {runs} yet. The first one: rushlight train"


def show_run(runs: Path, run: str, as_json: bool) -> None:
    """Print one run: what was asked, what came out, who worked on it, and its curve."""
    folder = find_run(runs, run)
    summary, recipe, history = summarize(folder), read_recipe(folder), read_history(folder)
    sessions = list_sessions(folder, summary.status == "running")
    if as_json:
        print_json({**plain(summary), "recipe": recipe, "history": history, "sessions": sessions})
    else:
        print_run(plain(summary), recipe=recipe, history=history, losses=read_losses(folder), sessions=sessions)


def plain(summary: RunSummary) -> dict[str, Any]:
    """Return a summary as JSON-ready values."""
    return {**asdict(summary), "folder": str(summary.folder)}


# ── verifying ────────────────────────────────────────────────────────────────────────────────────────────────


def verify(runs: Path, run: str | None, as_json: bool) -> bool:
    """Check one run, or all of them, and print what was found; return whether all is whole."""
    folders = run_folders(runs) if run is None else [find_run(runs, run)]
    with checking(sum(map(size_of, folders))) as watch:
        found = [verify_run(folder, watch) for folder in folders]
    results = [verified(verification) for verification in found]
    if as_json:
        whole = sum(result["whole"] for result in results)
        print_json(results[0] if run is not None else {"runs": results, "whole": whole, "damaged": len(found) - whole})
    elif run is not None:
        print_verification(results[0])
    elif results:
        print_verifications(results)
    else:
        print(no_runs(runs))  # noqa: T201
    return all(verification.is_whole for verification in found)


def verified(found: Verification) -> dict[str, Any]:
    """Return a verification as JSON-ready values."""
    folder = found.summary.folder
    parts = [
        {"name": part.name, "state": part.state, "detail": part.detail, "bytes": part.bytes} for part in found.parts
    ]
    return {
        "run": found.name, "folder": str(folder), "typed": typed(folder), "status": found.summary.status,
        "whole": found.is_whole, "in_use_by": found.holder or None, "bytes": found.bytes, "meaning": meaning(found),
        "parts": parts,
    }  # fmt: skip


# ── deleting ─────────────────────────────────────────────────────────────────────────────────────────────────


def delete(runs: Path, run: str | None, is_sure: bool, as_json: bool) -> None:
    """Show one run, ask whether it is to go, and delete it."""
    if run is None:
        raise UsageError("delete-needs-run")
    folder = find_run_to_delete(runs, run)
    if not is_sure and not sys.stdin.isatty():
        raise RunError("delete-needs-answer", path=folder)
    row = {**plain(summarize_files_or_damage(folder)), "bytes": size_of(folder), "strangers": strangers(folder)}
    if not is_sure and not ask_to_delete(row, typed(folder)):
        return
    done = delete_run(folder)
    left = None if done.left is None else str(done.left)
    if as_json:
        print_json({"deleted": folder.name, "folder": str(folder), "bytes": done.bytes, "left": left})
    else:
        print_deletion(folder.name, done.bytes, left)
