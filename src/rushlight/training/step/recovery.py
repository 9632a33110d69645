"""What is done when a step goes wrong: numbers that blow up, and memory that runs out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rushlight.data import Batch
from rushlight.errors import TrainingError
from rushlight.training.checkpoint import (
    Saver,
    begin_random_streams,
    checkpoints,
    describe_kept,
    epoch_began,
    is_whole,
    restore,
)
from rushlight.training.record import BlownUp, name_samples
from rushlight.training.state import Training
from rushlight.training.step.exact import NotFinite, Step, UpdateFailed
from rushlight.training.step.memory import Buffers, has_batch_norm, is_out_of_memory, largest, split

MOST_SKIPPED = 20  # steps left out one after the other
MOST_ROLLBACKS = 10  # of one epoch
ROLLBACK_FACTOR = 0.5  # what a rollback multiplies the learning rate by


class Rescue:
    """Executes the steps, and what a step that went wrong asks for: the same one in smaller pieces, or none."""

    def __init__(self, training: Training, saver: Saver) -> None:
        self.training, self.state = training, training.state
        self.saver = saver
        self.buffers = Buffers(training.model)

    def step(
        self, execute: Step, micro_batches: Sequence[Batch], generator: torch.Generator, seed: int
    ) -> tuple[Tensor, Tensor | None]:
        """Take one step, with its random numbers from `seed`; return the mean loss, and outputs for the last samples.

        Raises:
            TrainingError: memory runs out for a single sample, or steps are left out one after the other.
        """
        if self.buffers.places:
            self.buffers.keep()
        while True:
            generator.manual_seed(seed)
            try:
                size = self.state["micro_batch"]
                result = execute(micro_batches if size is None else split(micro_batches, size))
                self.state["skipped"] = 0
                return result
            except NotFinite as bad:
                return self.leave_out(bad)
            except UpdateFailed as failed:
                raise self.explain_update(failed) from failed.__cause__
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.halve(micro_batches)  # not in the clause above: the error holds on to the failed step's memory

    def leave_out(self, bad: NotFinite) -> tuple[Tensor, None]:
        """Leave this step's update out, with all that its forward pass has changed, and say so."""
        state = self.state
        self.training.optimizer.zero_grad()
        self.buffers.put_back()
        state["skipped"] += 1
        step, samples = state["step"] + 1, name_samples(self.training, state["window"])
        what = "loss" if bad.what == "loss" else f'gradient of "{bad.what}"'
        message = f"Step {step:,} was left out: its {what} is not finite ({samples})."
        self.note("skipped", step, message)
        if state["skipped"] >= MOST_SKIPPED:
            kept = describe_kept(self.training.folder)
            raise TrainingError("all-skipped", count=MOST_SKIPPED, step=step, what=what, samples=samples, kept=kept)
        return bad.loss, None

    def halve(self, micro_batches: Sequence[Batch]) -> None:
        """Take micro-batches of half the size from here on; the effective batch stays, and so does each sample's weight."""
        state, training = self.state, self.training
        size = state["micro_batch"] or largest(micro_batches)
        training.optimizer.zero_grad()
        self.buffers.put_back()
        if size < 2:
            raise TrainingError("out-of-memory", step=state["step"] + 1, kept=describe_kept(training.folder))
        state["micro_batch"] = size // 2
        whole = sum(map(largest, ([batch] for batch in micro_batches)))
        message = f"Memory ran out at step {state['step'] + 1:,}: from here on {size // 2} samples at a time, {whole} to an update as before."
        if has_batch_norm(training.model):
            message += " The model has batch normalisation, whose means are now over fewer samples: results will differ a little."
        self.note("micro-batch", state["step"] + 1, message)
        self.saver.ask()  # so that a run resumed from here does as this one did

    def explain_update(self, failed: UpdateFailed) -> BaseException:
        """Return the error to raise for an optimizer that failed: the weights may be half updated, so nothing is tried again."""
        cause = failed.__cause__
        if cause is not None and is_out_of_memory(cause):
            kept = describe_kept(self.training.folder)
            return TrainingError("out-of-memory-update", step=self.state["step"] + 1, kept=kept)
        return cause or failed

    def note(self, event: str, step: int, message: str) -> None:
        """Record what was done, and say it aloud."""
        self.training.events.emit("event", event=event, step=step, message=message)


def roll_back(training: Training, error: BlownUp) -> None:
    """Go back to where the epoch began, with half the learning rate.

    What it goes back to depends on nothing but the step, so that a run killed on the way does the same. Raises `error`
    when that was done too often, or when there is nothing whole to go back to; nothing is deleted then.
    """
    state = training.state
    count, began = state["rollbacks"] + 1, checkpoints(training.folder) / epoch_began(state)
    if count > MOST_ROLLBACKS or not is_whole(began):
        raise error
    restore(training, began, drops_newer=True)
    begin_random_streams(training)
    training.schedule.scale(ROLLBACK_FACTOR**count)
    state["rollbacks"] = count
    rate = training.schedule.base_rates[0]
    message = f"{error.record} Rolled back to step {state['step']:,}, with half the learning rate: {rate:g}."
    training.events.emit("event", event="rolled-back", step=state["step"], message=message)
