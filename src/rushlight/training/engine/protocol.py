"""What the loop asks of an engine: which steps are next, and to execute them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
