"""One trial: an ordinary run with a study's name, judged after every epoch; in this process, or in one that serves trials."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import torch

from rushlight.api import epochs
from rushlight.errors import ModelError, RushlightError, TrainingError, UsageError
from rushlight.formats import main_figure
from rushlight.runs import ENDED, is_run, read_history, read_note, summarize_run, write_note
from rushlight.search.folds import seeded_model
from rushlight.search.study import Figure
from rushlight.texts import Note

OF_THE_PROCESS = (
    "forked-after-training",
    "trains-in-another-thread",
    "run-of-parent-process",
)  # no word about a recipe

Judge = Callable[[int, Figure], bool]  # of an epoch: whether the trial ends there


@dataclass(frozen=True)
class Job:
    """What a trial trains: `options` are those of `train`, the study's name and the threads among them."""

    number: int
    model: Any  # a name, or a function that returns a module
    data: Any
    options: dict[str, Any]
    threads: int


def train_trial(job: Job, judge: Judge) -> str:
    """Train a trial to its end, or go on with it where a kill has left it; return why it failed, "" where it did not.

    Raises what `rushlight.epochs` raises for the first trial; choices that a later one cannot be trained with are its failure.
    """
    folder = Path(job.options["runs"]) / job.options["name"]
    if is_run(folder) and summarize_run(folder).status in ENDED:
        tell_history(folder, judge)
        return ""
    torch.set_num_threads(job.threads)
    try:
        train_judged(job, folder, judge)
    except (TrainingError, ModelError, UsageError) as error:
        is_of_the_recipe = isinstance(error, TrainingError) and error.key not in OF_THE_PROCESS
        if not is_of_the_recipe and (job.number == 0 or isinstance(error, TrainingError)):
            raise
        return error.record
    return ""


def train_judged(job: Job, folder: Path, judge: Judge) -> None:
    """Train the epochs that are left, and end where one is judged to be the last."""
    options = dict(job.options)
    model = job.model
    if not isinstance(model, str):
        model = seeded_model(model, options.get("seed", 0), options.pop("model_arguments", {}))
    training = epochs(model, job.data, **options, resume=True, quiet=True)
    try:
        if not (note := read_note(folder))["tags"]:  # the board groups by them
            write_note(folder, note["note"], [options["study"]])
        is_over = tell_history(folder, judge)
        while not is_over and (epoch := next(training, None)) is not None:
            assert epoch.validation is not None
            is_over = judge(epoch.number, figure_of(epoch.validation.short()))
        if is_over:
            training.prune(Note("search.pruned", study=options["study"]))
    except BaseException as error:
        training.abandon(error)  # a run that is dropped would be finished
        raise


def tell_history(folder: Path, judge: Judge) -> bool:
    """Have the epochs judged that a run has behind it; tell whether the last of them is where it ends."""
    lines = [
        line for line in read_history(folder, with_steps=False) if line["kind"] == "epoch" and line.get("validation")
    ]
    return any(judge(line["epoch"], figure_of(line["validation"])) for line in lines)


def figure_of(figures: Mapping[str, Any]) -> Figure:
    """Return what a trial is judged by, of the figures of a validation."""
    name, value, is_higher_better = main_figure(figures) or ("loss", math.nan, False)
    loss = figures.get("loss")
    return Figure(name, value, is_higher_better, math.nan if loss is None else loss)


# ── a process that serves trials ─────────────────────────────────────────────────────────────────────────────────


def serve_trials(pipe: Any) -> None:
    """Train the jobs that come through the pipe, and ask for a judgement after every epoch; end with the parent."""
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=end_after, args=(parent.sentinel,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt, EOFError, ConnectionError):  # all is saved; the parent tells of it
        serve_jobs(pipe.recv, pipe.send)


def serve_jobs(receive: Callable[[], Any], send: Callable[[Any], object]) -> None:
    """Train the jobs that are received, and ask for a judgement after every epoch; None is the last."""

    def judge(epoch: int, figure: Figure) -> bool:
        send(("judge", epoch, figure))
        return bool(receive())

    while (job := receive()) is not None:
        try:
            send(("done", train_trial(job, judge)))
        except RushlightError as error:
            send(("error", type(error), error.key, error.values))


def end_after(sentinel: int) -> None:
    """End this process when another has ended, however it did."""
    connection.wait([sentinel])
    os._exit(1)
