"""Runs at a glance: the list that `rushlight runs` prints."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushlight.errors import RushlightError
from rushlight.formats import main_figure
from rushlight.runs.folder import run_folders, started_at
from rushlight.runs.history import HISTORY, read_history
from rushlight.runs.lock import is_locked, sweep_deleted
from rushlight.runs.read import REPORT, read_recipe, read_report
from rushlight.runs.sessions import SESSIONS, inexact_resumes, read_sessions
from rushlight.texts import Note

ENDED = ("finished", "pruned")  # the statuses of runs that are over


@dataclass(frozen=True)
class RunSummary:
    """A run at a glance.

    `status` is running, finished, pruned (a trial of a search that was ended early), interrupted, failed, unfinished (killed) or damaged; `problem` says what is damaged.
    Losses and figures are of the last epoch that has them, None when there are none, and of `split`: what every epoch
    was evaluated on. `metric` is what the run is
    judged by ("accuracy", "mae", "loss", or a name of its own; None without tests), and `best_epoch` the epoch at which it was best.
    `seconds` is training with testing, over whole epochs.
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
    is_higher_better: bool = False  # the metric
    seconds: float = 0.0
    inexact: tuple[str, ...] = ()  # what had changed at resumes after which the bits are not those of one run
    problem: str = ""


def list_runs(runs: Path) -> list[RunSummary]:
    """Return all runs in the folder, the newest first; a damaged one has the status "damaged"."""
    sweep_deleted(runs)
    summaries = map(summarize_any, run_folders(runs))
    return sorted(summaries, key=lambda summary: (summary.started, summary.name), reverse=True)


def summarize_any(
    folder: Path, recipe: dict[str, Any] | None = None, names: Collection[str] | None = None
) -> RunSummary:
    """Return the run at a glance; a damaged one has the status "damaged" and a problem.

    `recipe` and the `names` of its files, where they are read already.
    """
    try:
        return summarize_run(folder, recipe, names)
    except RushlightError as error:
        problem = error.problem
    except Exception as error:  # one bad run must not take the list down
        problem = Note("runs.cannot-be-summarized", reason=f"{type(error).__name__}: {error}")
    return RunSummary(folder.name, folder, started_at(folder), "damaged", problem=problem)


def summarize_run(
    folder: Path, recipe: dict[str, Any] | None = None, names: Collection[str] | None = None
) -> RunSummary:
    """Return the run at a glance; raises RunError naming what is damaged."""
    recipe = recipe or read_recipe(folder)
    names = {path.name for path in folder.iterdir()} if names is None else names
    lines = read_history(folder, with_steps=False) if HISTORY in names else []
    return RunSummary(
        name=folder.name,
        folder=folder,
        started=float(lines[0]["time"]) if lines and "time" in lines[0] else started_at(folder),
        status=status_of(folder, lines),
        model=label(recipe["model"]),
        data=label(recipe["data"]),
        epochs=recipe["epochs"],
        steps=max((line.get("step") or 0 for line in lines), default=0),
        inexact=tuple(inexact_resumes(folder)) if SESSIONS in names else (),
        **summary_figures(lines, folder),
    )


def label(named: Any) -> str:
    """Return the name of the recipe's model or data, which is a name or an object with one."""
    return str(named.get("name") or named.get("path") or "?") if isinstance(named, Mapping) else str(named or "?")


def status_of(folder: Path, lines: list[dict[str, Any]]) -> str:
    """Return a run's status; "unfinished" if no process holds it and none wrote how it ended."""
    events = {line["event"] for line in lines if line["kind"] == "event"}
    if "finished" in events:
        return "pruned" if "pruned" in events else "finished"
    if is_locked(folder):
        return "running"
    last = next((line["event"] for line in reversed(read_sessions(folder))), None)
    return last if last in ("interrupted", "failed") else "unfinished"


def summary_figures(lines: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Return the summary's figures: of the epochs, or the report if no epoch was tested."""
    epochs = [line for line in lines if line["kind"] == "epoch"]
    split = "validation" if any(line.get("validation") for line in epochs) else "test"
    tests = [(line["epoch"], line[split]) for line in epochs if line.get(split)]
    if not tests and (folder / REPORT).exists():
        tests = [(epochs[-1]["epoch"] if epochs else None, read_report(folder))]
    figures: dict[str, Any] = {
        "epochs_done": max((line["epoch"] for line in epochs), default=0),
        "split": split,
        "train_loss": epochs[-1]["train_loss"] if epochs else None,
        "seconds": sum(line["seconds"] for line in epochs),
    }
    if not tests:
        return figures
    last = tests[-1][1]
    figures |= {"test_loss": last.get("loss"), "accuracy": last.get("accuracy")}
    main = main_figure(last)
    if main is not None:
        metric, value, is_higher = main
        sign = -1 if is_higher else 1
        values = [  # a lower loss decides between equals, as it does in training
            (sign * found[1], math.inf if test.get("loss") is None else test["loss"], epoch)
            for epoch, test in tests
            if (found := main_figure(test)) is not None and found[0] == metric
        ]
        best, _, best_epoch = min(values, key=lambda value: value[:2])
        figures |= {"metric": metric, "metric_value": value, "is_higher_better": is_higher, "best_epoch": best_epoch}
        figures["best_accuracy"] = -best if metric == "accuracy" else None
    return figures
