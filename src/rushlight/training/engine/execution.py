"""Executes steps in the mode in force: exactly, by faster eager kernels, or as machine code."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from rushlight.data import Batch, step_seed
from rushlight.training.engine.compile_job import CompileJob
from rushlight.training.engine.exact import whole_steps_left
from rushlight.training.engine.modes import EXACT, Mode
from rushlight.training.engine.obstacles import find_hooks
from rushlight.training.engine.package import JoinedSteps, with_channels_last
from rushlight.training.engine.protocol import Plan
from rushlight.training.engine.updates import Rates
from rushlight.training.engine.verification import Execute, Stretch, one_by_one
from rushlight.training.interrupt import Interrupt
from rushlight.training.step import Executed, Parts, Row, Step, StepFailed, StepRunner, cut, exact_step

VERIFY_AGAIN = 1000  # steps after which an adopted mode is verified again; then twice as many, …


class Execution:
    """Executes steps in the mode that is in force."""

    def __init__(self, runner: StepRunner, job: CompileJob) -> None:
        self.runner, self.job = runner, job
        self.training, self.parts, self.state = runner.training, runner.parts, runner.state
        self.exact = exact_step(runner.parts)
        self.mode = self.base = EXACT  # in force; for steps that machine code cannot execute
        self.step: Step = self.exact  # of `base`
        self.joined: JoinedSteps | None = None
        self.row = Row()

    def enter(self, mode: Mode) -> str | None:
        """Begin to execute steps in a mode; return why its machine code cannot be executed, if so."""
        if mode.is_joined and (self.joined is None or self.joined.key != mode.key):
            opened = find_hooks(self.training) or self.job.open_recorded(mode)
            if isinstance(opened, str):
                return opened
            self.joined = opened
        self.mode = mode
        self.base = replace(mode, name="eager" if mode.fused or mode.channels_last else "exact")
        is_eager = self.base.name == "eager"
        self.step = eager_step(self.parts, mode.fused, mode.channels_last) if is_eager else self.exact
        self.row = Row()
        return None

    @property
    def is_current(self) -> bool:
        """Whether the optimizer has the settings that the joined steps in force have built in."""
        return not self.mode.is_joined or self.joined is None or self.joined.is_current

    def fits(self, following: int | None) -> bool:
        """Tell whether the next steps can be executed in one call."""
        count, state = self.mode.count, self.state
        return (
            self.mode.is_joined
            and state["micro_batch"] is None
            and state["window"] % count == 0
            and count <= whole_steps_left(self.training)
            and (following is None or state["step"] + count <= following)
        )

    def steps_to_verification(self, step: int) -> float:
        """Return the steps left until the mode in force is verified again; infinite for exact."""
        if self.mode.name == "exact":
            return math.inf
        done = step - self.mode.since
        doublings = (max(done - 1, 0) // VERIFY_AGAIN).bit_length()
        return (VERIFY_AGAIN << doublings) - done

    def run(self, plan: Plan, batches: list[Batch], interrupt: Interrupt, ahead: int) -> Executed:
        """Execute steps, and measure how many calls are short enough to be made in a row."""
        began, joined = time.perf_counter(), self.joined
        calls: list[Batch] = []
        if plan.per_call == self.mode.count and self.fits(None):
            calls = [self.job.prepare(batch) for [batch] in cut(batches, plan.count // plan.per_call)]
        if joined is not None and calls and joined.takes(calls[0]):
            executed = self.run_joined(joined, calls, interrupt)
        else:
            executed = self.runner.run(self.step, cut(batches, plan.count), lambda: interrupt.requested)
        made = max(1, len(executed[0]) // plan.per_call)
        self.row.measure(made, time.perf_counter() - began, ahead // plan.per_call)
        return executed

    def run_joined(self, joined: JoinedSteps, calls: list[Batch], interrupt: Interrupt) -> Executed:
        """Execute the steps of each batch in one call, until a signal comes."""
        state, count = self.state, self.mode.count
        losses: list[float | Tensor] = []
        rates: list[float | Tensor] = []
        for batch in calls:
            outputs = losses_of_call = None  # let go, as in `StepRunner.run`
            rates_of_call = self.rates(count)
            seeds = self.seeds(count) if joined.draws else ()
            try:
                losses_of_call, outputs = joined.take(batch, rates_of_call, seeds)
            except RuntimeError as error:
                raise StepFailed(error, batch) from error
            each = losses_of_call.reshape(-1)
            losses += each.tolist() if self.runner.is_on_processor else each.unbind()
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
        """Return a function that executes steps in a mode; `batch` holds all of them."""
        if mode.name == "eager":
            step = eager_step(self.parts, mode.fused, mode.channels_last)
            return one_by_one(self.parts, step, self.runner.generator)
        if self.joined is None or self.joined.key != mode.key:
            self.joined = self.job.open(mode)
        joined, prepared = self.joined, self.job.prepare(batch)
        assert joined is not None
        return lambda stretch: joined.take(prepared, stretch.rates, stretch.seeds)[0]


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


# ── the eager modes ──────────────────────────────────────────────────────────────────────────────────────────


def eager_step(parts: Parts, fused: bool, channels_last: bool) -> Step:
    """Return the exact step with the optimizer's fused kernel, or with images channels last."""
    execute = exact_step(parts)

    def step(micro_batches: Sequence[Batch]) -> tuple[Tensor, Tensor | None]:
        groups = parts.optimizer.param_groups if fused else []  # others after a state was loaded
        before = [group.get("fused") for group in groups]
        try:
            for group in groups:
                group["fused"] = True
            return execute([with_channels_last(batch) for batch in micro_batches] if channels_last else micro_batches)
        finally:
            for group, setting in zip(groups, before, strict=False):
                group["fused"] = setting

    return step


def has_fused_update(optimizer: Optimizer) -> bool:
    """Tell whether torch has a kernel that updates all parameters of this optimizer at once."""
    return all(
        "fused" in group
        and not (group["fused"] or group.get("foreach") or group.get("differentiable"))
        and all(
            parameter.is_floating_point() and not (parameter.grad is not None and parameter.grad.is_sparse)
            for parameter in group["params"]
        )
        for group in optimizer.param_groups
    )
