"""Recovery from a step that goes wrong: numbers that blow up, and memory that runs out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rushlight.data import Batch
from rushlight.errors import TrainingError
from rushlight.texts import Note
from rushlight.training.checkpoint import (
    Saver,
    begin_random_streams,
    checkpoints,
    describe_kept,
    epoch_began,
    is_whole,
    restore,
    seed_step,
)
from rushlight.training.record import BlownUp, name_samples
from rushlight.training.state import Training
from rushlight.training.step.exact import NotFinite, Step, UpdateFailed
from rushlight.training.step.memory import Buffers, is_out_of_memory, largest_size, split

MOST_SKIPPED = 20  # steps left out one after the other
MOST_ROLLBACKS = 10  # of one epoch
ROLLBACK_FACTOR = 0.5  # of the learning rate


class Rescue:
    """Executes the steps; one that went wrong is executed again in smaller pieces, or left out."""

    def __init__(self, training: Training, saver: Saver) -> None:
        self.training, self.state = training, training.state
        self.saver = saver
        self.buffers = Buffers(training.model)

    def step(
        self, execute: Step, micro_batches: Sequence[Batch], generator: torch.Generator, seed: int
    ) -> tuple[Tensor, Tensor | None]:
        """Execute one step with random numbers from `seed`; return the mean loss and last outputs.

        Raises:
            TrainingError: memory runs out for a single sample, or steps are left out one after the other.
        """
        if self.buffers.places:
            self.buffers.keep()
        scaler = self.training.scaler
        scale = None if scaler is None else scaler.get_scale()
        while True:
            seed_step(generator, seed)
            if self.training.objective.told is not None:
                self.training.objective.told.batches.clear()
            try:
                size = self.state["micro_batch"]
                result = execute(micro_batches if size is None else split(micro_batches, size))
                self.state["skipped"] = 0
                if scaler is not None and scale is not None and (now := scaler.get_scale()) < scale:
                    step = self.state["step"] + 1  # its update was left out: a gradient in float16 was too large
                    self.note("skipped", step, Note("training.scaled-down", step=step, scale=now))
                return result
            except NotFinite as bad:
                return self.leave_out(bad)
            except UpdateFailed as failed:  # the weights may be half updated, so nothing is tried again
                cause = failed.__cause__
                if cause is not None and is_out_of_memory(cause):
                    kept = describe_kept(self.training.folder)
                    raise TrainingError("out-of-memory-update", step=self.state["step"] + 1, kept=kept) from cause
                raise (cause or failed) from cause
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.halve(micro_batches)  # not in the clause above: the error holds on to the failed step's memory

    def leave_out(self, bad: NotFinite) -> tuple[Tensor, None]:
        """Leave this step's update out, with all that its forward pass has changed, and say so."""
        state = self.state
        self.training.optimizer.zero_grad()
        self.buffers.restore()
        if (
            told := self.training.objective.told
        ) is not None:  # its weights count, its numbers may be as bad as the loss
            told.batches[:] = [(weight, is_told, {}) for weight, is_told, _ in told.batches]
        state["skipped"] += 1
        step, samples = state["step"] + 1, name_samples(self.training, state["window"])
        what = Note("training.the-loss") if bad.what == "loss" else Note("training.gradient-of", name=bad.what)
        self.note("skipped", step, Note("training.skipped", step=step, what=what, samples=samples))
        if state["skipped"] >= MOST_SKIPPED:
            kept = describe_kept(self.training.folder)
            raise TrainingError("all-skipped", count=MOST_SKIPPED, step=step, what=what, samples=samples, kept=kept)
        return bad.loss, None

    def halve(self, micro_batches: Sequence[Batch]) -> None:
        """Halve the micro-batches from here on; the effective batch and all weights stay."""
        state, training = self.state, self.training
        size = state["micro_batch"] or largest_size(micro_batches)
        training.optimizer.zero_grad()
        self.buffers.restore()
        if training.world.is_shared:  # the others would wait for this process's next piece
            raise TrainingError("out-of-memory-shared", step=state["step"] + 1, kept=describe_kept(training.folder))
        if size < 2:
            raise TrainingError("out-of-memory", step=state["step"] + 1, kept=describe_kept(training.folder))
        state["micro_batch"] = size // 2
        whole = sum(largest_size([batch]) for batch in micro_batches)
        has_norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in training.model.modules())
        key = "training.smaller-batches-and-norms" if has_norms else "training.smaller-batches"
        step = state["step"] + 1
        self.note("micro-batch", step, Note(key, step=step, size=size // 2, whole=whole))
        self.saver.is_asked_for = True  # so that a run resumed from here does as this one did

    def note(self, event: str, step: int, message: str) -> None:
        """Record what was done, and tell it."""
        self.training.events.emit_after(self.state["step"], event=event, step=step, message=message)


def roll_back(training: Training, error: BlownUp) -> None:
    """Go back to where the epoch began, with half the learning rate.

    The state it goes back to depends on nothing but the step, so that a run killed meanwhile does the same. Raises `error`
    when that was done too often, or when there is nothing whole to go back to; nothing is deleted then.
    """
    training.events.waiting.clear()  # of steps that are undone
    state = training.state
    count, began = state["rollbacks"] + 1, checkpoints(training.folder) / epoch_began(state)
    if count > MOST_ROLLBACKS or not is_whole(began):
        raise error
    restore(training, began, drops_newer=True)
    begin_random_streams(training)
    training.schedule.scale(ROLLBACK_FACTOR**count)
    state["rollbacks"] = count
    rate = training.schedule.base_rates[0]
    kept = Note("training.kept-beginning", step=state["step"])  # which one was the newest depends on the clock
    problem = Note(f"errors.{error.key}.problem", **{**error.values, "kept": kept})
    message = Note("training.rolled-back", problem=problem, step=state["step"], rate=rate)
    training.events.emit("event", event="rolled-back", step=state["step"], message=message)
