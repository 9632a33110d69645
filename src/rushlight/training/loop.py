"""The loop: all of training, readable on one page. What it calls says what it does."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch

from rushlight.data.batches import Batch
from rushlight.data.order import step_seed
from rushlight.errors import DataError, TrainingError
from rushlight.training.checkpoint import (
    begin_random_streams,
    check_can_be_saved,
    describe_kept,
    random_streams,
    restore_random_streams,
    sweep_checkpoints,
    write_checkpoint,
)
from rushlight.training.evaluate import Outcome, Report, evaluate
from rushlight.training.explain import explain_step_error
from rushlight.training.interrupt import Interrupt, InterruptedTest, interruptible
from rushlight.training.ledger import Ledger
from rushlight.training.recipe import Recipe
from rushlight.training.state import State, Training
from rushlight.training.step import Parts, Step, exact_step

CHECKPOINT_SECONDS = 30.0  # inside an epoch; at its end there is one anyway
CHECKPOINT_SHARE = 0.02  # of the time inside an epoch that checkpoints may take


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


def epochs(training: Training) -> Iterator[Epoch]:
    """Train epoch by epoch from `training.state` on; whoever iterates may stop whenever they like."""
    recipe, state = training.recipe, training.state
    step = exact_step(
        Parts(
            training.model,
            training.objective,
            training.optimizer,
            recipe.clip_norm,
            recipe.precision,
            training.device,
        )
    )
    check_can_be_saved(training)
    sweep_checkpoints(training.folder)
    begin_random_streams(training)
    saver = Saver(training)
    while state["epoch"] <= recipe.epochs and not is_patience_spent(recipe, state):
        with interruptible() as interrupt:
            train_epoch(training, step, interrupt, saver)
            report, outcome = test_epoch(training, interrupt, saver)
            epoch = finish_epoch(training, report, outcome)
            saver.save()
            if interrupt.requested:
                stop_here(training, interrupt)
        yield epoch


class Saver:
    """Writes the checkpoints, and tells when the next one inside an epoch is due: the dearer they are, the later."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.pause = CHECKPOINT_SECONDS
        self.saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether more is at stake by now than a checkpoint costs."""
        return time.monotonic() - self.saved_at >= self.pause

    def save(self) -> None:
        """Write a checkpoint."""
        began = time.monotonic()
        write_checkpoint(self.training)
        self.saved_at = time.monotonic()
        self.pause = max(CHECKPOINT_SECONDS, (self.saved_at - began) / CHECKPOINT_SHARE)


def train_epoch(training: Training, step: Step, interrupt: Interrupt, saver: Saver) -> None:
    """Take the steps of this epoch that are not done yet."""
    recipe, state, schedule = training.recipe, training.state, training.schedule
    weight, since = training.objective.weight, time.perf_counter()
    number, generator = state["epoch"], step_generator(training.device)
    ledger = Ledger(training)
    batches = training.data.train.batches(
        recipe.batch_size, seed=recipe.seed, epoch=number, start=state["window"] * recipe.accumulate
    )
    training.model.train()
    for window in windows(batches, recipe.accumulate):
        generator.manual_seed(step_seed(recipe.seed, number, state["window"]))
        schedule.before_step(state["step"])
        try:
            loss, outputs = step(window)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise explain_step_error(error, training.model, window[-1], training) from error
        schedule.after_step()
        state["window"] += 1
        state["step"] += 1
        ledger.add(loss, sum(map(weight, window)), outputs, window)
        if interrupt.requested:
            break
        if saver.is_due:
            ledger.flush()
            check_weights_finite(training)
            since = count_seconds(state, since)
            saver.save()
    ledger.flush()
    check_weights_finite(training)
    count_seconds(state, since)
    if interrupt.requested:
        saver.save()
        stop_here(training, interrupt)


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
    size = test_batch_size(training.recipe)
    streams, since = random_streams(), time.perf_counter()
    try:
        tested = evaluate(training.model, data.test, training.objective, data.target, size, watch=watch)
        count_seconds(training.state, since)
        return tested
    except KeyboardInterrupt:  # the second Ctrl-C leaves at once
        raise
    except BaseException as error:
        save_untested(training, streams, saver)
        if isinstance(error, InterruptedTest):
            stop_here(training, interrupt)
        if isinstance(error, (RuntimeError, ValueError, TypeError, IndexError)):
            raise explain_step_error(error, training.model, None, training) from error
        raise


def save_untested(training: Training, streams: dict[str, Any], saver: Saver) -> None:
    """Save the state after the epoch's last step, whatever the test has drawn from the random streams since."""
    if training.state["window"]:
        restore_random_streams(streams)
        saver.save()


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
        seconds=0.0,
    )  # fmt: skip
    test = report.short() if report else None
    training.history.write(
        {
            "kind": "epoch", "epoch": epoch.number, "step": epoch.step, "train_loss": train_loss, "test": test,
            "learning_rate": learning_rate, "seconds": seconds, "time": time.time(),
        }
    )  # fmt: skip
    training.history.flush()
    training.progress.epoch_done(
        epoch=epoch.number, epochs=training.recipe.epochs, train_loss=train_loss, test=test, seconds=seconds,
        learning_rate=learning_rate, is_best=is_best,
    )  # fmt: skip
    return epoch


def check_weights_finite(training: Training) -> None:
    """Raise TrainingError for weights that the last steps made NaN or infinite, before these are tested or saved."""
    for name, parameter in training.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise TrainingError(
                "weights-not-finite", name=name, step=training.state["step"], epoch=training.state["epoch"],
                kept=describe_kept(training.folder),
            )  # fmt: skip


def stop_here(training: Training, interrupt: Interrupt) -> NoReturn:
    """Leave, as the signal asked; the state is saved."""
    event = {"kind": "event", "event": "interrupted", "step": training.state["step"], "time": time.time()}
    training.history.write(event)
    training.history.flush()
    raise interrupt.error()


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


def windows(batches: Iterable[Batch], accumulate: int) -> Iterator[list[Batch]]:
    """Group micro-batches into windows of `accumulate`; the last window may be smaller."""
    window: list[Batch] = []
    for batch in batches:
        window.append(batch)
        if len(window) == accumulate:
            yield window
            window = []
    if window:
        yield window


def test_batch_size(recipe: Recipe) -> int:
    """Return how many samples are tested at a time: no gradients are kept, so more fit than in training."""
    return max(recipe.batch_size, min(4 * recipe.batch_size, 512))


def step_generator(device: torch.device) -> torch.Generator:
    """Return the generator that dropout draws from on the device."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator
