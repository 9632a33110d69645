"""`rushlight runs`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rushlight.console import print_json, print_run, print_runs
from rushlight.runs import RunSummary, find_run, list_runs, read_history, read_losses, read_recipe, summarize


def show_runs(runs: Path, as_json: bool) -> None:
    """Print all runs, the newest first."""
    found = list_runs(runs)
    if as_json:
        print_json([plain(summary) for summary in found])
    elif found:
        print_runs([plain(summary) for summary in found])
    else:
        print(f"There are no runs in {runs} yet. The first one: rushlight train")  # noqa: T201


def show_run(runs: Path, run: str, as_json: bool) -> None:
    """Print one run: what was asked, what came out, and its curve."""
    folder = find_run(runs, run)
    summary, recipe, history = summarize(folder), read_recipe(folder), read_history(folder)
    if as_json:
        print_json({**plain(summary), "recipe": recipe, "history": history})
    else:
        print_run(plain(summary), recipe=recipe, history=history, losses=read_losses(folder))


def plain(summary: RunSummary) -> dict[str, Any]:
    """Return a summary as JSON-ready values."""
    return {**asdict(summary), "folder": str(summary.folder)}
