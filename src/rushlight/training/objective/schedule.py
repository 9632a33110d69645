"""Sets the learning rate: by a named schedule, a function of the step or the epoch, or by a live scheduler."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CyclicLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR

from rushlight.errors import UsageError, check_choice, suggest
from rushlight.report import Report
from rushlight.texts import Note
from rushlight.training.recipe import SCHEDULES

BY_STEP = (OneCycleLR, CyclicLR)  # those that torch documents as per batch
WARM_UPS = (LinearLR, ConstantLR)  # their factor stays once it is reached


class Schedule:
    """Sets the learning rate before each step; owns the base rates, or a scheduler.

    A named schedule is a pure function of the step's number, or of the epoch's with `by="epoch"`, so resuming needs nothing
    but that number. A scheduler (live, or "plateau") advances after every step or after every epoch: as `by` says, else as
    its class and its arguments tell. Before it advances for the first time, `warmup` steps raise the rates to its first
    ones. ReduceLROnPlateau follows the split that every epoch is evaluated on: its loss with mode "min", its accuracy (R²
    of a regression) with mode "max".
    """

    def __init__(
        self, optimizer: Optimizer, schedule: Any, total_steps: int | None, warmup: int = 0, *,
        epochs: int = 1, by: str = "auto", arguments: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.optimizer = optimizer
        self.name = schedule if isinstance(schedule, str) else type(schedule).__name__
        self.warmup, self.total_steps, self.epochs = warmup, total_steps, epochs
        self.epoch = 1  # in training
        self.notes: tuple[Note, ...] = ()
        if isinstance(schedule, str):
            check_choice("schedule", schedule, SCHEDULES)
            if arguments and schedule != "plateau":
                raise UsageError("schedule-without-arguments", schedule=schedule, argument=next(iter(arguments)))
            self.live: Any = make_plateau(optimizer, arguments or {}) if schedule == "plateau" else None
            if self.live is None and schedule != "constant" and total_steps is None and by != "epoch":
                raise UsageError("schedule-needs-length", schedule=schedule)
        else:
            check_live_scheduler(schedule, optimizer)
            self.live = schedule
        self.base_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.plateau = plateau_in(self.live)  # it chooses, by what an epoch is evaluated on
        self.moves = warmup > 0 or (self.live is None and self.name != "constant")
        self.by = by
        if self.live is None:
            self.by = "step" if by == "auto" else by
        elif (own := own_unit(self.live)) is not None:
            if by not in ("auto", own):
                raise UsageError("schedule-by-its-own", schedule=self.name, own=own, given=by)
            self.by = own
        elif by == "auto":
            reason = made_for_steps(self.live, total_steps, epochs)
            self.by = "epoch" if reason is None else "step"
            self.notes = (Note(f"training.scheduler.by-{self.by}", schedule=self.name, reason=reason),)
        self.by_step = self.live is not None and self.by == "step"

    def before_epoch(self, epoch: int) -> None:
        """Note that the next steps are of epoch `epoch` (from 1)."""
        self.epoch = epoch

    def before_step(self, step: int) -> None:
        """Set the learning rate of step `step` (from 0)."""
        if self.moves and (self.live is None or step < self.warmup):
            factor = self.factor(step)
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor

    def factor(self, step: int) -> float:
        """Return the factor of the base rates at step `step` (from 0)."""
        if self.live is not None:
            return schedule_factor("constant", step, 1, self.warmup)
        if self.by == "step":
            return schedule_factor(self.name, step, self.total_steps or 1, self.warmup)
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return rise * schedule_factor(self.name, self.epoch - 1, self.epochs, 0)

    def after_step(self, done: int) -> None:
        """Advance a scheduler that goes by steps; `done` are the run's steps up to here."""
        if not self.by_step or self.live is None or done <= self.warmup:
            return
        try:
            if hasattr(self.live, "step_update"):  # timm's
                self.live.step_update(done - self.warmup)
            else:
                self.live.step()
        except ValueError as error:  # OneCycleLR beyond its total_steps
            raise UsageError("scheduler-ended", schedule=self.name, reason=error) from error

    def after_epoch(self, report: Report, epoch: int, done: int) -> None:
        """Advance a scheduler that goes by epochs; `report` is of the split that decides, `done` counts the run's steps."""
        if self.live is None or self.by_step or done <= self.warmup:
            return
        figure = () if self.plateau is None else (followed(self.plateau, report),)
        if hasattr(self.live, "step_update"):
            self.live.step(epoch, *figure)
        else:
            self.live.step(*figure)

    def scale(self, factor: float) -> None:
        """Multiply the learning rate by `factor`, from here on."""
        self.base_rates = [rate * factor for rate in self.base_rates]
        for scheduler in () if self.live is None else (self.live, *getattr(self.live, "_schedulers", ())):
            for name in ("base_lrs", "base_values"):  # torch's, timm's
                if hasattr(scheduler, name):
                    setattr(scheduler, name, [rate * factor for rate in getattr(scheduler, name)])
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        live = {} if self.live is None else self.live.state_dict()
        plain = {key: value for key, value in live.items() if not inspect.isfunction(value)}
        wrapped = None if self.plateau in (None, self.live) else self.plateau  # timm's own state leaves most of it out
        inside = {} if wrapped is None else {"plateau": wrapped.state_dict()}
        return {"name": self.name, "base_rates": self.base_rates, "live": plain, **inside}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.base_rates = list(state["base_rates"])
        if self.live is None and not self.moves and state["name"] != self.name:  # not at the other's last rate
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate
        if self.live is not None:
            self.live.load_state_dict(state["live"])
        if self.plateau is not None and "plateau" in state:
            self.plateau.load_state_dict(state["plateau"])


# ── live schedulers ──────────────────────────────────────────────────────────────────────────────────────────


def make_plateau(optimizer: Optimizer, arguments: dict[str, Any]) -> ReduceLROnPlateau:
    """Return a new ReduceLROnPlateau; UsageError where it has no such argument, or refuses its value."""
    accepted = list(inspect.signature(ReduceLROnPlateau).parameters)[1:]
    for argument in arguments:
        if argument not in accepted:
            raise UsageError(
                "unknown-schedule-argument", schedule="plateau", argument=argument, known=", ".join(accepted),
                suggestion=suggest(argument, accepted),
            )  # fmt: skip
    try:
        return ReduceLROnPlateau(optimizer, **arguments)
    except (TypeError, ValueError) as error:
        raise UsageError("schedule-arguments", schedule="plateau", reason=error) from error


def check_live_scheduler(scheduler: Any, optimizer: Optimizer) -> None:
    """Raise UsageError for what is no scheduler, by torch's or timm's methods, or is another optimizer's."""
    methods = ("step", "state_dict", "load_state_dict")
    is_other = isinstance(scheduler, (type, Optimizer))
    if is_other or not all(callable(getattr(scheduler, name, None)) for name in methods):
        raise UsageError(
            "bad-choice", option="schedule", value=scheduler, suggestion="",
            choices=Note("training.or-a-live-scheduler", names=", ".join(SCHEDULES)),
        )  # fmt: skip
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise UsageError("foreign-scheduler", schedule=type(scheduler).__name__)


def plateau_in(scheduler: Any) -> ReduceLROnPlateau | None:
    """Return the ReduceLROnPlateau that a scheduler is, or has inside (timm's PlateauLRScheduler); None for others."""
    inside = getattr(scheduler, "lr_scheduler", None)
    return next((each for each in (scheduler, inside) if isinstance(each, ReduceLROnPlateau)), None)


def followed(plateau: ReduceLROnPlateau, report: Report) -> float:
    """Return the figure that a plateau scheduler follows, by its mode: what decides in the run, where its direction is that, else loss or accuracy."""
    if report.judged_by.startswith(plateau.mode):
        return report.headline[1]
    if plateau.mode == "min":
        return report.loss
    figure = report.r2 if report.accuracy is None else report.accuracy
    if figure is None:
        raise UsageError("plateau-without-figure")
    return figure


def own_unit(scheduler: Any) -> str | None:
    """Return "step" or "epoch" where the scheduler's class, or its own setting, leaves no choice."""
    if isinstance(scheduler, BY_STEP):
        return "step"
    if plateau_in(scheduler) is not None:
        return "epoch"
    if hasattr(scheduler, "step_update"):  # timm's: `t_in_epochs` is its own setting
        return "epoch" if getattr(scheduler, "t_in_epochs", True) else "step"
    return None


def made_for_steps(scheduler: Any, total_steps: int | None, epochs: int) -> Note | None:
    """Return why a scheduler of torch counts steps; None where nothing tells so, since most count epochs.

    A length tells by the number of steps (give or take an incomplete batch an epoch); that of a warm-up by being more than
    the epochs; a function by the names and the values that it works with, or by giving 0 at its beginning.
    """
    if total_steps is not None and total_steps > epochs:
        for name, length, is_warm_up in lengths_of(scheduler):
            near = abs(length - total_steps) <= epochs
            of_an_epoch = name == "T_0" and length == total_steps // epochs
            if length > epochs and (near or of_an_epoch or (is_warm_up and length <= total_steps)):
                return Note("training.scheduler.length", name=name, length=length)
    for function in getattr(scheduler, "lr_lambdas", ()):
        reason = counts_steps(function, total_steps, epochs)
        if reason is not None:
            return reason
    inner = getattr(scheduler, "_schedulers", ())
    return next((reason for each in inner if (reason := made_for_steps(each, None, epochs)) is not None), None)


def lengths_of(scheduler: Any, start: int = 0) -> Iterator[tuple[str, int, bool]]:
    """Give the lengths that a scheduler has: argument, the count that it ends at, and whether it is a warm-up's."""
    inner = getattr(scheduler, "_schedulers", ())
    starts = [0, *scheduler._milestones] if isinstance(scheduler, SequentialLR) else [0] * len(inner)
    for each, begins in zip(inner, starts, strict=False):
        yield from lengths_of(each, start + begins)
    for name in ("T_max", "total_iters", "T_0"):
        length = getattr(scheduler, name, None)
        if isinstance(length, (int, float)):
            yield name, start + int(length), isinstance(scheduler, WARM_UPS)


def counts_steps(function: Callable[[int], float], total_steps: int | None, epochs: int) -> Note | None:
    """Return why the function of a LambdaLR counts steps; None where it counts epochs, or nothing tells."""
    plain: Any = function
    known: dict[str, Any] = {}
    while isinstance(plain, functools.partial):  # transformers'
        known |= plain.keywords
        plain = plain.func
    if not inspect.isfunction(plain):
        return None
    seen = inspect.getclosurevars(plain)
    known |= {**seen.globals, **seen.nonlocals}
    counted = plain.__code__.co_varnames[:1]
    for names in (counted, known):
        steps = [name for name in names if "step" in name.lower() or "iter" in name.lower()]
        if steps:
            return Note("training.scheduler.name", name=steps[0])
        if any("epoch" in name.lower() for name in names):
            return None
    if total_steps is not None and total_steps > epochs:
        same = [name for name, value in known.items() if type(value) in (int, float) and value == total_steps]
        if same:
            return Note("training.scheduler.length", name=same[0], length=total_steps)
    try:
        begins_at_0 = float(function(0)) == 0
    except Exception:  # the user's function: the scheduler itself will show its error
        return None
    return Note("training.scheduler.begins-at-0") if begins_at_0 else None


# ── named schedules ──────────────────────────────────────────────────────────────────────────────────────────


def schedule_factor(name: str, step: int, total: int, warmup: int) -> float:
    """Return the factor of the learning rate of step `step` (from 0) of `total`.

    warm-up:   `(step + 1) / warmup` for the first `warmup` steps, then the schedule over the steps that remain
    constant:  1
    cosine:    (1 + cos(π t)) / 2, for t from 0 to 1 (Loshchilov & Hutter, arXiv:1608.03983, without restarts)
    onecycle:  up from 1/25 to 1 over the first 30 %, down to 1e-4 / 25 over the rest, both along a cosine (Smith &
               Topin, arXiv:1708.07120): the learning rates of torch's OneCycleLR; momentum is left alone

    range:     up from 1e-6 to 1, exponentially: a range test (Smith, arXiv:1506.01186)

    Beyond `total`, where a loader gives more batches than its length promised, the last factor stays.
    """
    if step < warmup:
        return (step + 1) / warmup
    step = min(step, max(total - 1, warmup))
    t = (step - warmup) / max(total - warmup, 1)
    if name == "cosine":
        return (1 + math.cos(math.pi * t)) / 2
    if name == "range":
        return math.pow(1e-6, 1 - (step - warmup) / max(total - warmup - 1, 1))
    if name == "onecycle":
        return one_cycle(step - warmup, max(total - warmup, 1))
    return 1.0


def one_cycle(step: int, total: int) -> float:
    """Return the one-cycle factor of step `step` (from 0) of `total`, as OneCycleLR counts."""
    low, high, end = 1 / 25, 1.0, 1e-4 / 25
    peak, last = 0.3 * total - 1, total - 1
    rises = step <= peak
    start, stop, share = (low, high, step / peak) if rises else (high, end, (step - peak) / (last - peak))
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2
