"""The losses of an epoch's steps: gathered without waiting for a device, read about ten times a second."""

from __future__ import annotations

import cmath
import math
import sys
import time
from array import array
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from rushlight.data import Batch
from rushlight.errors import TrainingError
from rushlight.texts import Joined, Note
from rushlight.training.checkpoint import Saver, describe_kept
from rushlight.training.objective import named_parameters
from rushlight.training.recipe import steps_per_epoch
from rushlight.training.state import Training

READ_EVERY = 0.2  # seconds between two readings of the losses
MOST_PENDING = 4096  # losses kept unread at the most
LINES_PER_EPOCH = 10
SHORTEST_LINE = 100  # steps


class StepsDone(NamedTuple):
    """Optimizer steps done by one call of an engine, one or several; the state counts them already."""

    losses: Sequence[float | Tensor]  # of each step; tensors () where a device may have them still to compute
    outputs: Any  # of the last samples
    weights: list[float]  # of each step: what its loss is a mean over
    rates: list[float | Tensor]  # of each step: the learning rate of the first group
    samples: list[int]  # of each step


class Ledger:
    """Owns the losses that are not read yet; writes them, adds them to the state, and emits events of them.

    Reading a device's loss waits for it, so it is done by time. What is written does not depend on when it was
    read: every loss goes to losses.f32, and a line of history stands at fixed steps.
    """

    def __init__(self, training: Training, saver: Saver) -> None:
        self.training, self.state, self.saver = training, training.state, saver
        self.recipe, self.data = training.recipe, training.data
        self.pending: list[float | Tensor] = []  # losses; what follows is of the same steps, one by one
        self.weights: list[float] = []
        self.rates: list[float | Tensor] = []
        self.samples: list[int] = []
        self.steps = steps_per_epoch(self.data.train, self.recipe)
        self.line_every = max(SHORTEST_LINE, math.ceil((self.steps or 0) / LINES_PER_EPOCH))
        self.due = time.perf_counter() + READ_EVERY
        self.began = time.perf_counter()
        self.first_step = self.state["window"]
        self.samples_done = 0
        self.shown_loss: float | None = None
        self.shown_accuracy: float | None = None
        self.highest_rate = -math.inf  # of the steps so far
        if training.objective.told is not None:
            training.objective.told.clear()  # of steps that were rolled back

    def add(self, done: StepsDone, last: Batch) -> None:
        """Add the losses of steps that are done; `last` is a batch that ends with their last samples."""
        self.pending += done.losses
        self.weights += done.weights
        self.rates += done.rates
        self.samples += done.samples
        is_bad = self.training.world.is_shared and not all(map(math.isfinite, map(float, done.losses)))
        if len(self.weights) >= MOST_PENDING or time.perf_counter() >= self.due or is_bad:  # all stop at the same step
            self.read_accuracy(done.outputs, last)
            self.flush()

    def flush(self) -> None:
        """Read the pending losses: write, check and add them up, and tell of the lines that are due and of the progress."""
        if not self.pending:
            return
        read = losses_as_float32(self.pending)
        losses = read.tolist()
        if sys.byteorder == "big":
            read.byteswap()
        self.training.history.write_losses(read.tobytes())  # also those that end the run
        places = (place for place, loss in enumerate(losses) if not math.isfinite(loss))
        bad = None if self.recipe.on_nan == "skip" else next(places, None)
        self.add_up(losses, bad)
        if bad is not None:
            self.blow_up(losses, bad)
        self.add_numbers()
        self.samples_done += sum(self.samples)
        self.highest_rate = max(self.highest_rate, *map(float, self.rates))
        for pending in (self.pending, self.weights, self.rates, self.samples):
            pending.clear()
        self.tell(losses)
        self.due = time.perf_counter() + READ_EVERY

    def add_up(self, losses: list[float], end: int | None) -> None:
        """Add the losses before `end` to the epoch's and the line's sums, one by one; emit the lines that are due.

        Events that happened in a step come after the lines of the steps before it.
        """
        state, total, line_every = self.state, self.training.objective.total, self.line_every
        events = self.training.events
        names = ("samples", "loss_sum", "weight_sum", "line_sum", "line_weight")
        samples, loss_sum, weight_sum, line_sum, line_weight = (state[name] for name in names)
        in_epoch, step = (state[name] - len(losses) for name in ("window", "step"))
        of_steps = zip(losses, self.weights, self.rates, self.samples, strict=True)
        for loss, weight, rate, count in islice(of_steps, end):
            if events.waiting:
                events.release(step)
            in_epoch, step, samples = in_epoch + 1, step + 1, samples + count
            if math.isfinite(loss):  # else that step was left out
                amount = total(loss, weight) if weight else 0.0
                loss_sum, weight_sum = loss_sum + amount, weight_sum + weight
                line_sum, line_weight = line_sum + amount, line_weight + weight
            if in_epoch % line_every == 0:
                line = {"step": step, "loss": line_sum / line_weight if line_weight else None}
                events.emit("steps", epoch=state["epoch"], **line, learning_rate=float(rate), samples=samples)
                line_sum = line_weight = 0.0
        state.update(zip(names, (samples, loss_sum, weight_sum, line_sum, line_weight), strict=True))

    def add_numbers(self) -> None:
        """Add the numbers that the user's objective told of these steps to the epoch's sums."""
        told = self.training.objective.told
        if told is None or not told.numbers:
            return
        sums = self.state["numbers"]
        values = losses_as_float32([value for _, value, _ in told.numbers])
        for (name, _, weight), value in zip(told.numbers, values, strict=True):
            if weight:
                total, whole = sums.get(name, (0.0, 0.0))
                sums[name] = [total + weight * value, whole + weight]
        told.numbers.clear()

    def tell(self, losses: list[float]) -> None:
        """Tell of the progress: the smoothed loss, the speed, and the time left."""
        recent = sum(losses) / len(losses)
        self.shown_loss = recent if self.shown_loss is None else 0.7 * self.shown_loss + 0.3 * recent
        done = self.state["window"] - self.first_step
        elapsed = max(time.perf_counter() - self.began, 1e-9)
        left = None
        if self.steps is not None:
            steps_left = self.steps - self.state["window"] + self.steps * (self.recipe.epochs - self.state["epoch"])
            if self.recipe.max_steps is not None:
                steps_left = self.recipe.max_steps - self.state["step"]
            left = steps_left * elapsed / max(done, 1)
        self.training.events.emit(
            "progress",
            epoch=self.state["epoch"], epochs=self.recipe.epochs, step=self.state["window"], steps=self.steps,
            loss=self.shown_loss, accuracy=self.shown_accuracy, samples_per_second=self.samples_done / elapsed, seconds_left=left,
        )  # fmt: skip

    def read_accuracy(self, outputs: Any, batch: Batch) -> None:
        """Smooth the training accuracy over the last samples: ten batches a second are enough, and cost nothing."""
        target = self.data.target
        if not isinstance(outputs, Tensor) or target is None or target.task not in ("classification", "binary"):
            return
        truth, predicted = target.true(batch[1][-len(outputs) :]), target.predicted(outputs)
        counted = (predicted == truth)[truth != target.ignored] if predicted.shape == truth.shape else truth[:0]
        if not counted.numel():  # in training the outputs may be others than in tests
            return
        accuracy = float(counted.float().mean())
        self.shown_accuracy = accuracy if self.shown_accuracy is None else 0.8 * self.shown_accuracy + 0.2 * accuracy

    def blow_up(self, losses: list[float], place: int) -> NoReturn:
        """Raise BlownUp for the loss at a place, which is NaN or infinite, naming its step and samples.

        A gradient that is not finite shows in the loss of the step after, so that one's samples are named too.
        """
        self.saver.finish_quietly()  # so that the message names the newest state there is
        in_epoch, step = (self.state[name] - len(losses) + place for name in ("window", "step"))
        earlier = name_samples(self.training, in_epoch - 1) if in_epoch else ""
        before = Note("training.or-by-gradient", step=step, samples=earlier) if in_epoch else ""
        raise BlownUp(
            "loss-not-finite", value=losses[place], step=step + 1, epoch=self.state["epoch"], before=before,
            samples=name_samples(self.training, in_epoch), learning_rate=f"{float(self.rates[place]):g}",
            kept=describe_kept(self.training.folder), run=self.training.folder.name,
        )  # fmt: skip

    def check_rates(self) -> None:
        """Warn of an epoch in which every step had learning rate 0: nothing was learnt."""
        if self.highest_rate == 0 and not any(float(group["lr"]) for group in self.training.optimizer.param_groups):
            self.training.events.warning(Note("training.epoch-at-rate-0", epoch=self.state["epoch"]))

    def check_weights(self) -> None:
        """Raise BlownUp for weights that the last steps made NaN or infinite, before these are tested or saved."""
        training = self.training
        named = named_parameters(training.model, training.objective.loss)
        named = named if training.shards is None else training.shards.parameters
        bad = next((name for name, parameter in named.items() if not are_finite(parameter)), None)
        if training.shards is not None:  # another process has other rows
            bad = next(filter(None, training.world.gather(bad)), None)
        if bad is not None:
            self.saver.finish_quietly()
            raise BlownUp(
                "weights-not-finite", name=bad, step=self.state["step"], epoch=self.state["epoch"],
                kept=describe_kept(training.folder),
            )  # fmt: skip


def are_finite(tensor: Tensor) -> bool:
    """Tell whether all numbers in a tensor are finite. Its sum decides quickly; only large numbers need a second test."""
    return cmath.isfinite(tensor.detach().sum().item()) or bool(torch.isfinite(tensor).all())


class BlownUp(TrainingError):
    """The loss or the weights are not finite any more."""


def name_samples(training: Training, step: int) -> Note:
    """Return which training samples step `step` (from 0) of this epoch held, where that can be told."""
    recipe, state = training.recipe, training.state
    order, size = training.data.train.order(recipe.seed, state["epoch"]), recipe.batch_size * recipe.accumulate
    if order is None:
        return Note("training.samples-unknown")
    chosen, names = order[step * size : (step + 1) * size].tolist(), training.data.train.names
    listed = Joined("list", (f"{index}" if names is None else names[index] for index in chosen[:8]))
    return Note("training.samples-in-all" if len(chosen) > 8 else "training.samples", listed=listed, count=len(chosen))


def losses_as_float32(losses: Sequence[float | Tensor]) -> array[float]:
    """Return losses as float32: one wait for all that a device has still to compute."""
    on_device = [loss for loss in losses if isinstance(loss, Tensor)]
    numbers = iter(torch.stack(on_device).reshape(-1).tolist() if on_device else ())
    return array("f", [next(numbers) if isinstance(loss, Tensor) else loss for loss in losses])
