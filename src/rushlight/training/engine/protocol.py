"""What the loop asks of an engine: which steps are next, and to execute them; and whole steps that are one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rushlight.data import Batch, Feed
from rushlight.training.interrupt import Interrupt
from rushlight.training.record import StepsDone
from rushlight.training.state import State


@dataclass(frozen=True)
class Plan:
    """The next optimizer steps. More than one are executed on one batch that holds those of all."""

    count: int = 1  # steps
    per_call: int = 1  # of these in one call of machine code
    verifies: bool = False  # whether a faster execution mode is compared with the exact one on them


class Engine(Protocol):
    """Executes optimizer steps; the result is the exact step's but for rounding."""

    def next(self, state: State, feed: Feed) -> Plan:
        """Return which steps are next, on the batches of a feed."""
        ...

    def run(self, plan: Plan, batches: list[Batch], interrupt: Interrupt) -> StepsDone:
        """Execute the steps, fewer where a signal comes or a save is due; count them in the state.

        Raises:
            StepFailed: the model, the loss or the optimizer failed.
        """
        ...

    def reset(self) -> None:
        """Look everything up anew before the next step: another state was restored."""
        ...

    def close(self) -> None:
        """End the engine's other processes."""
        ...


class JoinedSteps(Protocol):
    """Whole steps, several where they are short, that one call executes on a training's own tensors, in place."""

    key: str
    draws: bool  # whether they draw random numbers

    @property
    def is_current(self) -> bool:
        """Whether the optimizer has the settings that are built in here."""
        ...

    def find(self) -> None:
        """Look up the tensors again: loading a state replaces them."""
        ...

    def takes(self, batch: Batch) -> bool:
        """Tell whether samples and targets lie in memory as those that this was made for."""
        ...

    def take(
        self, batch: Batch, rates: Sequence[Sequence[float]], seeds: Sequence[int], generator: torch.Generator
    ) -> tuple[Tensor, Any]:
        """Execute the steps on a batch; return the losses (count,) and the last outputs.

        `rates` are the learning rates of each step and group; `seeds` those of each step's random numbers.
        """
        ...
