"""Sets the learning rate by the step's number, or leaves it to a live scheduler."""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from rushlight.errors import UsageError, check_choice
from rushlight.report import Report
from rushlight.texts import Note
from rushlight.training.recipe import SCHEDULES

BY_STEP = (OneCycleLR, CyclicLR)  # those that torch documents as per batch


class Schedule:
    """Sets the learning rate before each step; owns the base rates, or a live scheduler.

    A named schedule is a pure function of the step's number, so resuming needs nothing but that number. A live
    scheduler advances after every step if it is one that torch documents so (OneCycleLR, CyclicLR), else after
    every epoch. ReduceLROnPlateau follows the split that every epoch is evaluated on: its loss with mode "min", its
    accuracy (R² of a regression) with mode "max".
    """

    def __init__(
        self, optimizer: Optimizer, schedule: str | LRScheduler, total_steps: int | None, warmup: int = 0
    ) -> None:
        self.optimizer = optimizer
        self.live = None if isinstance(schedule, str) else schedule
        self.name = schedule if isinstance(schedule, str) else type(schedule).__name__
        self.warmup = warmup
        self.total_steps = total_steps
        self.base_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.by_step = isinstance(schedule, BY_STEP)
        self.is_plateau = isinstance(schedule, ReduceLROnPlateau)  # it chooses, by what an epoch is evaluated on
        self.moves = self.live is None and (self.name != "constant" or warmup > 0)
        if self.live is None:
            check_choice("schedule", self.name, SCHEDULES)
            if self.name != "constant" and total_steps is None:
                raise UsageError("schedule-needs-length", schedule=self.name)
        if self.live is not None and not isinstance(self.live, LRScheduler):
            raise UsageError(
                "bad-choice", option="schedule", value=schedule, suggestion="",
                choices=Note("training.or-a-live-scheduler", names=", ".join(SCHEDULES)),
            )  # fmt: skip
        if self.live is not None and self.live.optimizer is not optimizer:
            raise UsageError("foreign-scheduler", schedule=self.name)

    def before_step(self, step: int) -> None:
        """Set the learning rate of step `step` (from 0)."""
        if self.moves:
            factor = schedule_factor(self.name, step, self.total_steps or 1, self.warmup)
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor

    def after_step(self) -> None:
        """Advance a live scheduler that goes by steps."""
        if self.by_step and self.live is not None:
            try:
                self.live.step()
            except ValueError as error:  # OneCycleLR beyond its total_steps
                raise UsageError("scheduler-ended", schedule=self.name, reason=error) from error

    def after_epoch(self, report: Report) -> None:
        """Advance a live scheduler that goes by epochs; `report` is of the split that decides."""
        if self.live is None or self.by_step:
            return
        if not isinstance(self.live, ReduceLROnPlateau):
            self.live.step()
        elif self.live.mode == "min":
            self.live.step(report.loss)
        else:
            figure = report.r2 if report.accuracy is None else report.accuracy
            if figure is None:
                raise UsageError("plateau-without-figure")
            self.live.step(figure)

    def scale(self, factor: float) -> None:
        """Multiply the learning rate by `factor`, from here on."""
        self.base_rates = [rate * factor for rate in self.base_rates]
        if self.live is not None and hasattr(self.live, "base_lrs"):
            self.live.base_lrs = [rate * factor for rate in self.live.base_lrs]
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        live = {} if self.live is None else self.live.state_dict()
        plain = {key: value for key, value in live.items() if not inspect.isfunction(value)}
        return {"name": self.name, "base_rates": self.base_rates, "live": plain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.base_rates = list(state["base_rates"])
        if self.live is None and not self.moves and state["name"] != self.name:  # not at the other's last rate
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate
        if self.live is not None:
            self.live.load_state_dict(state["live"])


def schedule_factor(name: str, step: int, total: int, warmup: int) -> float:
    """Return the factor of the learning rate of step `step` (from 0) of `total`.

    warm-up:   `(step + 1) / warmup` for the first `warmup` steps, then the schedule over the steps that remain
    constant:  1
    cosine:    (1 + cos(π t)) / 2, for t from 0 to 1 (Loshchilov & Hutter, arXiv:1608.03983, without restarts)
    onecycle:  up from 1/25 to 1 over the first 30 %, down to 1e-4 / 25 over the rest, both along a cosine (Smith &
               Topin, arXiv:1708.07120): the learning rates of torch's OneCycleLR; momentum is left alone
    """
    if step < warmup:
        return (step + 1) / warmup
    t = (step - warmup) / max(total - warmup, 1)
    if name == "cosine":
        return (1 + math.cos(math.pi * t)) / 2
    if name == "onecycle":
        return one_cycle(step - warmup, total - warmup)
    return 1.0


def one_cycle(step: int, total: int) -> float:
    """Return the one-cycle factor of step `step` (from 0) of `total`, as OneCycleLR counts."""
    low, high, end = 1 / 25, 1.0, 1e-4 / 25
    peak, last = 0.3 * total - 1, total - 1
    rises = step <= peak
    start, stop, share = (low, high, step / peak) if rises else (high, end, (step - peak) / (last - peak))
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2
