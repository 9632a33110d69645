"""The loop: all of training, readable on one page. What it calls says what it does."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from torch import nn

from rushlight import files
from rushlight.data import CPU, Feed, LoaderSplit, ResidentSplit, Split
from rushlight.errors import DataError
from rushlight.report import Report
from rushlight.texts import Note
from rushlight.training.checkpoint import (
    Saver,
    begin_random_streams,
    check_can_be_saved,
    checkpoints,
    open_saver,
    random_streams,
    restore_random_streams,
    share_state,
)
from rushlight.training.engine import Engine, open_engine
from rushlight.training.evaluation import Outcome, evaluate, first_loss
from rushlight.training.interrupt import Interrupt, Interrupted, SharedInterrupt, interruptible
from rushlight.training.objective import Average
from rushlight.training.recipe import Recipe
from rushlight.training.record import BlownUp, Ledger, Observer, keep_samples, log_values
from rushlight.training.setup import explain_step_error, hold_frozen
from rushlight.training.state import State, Training
from rushlight.training.step import Parts, StepFailed, has_images, roll_back, share_norms

MOST_SAMPLES = 512  # evaluated at a time, unless more are trained at a time
MOST_IMAGES = 128  # the same, where images go through convolutions: activations of more do not fit a processor's caches
MOST_ROWS, ROW_NUMBERS = 4096, 1 << 15  # of a table
CARD_NUMBERS = 1 << 22  # of inputs on a graphics card, which little work leaves idle


@dataclass(frozen=True)
class Epoch:
    """One epoch, trained and evaluated: on the validation split where there is one, else on the test split.

    `seconds` counts training and evaluation, before and after an interruption. `is_best` compares the epochs so far.
    """

    number: int  # from 1
    train_loss: float
    test: Report | None
    learning_rate: float
    seconds: float
    step: int  # optimizer steps since the start of the run
    is_best: bool
    outcome: Outcome | None = None  # of each evaluated sample
    validation: Report | None = None
    training: Training | None = field(default=None, repr=False, compare=False)

    def log(self, **values: Any) -> None:
        """Log numbers, short text (at most 1,000 characters) and images, by name: into the run's `values.jsonl` and `media/`.

        An image is a PIL image, or an array (height, width), (height, width, channels) or (channels, height, width): uint8,
        or numbers from 0 to 1. Raises UsageError for anything else, and StorageError where the disk refuses.
        """
        assert self.training is not None
        log_values(self.training, self.number, self.step, values)


def epochs(training: Training) -> Generator[Epoch]:
    """Train epoch by epoch from `training.state` on; whoever iterates may stop whenever they like."""
    recipe, state = training.recipe, training.state
    check_can_be_saved(training)
    for place in (training.folder, checkpoints(training.folder)):
        files.sweep(place)  # what a killed process left half written: this one holds the run's lock
    begin_random_streams(training)
    share_state(training)
    saver, parts = open_saver(training), step_parts(training)
    observer = Observer(training.model, training.folder, lambda: first_loss(training, parts))
    if training.chooses and training.data.validation is None:  # as runs did that the previous release began
        has_test = training.data.test is not None
        training.events.warning(
            Note("training.chooses-by-its-test" if has_test else "training.chooses-by-its-training-loss")
        )
    engine = open_engine(training, parts, saver)
    try:
        while state["epoch"] <= recipe.epochs and not is_over(recipe, state):
            with interruptible(training.events, training.world) as interrupt:
                epoch = train_and_evaluate(training, engine, interrupt, saver, observer)
                if interrupt.requested:
                    stop_here(interrupt, saver)
            if interrupt.requested:  # since that was last looked at
                stop_here(interrupt, saver)
            if epoch is not None:
                yield epoch
        with interruptible(training.events, training.world) as interrupt:
            saver.save_now()
        if interrupt.requested:
            stop_here(interrupt, saver)
    except KeyboardInterrupt:  # the second Ctrl-C leaves at once; at the first, everything is saved by now
        raise
    except GeneratorExit:  # whoever iterates stopped here, between two epochs
        saver.save_now()
        raise
    except BaseException:
        training.events.release(math.inf)
        saver.finish_quietly()  # the error that is on its way is the one to show
        raise
    finally:
        engine.close()


def step_parts(training: Training) -> Parts:
    """Return what a step of this training works on."""
    recipe = training.recipe
    return Parts(
        training.model, training.objective, training.optimizer, recipe.clip_norm, recipe.precision, training.device,
        skips_bad=recipe.on_nan == "skip", scaler=training.scaler, shards=training.shards,
    )  # fmt: skip


def train_and_evaluate(
    training: Training, engine: Engine, interrupt: Interrupt, saver: Saver, observer: Observer
) -> Epoch | None:
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
    report, outcome = evaluate_together(training, interrupt, saver, observer)
    epoch = finish_epoch(training, report, outcome)
    saver.save_epoch(epoch.is_best)
    return epoch


def train_epoch(training: Training, engine: Engine, interrupt: Interrupt, saver: Saver) -> None:
    """Take the steps of this epoch that are not done yet. Raises BlownUp where the recipe says to roll back."""
    recipe, state, since = training.recipe, training.state, time.perf_counter()
    held, splits = training.held, training.data.splits
    held.note(*splits)
    counts_reads = not isinstance(training.data.train, LoaderSplit)  # whose epochs are read from their beginning
    ledger, feed = Ledger(training, saver), open_feed(training)
    training.schedule.before_epoch(state["epoch"])
    set_training_mode(training)
    hold_frozen(training)
    if training.average is not None:
        training.average.train()
    while not interrupt.requested and state["step"] != recipe.max_steps:
        plan = engine.next(state, feed)
        batches = interrupt.take(feed, plan.count, recipe.accumulate)
        if not batches:
            break
        try:
            done = engine.run(plan, batches, interrupt)
        except StepFailed as failed:
            error = failed.error
            raise explain_step_error(error, training.model, failed.batch, training) from error
        training.schedule.after_step(state["step"])
        ledger.add(done, batches[-1])
        counts_reads = counts_reads and held.note(*splits)
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
    ledger.check_rates()
    count_seconds(state, since)
    if interrupt.requested:
        if counts_reads:
            held.restore(held.noted, *splits)  # as it was before a reading that was left
        stop_here(interrupt, saver)


def set_training_mode(training: Training) -> None:
    """Put the model in training mode, but for the modules that were given in eval mode."""
    training.model.train()
    for name in training.recipe.model.get("eval", ()):
        training.model.get_submodule(name).training = False


def open_feed(training: Training) -> Feed:
    """Open the batches of this epoch that are left."""
    recipe, state = training.recipe, training.state
    start = state["window"] * recipe.accumulate
    shared = {"rank": training.world.rank, "processes": training.world.size} if training.world.is_shared else {}
    return training.data.train.batches(recipe.batch_size, seed=recipe.seed, epoch=state["epoch"], start=start, **shared)


def count_seconds(state: State, since: float) -> float:
    """Add the time since `since` (of `time.perf_counter`) to the epoch's seconds; return the time now."""
    now = time.perf_counter()
    state["seconds"] += now - since
    return now


def evaluate_together(
    training: Training, interrupt: Interrupt, saver: Saver, observer: Observer
) -> tuple[Report | None, Outcome | None]:
    """Evaluate the model; several processes share the batches out, with the first one's buffers, and all get its report."""
    world = training.world
    if training.shards is None:
        world.check_alike(training.model.parameters())
    share_norms(training.model, world)
    report, outcome = evaluate_epoch(training, interrupt, saver, observer)
    if not world.is_shared or report is None:
        return report, outcome
    told = world.first_does(lambda: asdict(report))
    return (report, outcome) if world.is_first else (Report.from_json(told), None)


def evaluate_epoch(
    training: Training, interrupt: Interrupt, saver: Saver, observer: Observer
) -> tuple[Report | None, Outcome | None]:
    """Evaluate the model on the split that every epoch is evaluated on; (None, None) where there is none.

    A signal or an error leaves the evaluation unfinished: the state after the epoch's last step is saved, and a resumed
    run evaluates again.
    """
    data, split = training.data, training.evaluated
    if split is None:
        return None, None
    watch = interrupt.watching(training.evaluated_name, split.samples)
    streams, held, since = random_streams(), training.held.changes(), time.perf_counter()
    try:
        with interrupt.leaving_at_once(), nullcontext() if training.average is None else training.average.in_force():
            size = evaluation_size(training, split)
            together = interrupt if isinstance(interrupt, SharedInterrupt) else None
            is_observed = training.world.is_first and training.shards is None  # else its layers are in pieces
            with observer.observing(training.state["epoch"], training.state["step"]) if is_observed else nullcontext():
                evaluated = evaluate(
                    training.model, split, training.objective, data.target, size, watch=watch, together=together
                )
        count_seconds(training.state, since)
        return evaluated
    except KeyboardInterrupt:  # the second Ctrl-C leaves at once
        raise
    except BaseException as error:
        restore_random_streams(streams)  # whatever the evaluation has drawn from them since
        training.held.restore(held)
        if isinstance(error, Interrupted) or interrupt.requested:
            stop_here(interrupt, saver)
        if training.state["window"] and training.shards is None:  # the others may not know of the error
            saver.save_now()
        if isinstance(error, (RuntimeError, ValueError, TypeError, IndexError)):
            raise explain_step_error(error, training.model, None, training) from error
        raise


def finish_epoch(training: Training, report: Report | None, outcome: Outcome | None) -> Epoch:
    """Record an epoch that is trained and evaluated, and move the state to the next."""
    recipe, state = training.recipe, training.state
    if not state["samples"]:
        raise DataError("no-batches", data=training.data.name, epoch=state["epoch"])
    train_loss = state["loss_sum"] / state["weight_sum"] if state["weight_sum"] else math.nan
    judged = report or Report(None, train_loss, 0)
    reports = {"validation": None, "test": None, training.evaluated_name: report}
    epoch = Epoch(
        state["epoch"], train_loss, reports["test"], float(training.optimizer.param_groups[0]["lr"]), state["seconds"],
        state["step"], note_best(state, judged, training.evaluated_name if report else "train"), outcome, reports["validation"], training,
    )  # fmt: skip
    if recipe.swa is not None and state["epoch"] >= recipe.swa:
        assert isinstance(training.average, Average)
        training.average.update()
    training.schedule.after_epoch(judged, state["epoch"], state["step"])
    state.update(
        epoch=epoch.number + 1, window=0, loss_sum=0.0, weight_sum=0.0, samples=0, line_sum=0.0, line_weight=0.0,
        seconds=0.0, rollbacks=0,
    )  # fmt: skip
    log_numbers(training, epoch, state.get("numbers", {}))
    state["numbers"] = {}
    training.events.emit(
        "epoch", epoch=epoch.number, step=epoch.step, train_loss=train_loss,
        **({"validation": epoch.validation.short()} if epoch.validation else {}),
        test=epoch.test.short() if epoch.test else None, learning_rate=epoch.learning_rate, seconds=epoch.seconds,
        is_best=epoch.is_best,
    )  # fmt: skip
    training.history.try_flush()
    if outcome is not None and outcome.of_truth is not None and training.data.target is not None:
        keep_samples(
            training.folder, training.evaluated_name, epoch.number, training.recipe.epochs, training.data.target.classes,
            outcome.truth, outcome.of_truth,
        )  # fmt: skip
    return epoch


def log_numbers(training: Training, epoch: Epoch, sums: dict[str, list[float]]) -> None:
    """Log the means of the numbers that the user's objective returned, in training and in the evaluation."""
    found = {f"train/{name}": total / weight for name, (total, weight) in sums.items()}
    for split, report in (("validation", epoch.validation), ("test", epoch.test)):
        found |= {} if report is None else {f"{split}/{name}": value for name, value in report.numbers.items()}
    finite = {name: value for name, value in found.items() if math.isfinite(value)}
    if finite:
        epoch.log(**finite)


def stop_here(interrupt: Interrupt, saver: Saver) -> NoReturn:
    """Save the state, and leave as the signal asked, or with the error of the user's function."""
    saver.save_now()
    error = interrupt.error()
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context  # its own, not what is handled here


def note_best(state: State, report: Report, split: str) -> bool:
    """Remember the best report so far, and the split that it is of; return whether it is this one.

    Where nothing is evaluated, it is the best training loss.
    """
    best = state["best"]
    is_best = best is None or report.is_better_than(best["value"], best["loss"])
    if is_best:
        name, value = report.headline
        state["best"] = {
            "epoch": state["epoch"], "step": state["step"], "split": split, "name": name, "value": value, "loss": report.loss,
        }  # fmt: skip
    state["epochs_since_best"] = 0 if is_best else state["epochs_since_best"] + 1
    return is_best


def is_over(recipe: Recipe, state: State) -> bool:
    """Tell whether early stopping or `max_steps` ends training here."""
    if state["step"] == recipe.max_steps and not state["window"]:
        return True
    return recipe.early_stopping is not None and state["epochs_since_best"] >= recipe.early_stopping


def evaluation_size(training: Training, split: Split) -> int:
    """Return how many samples to evaluate at a time; where memory ran out in training, as many as fitted there."""
    size, most = test_batch_size(training.recipe, split, training.model), training.state["micro_batch"]
    return size if most is None else min(size, most)


def test_batch_size(recipe: Recipe, split: Split, model: nn.Module) -> int:
    """Return how many samples to evaluate at a time: without gradients more fit than in training, of short rows many more."""
    is_on_processor = all(parameter.device == CPU for parameter in model.parameters())
    most = MOST_IMAGES if has_images(model) and is_on_processor else MOST_SAMPLES
    size = max(recipe.batch_size, min(4 * recipe.batch_size, most))
    if isinstance(split, ResidentSplit) and split.inputs.numel() and (split.inputs.dim() == 2 or not is_on_processor):
        numbers = ROW_NUMBERS if is_on_processor else CARD_NUMBERS
        size = max(size, min(MOST_ROWS, numbers // split.inputs[0].numel()))
    return size
