"""Executing steps in the mode that is in force."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from rushlight.data import Batch, step_seed
from rushlight.training.engine.compile_job import CompileJob
from rushlight.training.engine.compiled import CompiledSteps
from rushlight.training.engine.eager import eager_step
from rushlight.training.engine.exact import whole_steps_left
from rushlight.training.engine.modes import EXACT, Mode
from rushlight.training.engine.obstacles import find_hooks
from rushlight.training.engine.protocol import Plan
from rushlight.training.engine.step_check import Rates, Stretch
from rushlight.training.engine.verification import Execute, one_by_one
from rushlight.training.interrupt import Interrupt
from rushlight.training.step import Executed, Row, Step, StepFailed, StepRunner, cut, exact_step

VERIFY_AGAIN = 1000  # steps after which an adopted mode is verified again; then twice as many, …


class Execution:
    """Executes steps in the mode that is in force."""

    def __init__(self, runner: StepRunner, job: CompileJob) -> None:
        self.runner, self.job = runner, job
        self.training, self.parts, self.state = runner.training, runner.parts, runner.state
        self.exact = exact_step(runner.parts)
        self.mode = self.base = EXACT  # in force; for steps that machine code cannot execute
        self.step: Step = self.exact  # of `base`
        self.compiled: CompiledSteps | None = None
        self.row = Row()

    def enter(self, mode: Mode) -> str | None:
        """Begin to execute steps in a mode; return why its machine code cannot be executed here, where it cannot."""
        if mode.name == "compiled" and (self.compiled is None or self.compiled.key != mode.key):
            opened = find_hooks(self.training) or self.job.open_recorded(mode)
            if isinstance(opened, str):
                return opened
            self.compiled = opened
        self.mode = mode
        self.base = replace(mode, name="eager" if mode.fused or mode.channels_last else "exact")
        is_eager = self.base.name == "eager"
        self.step = eager_step(self.parts, mode.fused, mode.channels_last) if is_eager else self.exact
        self.row = Row()
        return None

    @property
    def is_current(self) -> bool:
        """Whether the optimizer has the settings that the machine code in force has built in."""
        return self.mode.name != "compiled" or self.compiled is None or self.compiled.is_current

    def fits(self, following: int | None) -> bool:
        """Tell whether the next steps can be executed in one call of machine code."""
        count, state = self.mode.count, self.state
        return (
            self.mode.name == "compiled"
            and state["micro_batch"] is None
            and state["window"] % count == 0
            and count <= whole_steps_left(self.training)
            and (following is None or state["step"] + count <= following)
        )

    def steps_to_verification(self, step: int) -> float:
        """Return how many steps are left until the mode in force is verified again; infinite for the exact one."""
        if self.mode.name == "exact":
            return math.inf
        done = step - self.mode.since
        doublings = (max(done - 1, 0) // VERIFY_AGAIN).bit_length()
        return (VERIFY_AGAIN << doublings) - done

    def run(self, plan: Plan, batches: list[Batch], interrupt: Interrupt, ahead: int) -> Executed:
        """Execute steps with nothing around them, and measure how many calls are short enough to be made in a row."""
        began, compiled = time.perf_counter(), self.compiled
        calls: list[Batch] = []
        if self.mode.name == "compiled" and plan.per_call == self.mode.count and self.fits(None):
            calls = [self.job.prepare(batch) for [batch] in cut(batches, plan.count // plan.per_call)]
        if compiled is not None and calls and compiled.takes(calls[0]):
            executed = self.run_compiled(compiled, calls, interrupt)
        else:
            executed = self.runner.run(self.step, cut(batches, plan.count), lambda: interrupt.requested)
        made = max(1, len(executed[0]) // plan.per_call)
        self.row.measure(made, time.perf_counter() - began, ahead // plan.per_call)
        return executed

    def run_compiled(self, compiled: CompiledSteps, calls: list[Batch], interrupt: Interrupt) -> Executed:
        """Execute the steps of each batch in one call of machine code; no more of them once there is a signal."""
        state, count = self.state, self.mode.count
        losses: list[float | torch.Tensor] = []
        rates: list[float] = []
        for batch in calls:
            outputs = losses_of_call = None  # let go, as in `StepRunner.run`
            rates_of_call = self.rates(count)
            seeds = self.seeds(count) if compiled.each else ()
            try:
                losses_of_call, outputs = compiled.take(batch, rates_of_call, seeds, self.runner.generator)
            except RuntimeError as error:
                raise StepFailed(error, batch) from error
            losses += losses_of_call.reshape(-1).tolist()
            rates += [rate[0] for rate in rates_of_call]
            state["window"] += count
            state["step"] += count
            if interrupt.requested:
                break
        return losses, outputs, rates

    def stretch(self, steps: list[list[Batch]]) -> Stretch:
        """Return the next steps with their learning rates and seeds, for a verification."""
        return Stretch(steps, self.rates(len(steps)), self.seeds(len(steps)))

    def rates(self, count: int) -> list[Rates]:
        """Return the learning rates of the next steps; the optimizer has the last ones' afterwards."""
        schedule, groups = self.training.schedule, self.parts.optimizer.param_groups
        if not schedule.moves:
            return [[group["lr"] for group in groups]] * count
        found = []
        for step in range(self.state["step"], self.state["step"] + count):
            schedule.before_step(step)
            found.append([group["lr"] for group in groups])
        return found

    def seeds(self, count: int) -> list[int]:
        """Return the seeds of the next steps' random numbers."""
        first, seed, epoch = self.state["window"], self.training.recipe.seed, self.state["epoch"]
        return [step_seed(seed, epoch, step) for step in range(first, first + count)]

    def executing(self, mode: Mode, batch: Batch) -> Execute:
        """Return what executes steps in a mode; `batch` holds all of them."""
        generator = self.runner.generator
        if mode.name == "eager":
            return one_by_one(self.parts, eager_step(self.parts, mode.fused, mode.channels_last), generator)
        if self.compiled is None or self.compiled.key != mode.key:
            self.compiled = self.job.open(mode.key)
        compiled, prepared = self.compiled, self.job.prepare(batch)
        assert compiled is not None
        return lambda stretch: compiled.take(prepared, stretch.rates, stretch.seeds, generator)[0]


@contextlib.contextmanager
def sparing(spared: int) -> Iterator[None]:
    """Have torch use `spared` threads fewer than it has, for a block."""
    threads = torch.get_num_threads()
    if spared:
        torch.set_num_threads(max(1, threads - spared))
    try:
        yield
    finally:
        if spared:
            torch.set_num_threads(threads)
