"""Where a training process is, told to whoever is about to kill it.

The process that is to be killed is watched from inside: what it comes past (a step, a pass backward, a batch read or tested,
an operation on the disk) is a point. At the moment that was chosen it says so through a pipe, and waits there or goes on
until it is killed. Nothing here changes what is computed or written.
"""

from __future__ import annotations

import functools
import inspect
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.data.feed import reading
from rushlight.training import evaluation as evaluate
from rushlight.training.checkpoint import saver
from rushlight.training.objective import schedule
from rushlight.training.record import ledger
from rushlight.training.step import exact as step
from rushlight.training.step import shared

HELD_SECONDS = 60.0  # far longer than whoever kills needs
ANY = "any point"
START = "start"  # the process has begun; nothing is opened yet
STEP = "step"  # before and after each, and once its loss is noted
BACKWARD = "backward"  # before and after each pass backward, of which a step has one for each micro-batch
TEST = "test"  # after each batch that is tested
READ = "read"  # before and after each sample of streamed data
CHECKPOINT = "checkpoint"  # before and after each operation on the disk for a checkpoint
PUBLISHED = "published"  # after the rename that makes one
ENDING = "ending"  # the same for the bundle, the report and the plots
DISK = "disk"  # the same for all else: recipe, history, losses, sessions, lock
END_FILES = ("model", "report.json", "predictions.npz", "loss.png", "confusion.png")


@dataclass(frozen=True)
class Moment:
    """When to kill: at the `count`-th time a point is passed once `step` steps are done, and `delay` seconds later.

    A process that is `held` waits there (the thread that came past it does); else it goes on in the meantime.
    """

    point: str
    step: int = 0
    count: int = 1
    held: bool = True
    delay: float = 0.0  # seconds


class Watch:
    """Counts what this process comes past, and tells the pipe when its moment has come."""

    def __init__(self, moment: Moment | None, pipe: int) -> None:
        self.moment, self.pipe, self.process = moment, pipe, os.getpid()
        self.counts: Counter[str] = Counter()
        self.passed = 0  # of the moment's point, since its step
        self.steps = multiprocessing.RawValue("q", 0)  # shared with workers, which outlive an epoch

    @property
    def step(self) -> int:
        """Optimizer steps done by the process that trains."""
        return int(self.steps.value)

    @step.setter
    def step(self, step: int) -> None:
        self.steps.value = step

    def reach(self, point: str, detail: str = "") -> None:
        """Note that the process is at this point. Takes no lock: workers are forked while threads come by here."""
        self.counts[point] += 1
        moment = self.moment
        if moment is None or moment.point not in (point, ANY) or self.step < moment.step:
            return
        self.passed += 1
        if self.passed == moment.count:
            self.tell({"point": point, "step": self.step, "detail": detail})
            if (
                moment.held and os.getpid() == self.process
            ):  # a worker that waited would outlive the process it works for
                time.sleep(HELD_SECONDS)

    def tell(self, message: dict[str, Any]) -> None:
        """Write a line to the pipe."""
        os.write(self.pipe, json.dumps(message).encode() + b"\n")


# ── what is watched ──────────────────────────────────────────────────────────────────────────────────────────


def install(watch: Watch, run: Path) -> None:
    """Watch this process, which trains the run in the folder `run`."""
    files.disk = watched_disk(watch, run.resolve())
    count_steps(watch)
    around(watch, STEP, ledger.Ledger, "add")
    around(watch, TEST, evaluate, "judge")
    around(watch, READ, reading, "read_sample")
    around(watch, BACKWARD, step, "backward")
    around(watch, BACKWARD, shared, "backward")


def around(watch: Watch, point: str, owner: Any, name: str) -> None:
    """Come past a point before and after each call of a function."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def passing(*arguments: Any, **options: Any) -> Any:
        watch.reach(point, "before")
        result = function(*arguments, **options)
        watch.reach(point, "after")
        return result

    setattr(owner, name, passing)


def count_steps(watch: Watch) -> None:
    """Know how many optimizer steps are done: the schedule is asked before each."""
    before, after = schedule.Schedule.before_step, schedule.Schedule.after_step

    def before_step(self: schedule.Schedule, step: int) -> None:
        watch.step = step
        watch.reach(STEP, "before")
        before(self, step)

    def after_step(self: schedule.Schedule, done: int) -> None:
        after(self, done)
        watch.step += 1
        watch.reach(STEP, "after")

    schedule.Schedule.before_step, schedule.Schedule.after_step = before_step, after_step  # type: ignore[method-assign]


def watched_disk(watch: Watch, run: Path) -> files.Disk:
    """Return a disk like `files.disk` that comes past a point before and after each operation."""
    disk = files.Disk()
    for name, operation in inspect.getmembers(files.disk, inspect.ismethod):
        if not name.startswith("_"):
            setattr(disk, name, watched(watch, run, name, operation))
    return disk


def watched(watch: Watch, run: Path, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operation with a point before and after it."""

    def passing(*arguments: Any) -> Any:
        paths = [
            inside(run, argument) for argument in arguments if isinstance(argument, Path) or hasattr(argument, "fileno")
        ]
        point, detail = kind_of(paths[0]), f"{name} {' -> '.join(paths)}"
        watch.reach(point, f"before {detail}")
        result = operation(*arguments)
        watch.reach(point, f"after {detail}")
        if name == "rename" and point == CHECKPOINT and is_published(paths[-1]):
            watch.reach(PUBLISHED, paths[-1])
        return result

    return passing


def inside(run: Path, argument: Any) -> str:
    """Return where a path or an open file is, as seen from the run's folder."""
    path = Path(str(argument if isinstance(argument, Path) else argument.name)).resolve()
    return path.relative_to(run).as_posix() if path.is_relative_to(run) else path.name


def kind_of(path: str) -> str:
    """Return the point that an operation on this path belongs to."""
    first = path.partition("/")[0]
    if first == "checkpoints":
        return CHECKPOINT
    return ENDING if first.startswith(END_FILES) else DISK


def is_published(path: str) -> bool:
    """Tell whether a rename to this path makes a checkpoint: one level down, and not temporary."""
    return path.count("/") == 1 and not path.endswith(files.TEMPORARY)


# ── how often checkpoints are written ────────────────────────────────────────────────────────────────────────


def set_interval(seconds: float, share: float) -> None:
    """Have checkpoints inside an epoch at least `seconds` apart, and let them take `share` of the time."""
    saver.CHECKPOINT_SECONDS, saver.CHECKPOINT_SHARE = seconds, share
