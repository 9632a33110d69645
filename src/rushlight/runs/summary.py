"""Runs at a glance: what `rushlight runs` lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rushlight.errors import RunError
from rushlight.runs import index
from rushlight.runs.folder import read_json, read_recipe, run_folders, started_at
from rushlight.runs.history import HISTORY, read_history
from rushlight.runs.lock import is_locked
from rushlight.runs.sessions import inexact_resumes, read_sessions
from rushlight.runs.sweep import sweep_deleted

REPORT = "report.json"
ENDS = ("interrupted", "failed")


@dataclass(frozen=True)
class RunSummary:
    """A run at a glance. `status` is running, finished, interrupted, failed, unfinished (killed) or damaged.

    Losses and figures are of the last epoch that has them, None when there are none, and of `split`: what every epoch was
    evaluated on. `metric` is what the run is judged by ("accuracy", "mae", "loss"; None without tests), and `best_epoch`
    the epoch at which it was best.
    `seconds` is training with testing, over whole epochs. `problem` says what is damaged.
    """

    name: str
    folder: Path
    started: float  # Unix seconds
    status: str
    model: str = ""
    data: str = ""
    epochs_done: int = 0
    epochs: int | None = None
    steps: int = 0
    split: str = "test"  # or "validation"
    train_loss: float | None = None
    test_loss: float | None = None
    accuracy: float | None = None
    best_accuracy: float | None = None
    best_epoch: int | None = None
    metric: str | None = None
    metric_value: float | None = None
    seconds: float = 0.0
    inexact: tuple[str, ...] = ()  # what had changed at resumes after which the bits are not those of one run
    problem: str = ""


def list_runs(runs: Path) -> list[RunSummary]:
    """Return all runs in the folder, the newest first. A damaged one is listed as such, with its problem."""
    sweep_deleted(runs)
    known = index.read_index(runs)
    entries: dict[str, index.Entry] = {}
    summaries = []
    for folder in run_folders(runs):
        stamp = index.stamp_of(folder)
        summary = from_index(folder, known.get(folder.name), stamp)
        if summary is None:
            summary = summarize_files_or_damage(folder)
        content = {key: value for key, value in asdict(summary).items() if key != "folder"}
        entries[folder.name] = index.Entry(stamp, content)
        summaries.append(with_lock(summary))
    if entries != known:
        index.write_index(runs, entries)
    return sorted(summaries, key=lambda summary: (summary.started, summary.name), reverse=True)


def from_index(folder: Path, entry: index.Entry | None, stamp: str) -> RunSummary | None:
    """Return the cached summary if it is still true; an entry that does not make a summary counts as none."""
    if entry is None or entry.stamp != stamp:
        return None
    try:
        return RunSummary(**{**entry.summary, "folder": folder, "inexact": tuple(entry.summary["inexact"])})
    except (TypeError, KeyError):
        return None


def summarize(folder: Path) -> RunSummary:
    """Return the run at a glance; raises RunError naming what is damaged."""
    return with_lock(summarize_files(folder))


def with_lock(summary: RunSummary) -> RunSummary:
    """Return the summary with status "running" if a living process holds the run."""
    if summary.status in ("finished", "damaged") or not is_locked(summary.folder):
        return summary
    return RunSummary(**{**vars(summary), "status": "running"})


def summarize_files_or_damage(folder: Path) -> RunSummary:
    """Return what the run's files say, or a summary that says what is damaged."""
    try:
        return summarize_files(folder)
    except RunError as error:
        return RunSummary(folder.name, folder, started_at(folder), "damaged", problem=error.problem)


def summarize_files(folder: Path) -> RunSummary:
    """Return what the run's files say, whether or not a process is at work on it; raises RunError."""
    recipe = read_recipe(folder)
    lines = read_history(folder) if (folder / HISTORY).exists() else []
    try:
        return RunSummary(
            name=folder.name,
            folder=folder,
            started=started_at(folder),
            status=status_of(lines, read_sessions(folder)),
            model=label(recipe.get("model")),
            data=label(recipe.get("data")),
            epochs=recipe.get("epochs"),
            steps=max((int(line.get("step") or 0) for line in lines), default=0),
            inexact=tuple(inexact_resumes(folder)),
            **figures_of(lines, folder),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError("run-file-damaged", path=folder / HISTORY, reason=f"a line lacks {error}") from error


def label(named: Any) -> str:
    """Return the name of the recipe's model or data, which is a name or an object with one."""
    return str(named.get("name") or named.get("path") or "?") if isinstance(named, Mapping) else str(named or "?")


def status_of(lines: list[dict[str, Any]], sessions: list[dict[str, Any]]) -> str:
    """Return the state that a run was left in; "unfinished" if it never said how it ended."""
    if any(line["kind"] == "event" and line["event"] == "finished" for line in lines):
        return "finished"
    last = sessions[-1]["event"] if sessions else None
    return last if last in ENDS else "unfinished"


def figures_of(lines: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Return the summary's losses and metrics: of the epochs' lines, or the report if no epoch was tested."""
    epochs = [line for line in lines if line["kind"] == "epoch"]
    split = "validation" if any(line.get("validation") for line in epochs) else "test"
    tests = [(line["epoch"], line[split]) for line in epochs if line.get(split)]
    if not tests and (folder / REPORT).exists():
        report = read_json(folder / REPORT)
        tests = [(epochs[-1]["epoch"] if epochs else None, report)]
    figures: dict[str, Any] = {
        "epochs_done": max((int(line["epoch"]) for line in epochs), default=0),
        "train_loss": epochs[-1]["train_loss"] if epochs else None,
        "seconds": sum(float(line["seconds"]) for line in epochs),
    }
    return {**figures, "split": split, **(figures_of_tests(tests) if tests else {})}


def figures_of_tests(tests: list[tuple[int | None, dict[str, Any]]]) -> dict[str, Any]:
    """Return the last and the best of some tests, given as (epoch, figures)."""
    last = tests[-1][1]
    metric = next((name for name in ("accuracy", "mae", "loss") if last.get(name) is not None), None)
    values = [
        (test[metric], epoch, test.get("loss")) for epoch, test in tests if metric and test.get(metric) is not None
    ]
    sign = -1 if metric == "accuracy" else 1  # and a lower loss decides between equals, as it does in training
    best = min(
        values, key=lambda found: (sign * found[0], math.inf if found[2] is None else found[2]), default=(None, None)
    )
    return {
        "test_loss": last.get("loss"),
        "accuracy": last.get("accuracy"),
        "best_accuracy": best[0] if metric == "accuracy" else None,
        "best_epoch": best[1],
        "metric": metric,
        "metric_value": last.get(metric) if metric else None,
    }
