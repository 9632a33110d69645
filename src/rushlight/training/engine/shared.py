"""The engine of a run of several processes: the exact step of each, its gradients added up over all."""

from __future__ import annotations

from rushlight.data import EMPTY, Batch, Feed
from rushlight.training.checkpoint import Saver
from rushlight.training.engine.protocol import Plan
from rushlight.training.interrupt import Interrupt
from rushlight.training.record import StepsDone
from rushlight.training.state import State, Training
from rushlight.training.step import Parts, SharedStep, StepRunner


class SharedEngine:
    """Executes the steps one by one; after each, all processes know whether one of them was told to stop."""

    def __init__(self, training: Training, parts: Parts, saver: Saver) -> None:
        self.saver, self.execute = saver, SharedStep(training, parts)
        self.runner = StepRunner(training, parts, saver)

    def next(self, state: State, feed: Feed) -> Plan:
        """Return that the next step is one."""
        return Plan()

    def run(self, plan: Plan, batches: list[Batch], interrupt: Interrupt) -> StepsDone:
        """Execute the step, on no sample at all where this process's share of it is empty."""
        self.execute.ask(interrupt.reason, self.saver.wishes)
        losses, outputs, rates = self.runner.run(self.execute, [[batch for batch in batches if batch is not EMPTY]])
        if (told := self.execute.parts.objective.told) is not None:
            told.weights.clear()  # of this process alone: the step's is that of all
        interrupt.agree(self.execute.stop)
        return StepsDone(losses, outputs, [self.execute.weight], rates, [self.execute.samples])

    def reset(self) -> None:
        """Nothing is known of the state that was replaced."""

    def close(self) -> None:
        """Nothing else is at work."""
