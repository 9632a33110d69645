"""What the steps of an epoch cost: losses gathered without waiting for them, read about ten times a second."""

from __future__ import annotations

import math
import sys
import time
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from rushlight.data.batches import Batch
from rushlight.data.order import epoch_order
from rushlight.errors import TrainingError
from rushlight.training.checkpoint import describe_kept
from rushlight.training.objective import count_samples
from rushlight.training.recipe import Recipe
from rushlight.training.state import Training

READ_EVERY = 0.1  # seconds between two looks at the losses
MOST_PENDING = 4096  # losses kept unread at the most
LINES_PER_EPOCH = 10
SHORTEST_LINE = 100  # steps


class Ledger:
    """Owns the losses that nobody has read yet, and brings them to the history, the state and the screen.

    Reading a loss waits for the device, so it is done by time. What is written does not depend on when it was
    read: every loss goes to losses.f32, and a line of history stands at fixed steps.
    """

    def __init__(self, training: Training) -> None:
        self.training, self.state = training, training.state
        self.recipe, self.data = training.recipe, training.data
        self.pending: list[Tensor] = []
        self.weights: list[float] = []
        self.steps = steps_per_epoch(self.data.train.samples, self.recipe)
        self.line_every = max(SHORTEST_LINE, math.ceil((self.steps or 0) / LINES_PER_EPOCH))
        self.due = time.perf_counter() + READ_EVERY
        self.began = time.perf_counter()
        self.first_window = self.state["window"]
        self.samples = 0
        self.shown_loss: float | None = None
        self.shown_accuracy: float | None = None

    def add(self, loss: Tensor, weight: float, outputs: Tensor | None, window: Sequence[Batch]) -> None:
        """Take over a step's loss; `weight` is what its mean is over."""
        self.pending.append(loss)
        self.weights.append(weight)
        samples = int(sum(map(count_samples, window)))
        self.samples += samples
        self.state["samples"] += samples
        is_line = self.state["window"] % self.line_every == 0
        if is_line or len(self.pending) >= MOST_PENDING or time.perf_counter() >= self.due:
            self.read_accuracy(outputs, window[-1])
            self.flush()
            if is_line:
                self.write_line()

    def flush(self) -> None:
        """Read the pending losses: check them, write them down, add them up, show the last."""
        if not self.pending:
            return
        losses = torch.stack(self.pending).float().tolist()
        self.training.history.write_losses(little_endian(losses))  # also those that end the run
        self.check_finite(losses)
        for loss, weight in zip(losses, self.weights, strict=True):
            for total, count in (("loss_sum", "weight_sum"), ("line_sum", "line_weight")):
                self.state[total] += self.training.objective.total(loss, weight) if weight else 0.0
                self.state[count] += weight
        self.pending.clear()
        self.weights.clear()
        self.show(losses)
        self.due = time.perf_counter() + READ_EVERY

    def show(self, losses: list[float]) -> None:
        """Update the screen: the loss smoothed over what was read, speed, and the time left."""
        recent = sum(losses) / len(losses)
        self.shown_loss = recent if self.shown_loss is None else 0.7 * self.shown_loss + 0.3 * recent
        done = self.state["window"] - self.first_window
        elapsed = max(time.perf_counter() - self.began, 1e-9)
        left = None
        if self.steps is not None:
            steps_left = self.steps - self.state["window"] + self.steps * (self.recipe.epochs - self.state["epoch"])
            left = steps_left * elapsed / max(done, 1)
        self.training.progress.update(
            epoch=self.state["epoch"], epochs=self.recipe.epochs, step=self.state["window"], steps=self.steps,
            loss=self.shown_loss, accuracy=self.shown_accuracy, samples_per_second=self.samples / elapsed, seconds_left=left,
        )  # fmt: skip

    def read_accuracy(self, outputs: Tensor | None, batch: Batch) -> None:
        """Follow the training accuracy on the batch at hand: ten batches a second tell enough, and cost nothing."""
        target = self.data.target
        if outputs is None or target is None or target.task not in ("classification", "binary"):
            return
        predicted = outputs.argmax(1) if target.task == "classification" else (outputs > 0).to(batch[1].dtype)
        accuracy = float((predicted == batch[1]).float().mean())
        self.shown_accuracy = accuracy if self.shown_accuracy is None else 0.8 * self.shown_accuracy + 0.2 * accuracy

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.training.optimizer.param_groups[0]["lr"])

    def write_line(self) -> None:
        """Write the line of history that is due at this step."""
        state = self.state
        self.training.history.write(
            {
                "kind": "steps", "epoch": state["epoch"], "step": state["step"],
                "loss": state["line_sum"] / state["line_weight"] if state["line_weight"] else None,
                "learning_rate": self.learning_rate,
                "samples": state["samples"], "time": time.time(),
            }
        )  # fmt: skip
        state.update(line_sum=0.0, line_weight=0.0)

    def check_finite(self, losses: list[float]) -> None:
        """Raise TrainingError at the first loss that is NaN or infinite, naming its step and samples."""
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                window = self.state["window"] - len(losses) + offset
                raise TrainingError(
                    "loss-not-finite", value=loss, step=self.state["step"] - len(losses) + offset + 1,
                    epoch=self.state["epoch"], samples=self.name_samples(window), learning_rate=f"{self.learning_rate:g}",
                    kept=describe_kept(self.training.folder),
                )  # fmt: skip

    def name_samples(self, window: int) -> str:
        """Return which training samples a window of this epoch held, where that can be told."""
        n, size = self.data.train.samples, self.recipe.batch_size * self.recipe.accumulate
        if n is None:
            return "samples unknown: the order is the loader's own"
        is_shuffled = getattr(self.data.train, "is_shuffled", True)
        order = epoch_order(self.recipe.seed, self.state["epoch"], n) if is_shuffled else torch.arange(n)
        chosen = order[window * size : (window + 1) * size].tolist()
        listed = ", ".join(map(str, chosen[:8]))
        return f"samples {listed}{f' … ({len(chosen)} in all)' if len(chosen) > 8 else ''}"


def steps_per_epoch(samples: int | None, recipe: Recipe) -> int | None:
    """Return how many optimizer steps an epoch takes; None when the data does not tell its length."""
    return None if samples is None else math.ceil(samples / (recipe.batch_size * recipe.accumulate))


def little_endian(values: list[float]) -> bytes:
    """Return the values as little-endian float32."""
    packed = array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
