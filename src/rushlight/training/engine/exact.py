"""The engine that knows the exact step alone."""

from __future__ import annotations

import time

from rushlight.data import Batch, Feed
from rushlight.training.checkpoint import Saver
from rushlight.training.engine.protocol import Plan
from rushlight.training.interrupt import Interrupt
from rushlight.training.objective import step_hooks
from rushlight.training.record import StepsDone
from rushlight.training.state import State, Training
from rushlight.training.step import Parts, Row, StepRunner, cut, exact_step, steps_done


class ExactEngine:
    """Executes each step as the plain loop does; short ones in rows, which changes no bit."""

    def __init__(self, training: Training, parts: Parts, saver: Saver) -> None:
        self.training, self.parts = training, parts
        self.runner, self.execute = StepRunner(training, parts, saver), exact_step(parts)
        self.row = Row()
        self.ahead = 1  # batches that the feed has at once

    def next(self, state: State, feed: Feed) -> Plan:
        """Return which steps are next: several where they are short and nobody watches each."""
        self.ahead = most_in_a_row(self.training, feed)
        if self.row.calls == 1 or any(step_hooks(self.parts.optimizer)):
            return Plan()
        return Plan(max(1, int(min(self.row.calls, self.ahead, whole_steps_left(self.training)))))

    def run(self, plan: Plan, batches: list[Batch], interrupt: Interrupt) -> StepsDone:
        """Execute the steps one after another."""
        began = time.perf_counter()
        done = self.runner.run(self.execute, cut(batches, plan.count), lambda: interrupt.requested)
        self.row.measure(len(done[0]), time.perf_counter() - began, self.ahead)
        return steps_done(self.training.objective, batches, plan.count, *done)

    def reset(self) -> None:
        """Nothing is known of the state that was replaced."""

    def close(self) -> None:
        """Nothing else is at work."""


def most_in_a_row(training: Training, feed: Feed) -> int:
    """Return how many steps may share a batch of a feed; 1 where something happens in between."""
    return 1 if training.recipe.accumulate > 1 or training.schedule.by_step else feed.ahead


def whole_steps_left(training: Training) -> float:
    """Return the steps with a whole batch left in this epoch; infinite for an unknown length."""
    samples, recipe = training.data.train.samples, training.recipe
    left = float("inf") if samples is None else samples // recipe.batch_size - training.state["window"]
    return left if recipe.max_steps is None else min(left, recipe.max_steps - training.state["step"])
