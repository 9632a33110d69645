"""Verifying a faster mode on steps of the run: the exact step's result is kept, so that verifying changes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rushlight.training.checkpoint import random_streams, restore_random_streams
from rushlight.training.engine import step_check
from rushlight.training.engine.step_check import Outcome, Stretch, Tensors, assign, copies, gradients_of, tensors_of
from rushlight.training.step import Executed, Parts, Step

ROUNDS = 3  # of measuring the gain

Execute = Callable[[Stretch], Tensor]  # executes some steps; returns their losses


@dataclass(frozen=True)
class Verdict:
    """What was found of a mode: what disagrees with the exact step, if anything does, and how fast it is."""

    disagrees: str | None
    gain: float = 1.0  # how many times as fast as the mode in force
    microseconds: float = 0.0  # of a step


def one_by_one(parts: Parts, step: Step, generator: torch.Generator) -> Execute:
    """Return what executes steps with a step function."""

    def execute(stretch: Stretch) -> Tensor:
        losses = []
        for micro_batches, rates, seed in zip(stretch.steps, stretch.rates, stretch.seeds, strict=True):
            step_check.set_rates(parts, rates)
            generator.manual_seed(seed)
            losses.append(step(micro_batches)[0])
        return torch.stack(losses)

    return execute


class Verification:
    """Compares a mode with the exact step on a stretch of the run's own steps."""

    def __init__(self, parts: Parts, generator: torch.Generator, exact: Step, stretch: Stretch) -> None:
        self.parts, self.generator, self.stretch = parts, generator, stretch
        self.exact = one_by_one(parts, exact, generator)
        self.live = tensors_of(parts)
        self.before = copies(self.live)

    def verify(
        self,
        run_exactly: Callable[[], Executed],
        open_mode: Callable[[], Execute],
        now: Execute | None,
        is_compiled: bool,
    ) -> tuple[Executed, Verdict]:
        """Execute the steps exactly, then as the mode does, and put the exact result back.

        The gain is measured against `now`, the mode in force, where that is given.
        """
        executed = run_exactly()
        exact = self.outcome(torch.tensor(executed[0], dtype=torch.float64))
        streams = random_streams()
        try:
            execute = open_mode()
            verdict = Verdict(self.compare(execute, exact, is_compiled))
            if verdict.disagrees is None and now is not None:
                verdict = self.measure(execute, now)
        except Exception as error:  # whatever it is, the exact step goes on
            verdict = Verdict(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else '?'}")
        finally:
            assign(self.live, exact.tensors)
            restore_random_streams(streams)
            step_check.set_rates(self.parts, self.stretch.rates[-1])
        return executed, verdict

    def compare(self, execute: Execute, exact: Outcome, is_compiled: bool) -> str | None:
        """Return what of a mode's result is further from the reference than it may be; None where nothing is."""
        parts, stretch = self.parts, self.stretch
        assign(self.live, self.before)
        fast = self.outcome(execute(stretch), has_gradients=not is_compiled)
        disagrees = step_check.disagreement(fast, exact, self.reference(stretch))
        rates = step_check.revealing_rates(parts, self.before, len(stretch.steps), stretch.rates[-1])
        if disagrees is not None or rates is None or not is_compiled:
            return disagrees
        revealing, outcomes = replace(stretch, rates=rates), []
        for each in (execute, self.exact):
            assign(self.live, self.before)
            outcomes.append(self.outcome(each(revealing), has_gradients=False))
        return step_check.disagreement(outcomes[0], outcomes[1], self.reference(revealing))

    def reference(self, stretch: Stretch) -> Outcome:
        """Return what the steps lead to in float64."""
        return step_check.reference(self.parts, self.before, stretch, self.generator)

    def outcome(self, losses: Tensor, has_gradients: bool = True) -> Outcome:
        """Return what the steps just executed led to."""
        found: Tensors = {**tensors_of(self.parts), **(gradients_of(self.parts) if has_gradients else {})}
        return Outcome(losses.reshape(-1).double(), copies(found))

    def measure(self, execute: Execute, now: Execute) -> Verdict:
        """Return the gain over the mode in force: the least time of some interleaved rounds."""
        best = [math.inf, math.inf]
        for _ in range(ROUNDS):
            for number, each in enumerate((execute, now)):
                assign(self.live, self.before)
                began = time.perf_counter()
                each(self.stretch)
                best[number] = min(best[number], time.perf_counter() - began)
        return Verdict(None, best[1] / best[0], best[0] / len(self.stretch.steps) * 1e6)
