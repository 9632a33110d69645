"""Executes steps one after another: with learning rate, random numbers and recovery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rushlight.data import Batch, count_samples, equal_parts, step_seed
from rushlight.training.checkpoint import Saver
from rushlight.training.objective import Objective
from rushlight.training.record import StepsDone
from rushlight.training.state import Training
from rushlight.training.step.exact import Parts, Step
from rushlight.training.step.recovery import Rescue

Executed = tuple[list[float | Tensor], Any, list[float | Tensor]]  # losses, the last outputs, learning rates

EXPLAINED = (  # what code gone wrong raises; all else is raised on purpose, and goes on as it is
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, NameError, ArithmeticError, AssertionError,
)  # fmt: skip
MOST_IN_A_ROW = 32
ROW_SECONDS = 0.02  # about: a checkpoint that is due waits for that long


class StepFailed(Exception):
    """A step failed in the model, the loss or the optimizer, on a batch."""

    def __init__(self, error: Exception, batch: Batch) -> None:
        super().__init__(str(error))
        self.error, self.batch = error, batch


class StepRunner:
    """Executes steps one after another, and counts each in the state."""

    def __init__(self, training: Training, parts: Parts, saver: Saver) -> None:
        self.training, self.state, self.saver = training, training.state, saver
        self.parts = parts
        self.rescue = Rescue(training, saver)
        self.generator = step_generator(training.device)
        self.is_on_processor = training.device.type == "cpu"

    def run(self, execute: Step, steps: Sequence[Sequence[Batch]], stops: Callable[[], bool] | None = None) -> Executed:
        """Execute a step on each list of micro-batches; return losses, last outputs, rates.

        With `stops`, it ends after a step where that is true, or where the state is to be saved as it is after that step.

        Raises:
            StepFailed: the model, the loss or the optimizer raised an error that may be explained.
        """
        state, schedule = self.state, self.training.schedule
        recipe, group = self.training.recipe, self.parts.optimizer.param_groups[0]
        told = self.training.objective.told
        losses: list[float | Tensor] = []
        rates: list[float | Tensor] = []
        for micro_batches in steps:
            outputs = loss = None  # let go: the next step's own take their place in the processor's cache
            schedule.before_step(state["step"])
            seed = step_seed(recipe.seed, state["epoch"], state["window"], self.training.world.rank)
            try:
                loss, outputs = self.rescue.step(execute, micro_batches, self.generator, seed)
            except EXPLAINED as error:
                if not micro_batches:  # of several processes, this one's share of the batch is empty
                    raise
                raise StepFailed(error, micro_batches[-1]) from error
            if told is not None:
                told.end_step()
            if not self.is_on_processor:  # a graph of kernels cannot be captured while somebody holds autograd's
                outputs = tree_map(lambda value: value.detach() if isinstance(value, Tensor) else value, outputs)
            losses.append(loss.item() if self.is_on_processor else loss)  # nobody waits for a processor
            rate = group["lr"]  # where it is a tensor, it is changed in place
            rates.append(rate.detach().clone() if isinstance(rate, Tensor) else rate)
            state["window"] += 1
            state["step"] += 1
            if stops is not None and (stops() or self.saver.is_asked_for):
                break
        return losses, outputs, rates


class Row:
    """Counts the short calls to make in a row, so that the Python around each costs little."""

    def __init__(self) -> None:
        self.calls = 1  # until it is known how long one takes

    def measure(self, calls: int, seconds: float, most: int) -> None:
        """Choose the length of the next row from how long this one took."""
        self.calls = max(1, min(MOST_IN_A_ROW, most, int(ROW_SECONDS * calls / seconds)))


def cut(batches: list[Batch], count: int) -> list[list[Batch]]:
    """Return the micro-batches of each step; one batch holds those of all unless `count` is 1."""
    return [batches] if count == 1 else [[part] for part in equal_parts(batches[0], count)]


def steps_done(
    objective: Objective, batches: list[Batch], count: int,
    losses: Sequence[float | Tensor], outputs: Any, rates: list[float | Tensor],
) -> StepsDone:  # fmt: skip
    """Return the results of the steps that were done, with their weights and samples."""
    if objective.told is not None:
        weights = objective.told.weights[-len(rates) :]
        objective.told.weights.clear()
        samples = [int(sum(map(count_samples, batches))) // count] * count
    elif count == 1:
        weights, samples = [sum(map(objective.weight, batches))], [int(sum(map(count_samples, batches)))]
    else:
        weights = objective.weights(batches[0], count)
        samples = [int(count_samples(batches[0])) // count] * count
    done = len(rates)
    return StepsDone(losses, outputs if done == count else None, weights[:done], rates, samples[:done])


def step_generator(device: torch.device) -> torch.Generator:
    """Return the generator that dropout draws from on the device."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator
