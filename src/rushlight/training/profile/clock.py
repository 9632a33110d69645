"""The clock that a watched step is timed with, and how many steps are worth timing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from rushlight.device import wait_for
from rushlight.training.profile.figures import PARTS
from rushlight.training.profile.trace import Trace


@dataclass(frozen=True)
class Phase:
    """How long to do something: for `steps` steps and `seconds` seconds, both.

    It ends sooner after `most_steps`, and after `most_seconds` once there are `least` steps.
    """

    steps: int
    seconds: float
    most_steps: int
    most_seconds: float
    least: int

    def is_over(self, steps: int, seconds: float) -> bool:
        """Tell whether so many steps, which took so long, are enough."""
        is_enough = steps >= self.steps and seconds >= self.seconds
        is_long = steps >= self.least and seconds >= self.most_seconds
        return is_enough or is_long or steps >= self.most_steps


def phases(total: int | None) -> dict[str, Phase]:
    """Return what to do with the first of `total` steps (None: there are enough); a short run gives less to each."""
    steps = 10**9 if total is None else total
    warm_up = min(10, max(1, steps // 4)) if steps > 1 else 0
    traced = min(5, max(1, steps // 4)) if steps > 2 else 0
    most = max(1, (steps - warm_up - traced) * 3 // 4) if steps else 0  # not every step is like the others
    return {
        "warm-up": Phase(warm_up, 0.0, warm_up, 1.0, least=2),
        "measuring": Phase(200, 0.5, most, 3.0, least=3),
        "tracing": Phase(traced, 0.0, traced, 1.0, least=2),
    }


class Stopwatch:
    """Owns the clock of the step that is being taken.

    A part lasts from the moment it is switched to until the next one is, so that the parts add up to the step.
    """

    def __init__(self, device: torch.device, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.device, self.clock, self.waits = device, clock, device.type != "cpu"
        self.part: str | None = None  # the one being done; None: no step is timed
        self.began = 0  # when it began, in nanoseconds
        self.laps = dict.fromkeys(PARTS, 0)  # nanoseconds
        self.working = 0  # nanoseconds of the step in which this thread was on a processor
        self.working_before = 0
        self.trace: Trace | None = None  # where a range is wanted for every part

    @property
    def is_on(self) -> bool:
        """Whether a step is being timed."""
        return self.part is not None

    def begin(self, part: str) -> None:
        """Begin a step with one of its parts."""
        self.laps = dict.fromkeys(PARTS, 0)
        self.working_before = time.thread_time_ns()
        self.enter(part, self.clock())

    def switch(self, part: str) -> None:
        """End the part that was being done, and begin another; nothing while no step is timed."""
        before = self.part
        if before is None:
            return
        if self.waits:
            wait_for(self.device)
        now = self.clock()
        self.laps[before] += now - self.began
        self.part, self.began = part, now
        if self.trace is not None:
            self.trace.enter(part)

    def enter(self, part: str | None, now: int) -> None:
        """Be in another part from `now` on; None: in no step at all."""
        self.part, self.began = part, now
        if self.trace is not None:
            self.trace.enter(part)

    def end(self) -> dict[str, int]:
        """End the step; return the nanoseconds of its parts."""
        self.switch("rest")
        self.working = time.thread_time_ns() - self.working_before
        self.drop()
        return self.laps

    def drop(self) -> None:
        """Forget the step that was begun."""
        self.enter(None, 0)
