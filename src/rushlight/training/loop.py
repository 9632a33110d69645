"""The loop: all of training, readable on one page. What it calls says what it does."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from rushlight import files
from rushlight.data import CPU, Feed, ResidentSplit, Split
from rushlight.errors import DataError
from rushlight.report import Report
from rushlight.training.checkpoint import (
    Saver,
    begin_random_streams,
    check_can_be_saved,
    checkpoints,
    random_streams,
    restore_random_streams,
)
from rushlight.training.engine import Engine, open_engine
from rushlight.training.evaluation import Outcome, evaluate
from rushlight.training.interrupt import Interrupt, Interrupted, interruptible
from rushlight.training.recipe import Recipe
from rushlight.training.record import BlownUp, Ledger
from rushlight.training.setup import explain_step_error
from rushlight.training.state import State, Training
from rushlight.training.step import Parts, StepFailed, has_images, roll_back

MOST_SAMPLES = 512  # tested at a time, unless more are trained at a time
MOST_IMAGES = 128  # the same, where images go through convolutions
MOST_ROWS, ROW_NUMBERS = 4096, 1 << 15  # of a table


@dataclass(frozen=True)
class Epoch:
    """One epoch, done and tested. `seconds` counts its training and its test, before and after an interruption."""

    number: int  # from 1
    train_loss: float
    test: Report | None
    learning_rate: float
    seconds: float
    step: int  # optimizer steps since the start of the run
    is_best: bool
    outcome: Outcome | None = None  # what the test saw, sample by sample


def epochs(training: Training) -> Generator[Epoch]:
    """Train epoch by epoch from `training.state` on; whoever iterates may stop whenever they like."""
    recipe, state = training.recipe, training.state
    check_can_be_saved(training)
    sweep_run(training.folder)
    begin_random_streams(training)
    saver = Saver(training)
    engine = open_engine(training, parts_of(training), saver)
    try:
        while state["epoch"] <= recipe.epochs and not is_patience_spent(recipe, state):
            with interruptible() as interrupt:
                epoch = train_and_test(training, engine, interrupt, saver)
                if interrupt.requested:
                    stop_here(training, interrupt, saver)
            if interrupt.requested:  # since that was last looked at
                stop_here(training, interrupt, saver)
            if epoch is not None:
                yield epoch
        with interruptible() as interrupt:
            saver.save_now()
        if interrupt.requested:
            stop_here(training, interrupt, saver)
    except KeyboardInterrupt:  # the second Ctrl-C leaves at once; at the first, everything is saved by now
        raise
    except GeneratorExit:  # whoever iterates stopped here, between two epochs
        saver.save_now()
        raise
    except BaseException:
        saver.finish_quietly()  # the error that is on its way is the one to show
        raise
    finally:
        engine.close()


def parts_of(training: Training) -> Parts:
    """Return what a step of this training works on."""
    recipe = training.recipe
    return Parts(
        training.model, training.objective, training.optimizer, recipe.clip_norm, recipe.precision, training.device,
        skips_bad=recipe.on_nan == "skip",
    )  # fmt: skip


def train_and_test(training: Training, engine: Engine, interrupt: Interrupt, saver: Saver) -> Epoch | None:
    """Do an epoch, or what is left of it; return None where it blew up and was rolled back to its beginning."""
    may_roll_back = training.recipe.on_nan == "rollback"
    if may_roll_back and not training.state["window"]:
        saver.save_now()  # what a rollback goes back to
    try:
        train_epoch(training, engine, interrupt, saver)
    except BlownUp as error:
        if not may_roll_back:
            raise
        saver.finish()
        roll_back(training, error)
        engine.reset()
        return None
    report, outcome = test_epoch(training, interrupt, saver)
    epoch = finish_epoch(training, report, outcome)
    saver.save_epoch(epoch.is_best)
    return epoch


def train_epoch(training: Training, engine: Engine, interrupt: Interrupt, saver: Saver) -> None:
    """Take the steps of this epoch that are not done yet. Raises BlownUp where the recipe says to roll back."""
    recipe, state, since = training.recipe, training.state, time.perf_counter()
    ledger, feed = Ledger(training, saver), open_feed(training)
    training.model.train()
    while not interrupt.requested:
        plan = engine.next(state, feed)
        batches = interrupt.take(feed, plan.count, recipe.accumulate)
        if not batches:
            break
        try:
            done = engine.run(plan, batches, interrupt)
        except StepFailed as failed:
            error = failed.error
            raise explain_step_error(error, training.model, failed.batch, training) from error
        training.schedule.after_step()
        ledger.add(done, batches[-1])
        if len(done.losses) < plan.count:  # the state was to be saved before the rest
            feed = open_feed(training)
        del done  # its outputs would lie in the way of the next step's
        if not interrupt.requested and saver.is_due:
            ledger.flush()
            ledger.check_weights()
            since = count_seconds(state, since)
            saver.save_soon()
    feed.close()
    ledger.flush()
    ledger.check_weights()
    count_seconds(state, since)
    if interrupt.requested:
        stop_here(training, interrupt, saver)


def open_feed(training: Training) -> Feed:
    """Open the batches of this epoch that are left."""
    recipe, state = training.recipe, training.state
    start = state["window"] * recipe.accumulate
    return training.data.train.batches(recipe.batch_size, seed=recipe.seed, epoch=state["epoch"], start=start)


def count_seconds(state: State, since: float) -> float:
    """Add the time since `since` (of `time.perf_counter`) to the epoch's seconds; return the time now."""
    now = time.perf_counter()
    state["seconds"] += now - since
    return now


def test_epoch(training: Training, interrupt: Interrupt, saver: Saver) -> tuple[Report | None, Outcome | None]:
    """Test after an epoch, if there is anything to test on.

    A signal or an error leaves the test unfinished: what is saved is the state after the epoch's last step, and a
    resumed run tests again.
    """
    data = training.data
    if data.test is None:
        return None, None
    watch = interrupt.watching(training.progress, data.test.samples)
    size = tested_together(training, data.test)
    streams, since = random_streams(), time.perf_counter()
    try:
        with interrupt.leaving_at_once():
            tested = evaluate(training.model, data.test, training.objective, data.target, size, watch=watch)
        count_seconds(training.state, since)
        return tested
    except KeyboardInterrupt:  # the second Ctrl-C leaves at once
        raise
    except BaseException as error:
        restore_random_streams(streams)  # whatever the test has drawn from them since
        if isinstance(error, Interrupted) or interrupt.requested:
            stop_here(training, interrupt, saver)
        if training.state["window"]:
            saver.save_now()
        if isinstance(error, (RuntimeError, ValueError, TypeError, IndexError)):
            raise explain_step_error(error, training.model, None, training) from error
        raise


def finish_epoch(training: Training, report: Report | None, outcome: Outcome | None) -> Epoch:
    """Record an epoch that is trained and tested, and move the state to the next."""
    state, optimizer = training.state, training.optimizer
    if not state["samples"]:
        raise DataError("no-batches", data=training.data.name, epoch=state["epoch"])
    train_loss = state["loss_sum"] / state["weight_sum"] if state["weight_sum"] else math.nan
    learning_rate, seconds = float(optimizer.param_groups[0]["lr"]), state["seconds"]
    is_best = note_best(state, report, train_loss)
    epoch = Epoch(state["epoch"], train_loss, report, learning_rate, seconds, state["step"], is_best, outcome)
    training.schedule.after_epoch(report.loss if report else train_loss)
    state.update(
        epoch=epoch.number + 1, window=0, loss_sum=0.0, weight_sum=0.0, samples=0, line_sum=0.0, line_weight=0.0,
        seconds=0.0, rollbacks=0,
    )  # fmt: skip
    test = report.short() if report else None
    training.history.write(
        {
            "kind": "epoch", "epoch": epoch.number, "step": epoch.step, "train_loss": train_loss, "test": test,
            "learning_rate": learning_rate, "seconds": seconds, "time": time.time(),
        }
    )  # fmt: skip
    training.history.try_flush()
    training.progress.epoch_done(
        epoch=epoch.number, epochs=training.recipe.epochs, train_loss=train_loss, test=test, seconds=seconds,
        learning_rate=learning_rate, is_best=is_best,
    )  # fmt: skip
    return epoch


def stop_here(training: Training, interrupt: Interrupt, saver: Saver) -> NoReturn:
    """Save the state, and leave as the signal asked."""
    saver.save_now()
    raise interrupt.error()


def sweep_run(folder: Path) -> None:
    """Delete what a killed process left half written; for the process that holds the run's lock."""
    for place in (folder, checkpoints(folder)):
        files.sweep(place)


def note_best(state: State, report: Report | None, train_loss: float) -> bool:
    """Remember the best test so far (the best training loss, where nothing is tested); return whether it is this one."""
    current = report or Report(None, train_loss, 0)
    best = state["best"]
    is_best = best is None or current.is_better_than(report_like(current, best))
    if is_best:
        name, value = current.headline
        state["best"] = {
            "epoch": state["epoch"], "step": state["step"], "name": name, "value": value, "loss": current.loss,
        }  # fmt: skip
    state["epochs_since_best"] = 0 if is_best else state["epochs_since_best"] + 1
    return is_best


def report_like(current: Report, best: dict[str, Any]) -> Report:
    """Return the remembered best as a report that `current` can be compared with."""
    return replace(
        current, loss=best["loss"],
        accuracy=best["value"] if best["name"] == "accuracy" else None, mae=best["value"] if best["name"] == "MAE" else None,
    )  # fmt: skip


def is_patience_spent(recipe: Recipe, state: State) -> bool:
    """Tell whether early stopping ends training here."""
    return recipe.early_stopping is not None and state["epochs_since_best"] >= recipe.early_stopping


def tested_together(training: Training, split: Split) -> int:
    """Return how many samples of a run are tested at a time; where memory ran out in training, as many as fitted there."""
    size, most = test_batch_size(training.recipe, split, training.model), training.state["micro_batch"]
    return size if most is None else min(size, most)


def test_batch_size(recipe: Recipe, split: Split, model: nn.Module) -> int:
    """Return how many samples are tested at a time: no gradients are kept, so more fit than in training; many more of short rows.

    What convolutions make of many images does not fit into a processor's caches: 128 at a time took the least.
    """
    is_on_processor = all(parameter.device == CPU for parameter in model.parameters())
    most = MOST_IMAGES if has_images(model) and is_on_processor else MOST_SAMPLES
    size = max(recipe.batch_size, min(4 * recipe.batch_size, most))
    if isinstance(split, ResidentSplit) and split.inputs.dim() == 2 and split.inputs.numel():
        size = max(size, min(MOST_ROWS, ROW_NUMBERS // split.inputs.shape[1]))
    return size
