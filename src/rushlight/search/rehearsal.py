"""Small searches before a training: the learning rate by a range test, the batch size by speed and memory.

Both train a copy of the model in a folder that is deleted, and put everything that training changes back as it was.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rushlight.api import epochs, open_data
from rushlight.data import Held, ResidentSplit, generator_states, put_back
from rushlight.device import available_memory
from rushlight.errors import TrainingError, UsageError
from rushlight.events import Event
from rushlight.options import TAKES, plain_options, tunes
from rushlight.runs import read_losses

LOWEST = 1e-6  # of the highest rate: where the schedule "range" begins
SMOOTHING = 0.9  # of the losses' moving average
BLOWN_UP = 4.0  # times the lowest loss: rates from there on are left out
BELOW_LOWEST = 10.0  # the rate that is named lies this many times below that of the lowest loss
WARM_UP_STEPS, TIMED_STEPS = 8, 24
LARGEST_BATCH = 1 << 16
FITS = 0.8  # share of the free memory that a batch may be expected to take


@dataclass(frozen=True)
class RateTest:
    """What a range test found: `lr` is the rate that it names, a tenth of the one at which the smoothed loss was lowest.

    `rates` and `losses` (smoothed) are those of the steps up to where training blew up.
    """

    lr: float
    lowest: float
    rates: list[float]
    losses: list[float]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class SizeTest:
    """What was measured of batch sizes: `sizes` with the samples per second of each.

    `largest` is the largest that fitted into memory, or that was tried; `fastest` trains the most samples a second.
    """

    sizes: dict[int, float]
    largest: int
    fastest: int

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON-ready values."""
        return asdict(self)


@tunes
def find_lr(
    model: Any, data: Any = "fashion-mnist", *, highest: float = 10.0, steps: int = 150, **options: Any
) -> RateTest:
    """Return a learning rate by a range test: `steps` steps whose rate rises exponentially up to `highest`.

    The loss falls, is lowest, and blows up; the rate named is a tenth of that at the lowest smoothed loss (Smith,
    arXiv:1506.01186). Nothing is trained by it: weights, random generators and data are put back bit for bit.

    Raises:
        TrainingError: training blows up at the lowest rates already.
    """
    given = {
        "numerics": "exact",
        **plain_options(options, "tune"),
        "lr": highest,
        **{"schedule": "range", "schedule_by": "step", "warmup": 0, "max_steps": steps},
    }
    with rehearsed(model, data, given) as (folder, _):
        losses = np.asarray(read_losses(folder), np.float64)
    rates = highest * LOWEST ** (1 - np.arange(len(losses)) / (steps - 1))
    values = moving_average(losses)
    finite = np.isfinite(values)
    if finite.sum() < 2:
        raise TrainingError("range-test-failed", lowest=highest * LOWEST)
    ends = np.flatnonzero(~finite | (values > BLOWN_UP * np.minimum.accumulate(np.where(finite, values, np.inf))))
    length = max(2, int(ends[0]) if len(ends) else len(values))
    lowest = float(rates[int(np.argmin(values[:length]))])
    return RateTest(lowest / BELOW_LOWEST, lowest, rates[:length].tolist(), values[:length].tolist())


def moving_average(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the moving average of losses, each weighing `SMOOTHING` times as much a step later; without bias at the start."""
    mean, found = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * float(loss)
        found.append(mean / (1 - SMOOTHING**step))
    return np.asarray(found, np.float64)


@tunes
def find_batch_size(model: Any, data: Any = "fashion-mnist", **options: Any) -> SizeTest:
    """Return which batch size trains the most samples a second, and which is the largest that fits; powers of two from 16.

    Each is timed over some exact steps. Sizes end with all training samples, with 65,536, where memory ran out, or where the
    next one would take more than 80 % of the memory that is free. Nothing is trained by it, as by `find_lr`.
    """
    given = {"numerics": "exact", "compile": "never", **plain_options(options, "tune")}
    if given.pop("batch_size", None) is not None:
        raise UsageError("batch-size-given")
    opened = open_data(data, **{name: given[name] for name in TAKES["open_data"] if name in given})
    count = len(opened.train.inputs) if isinstance(opened.train, ResidentSplit) else LARGEST_BATCH
    sizes: dict[int, float] = {}
    size, before = 16, peak_memory()
    while size <= min(count, LARGEST_BATCH):
        seen: dict[str, Any] = {}

        def follow(event: Event, seen: dict[str, Any] = seen) -> None:
            if event.kind == "profile" or (event.kind == "event" and event.data["event"] == "micro-batch"):
                seen.update({event.kind: event.data})

        steps = {"batch_size": size, "max_steps": WARM_UP_STEPS + TIMED_STEPS, "profile": True, "on_event": follow}
        with rehearsed(model, data, {**given, **steps}) as (_, failed):
            if failed is not None or "event" in seen or "profile" not in seen:
                break
        sizes[size] = size / seen["profile"]["median_seconds"]
        taken, uses_card = peak_memory() - before, torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        if 2 * taken > FITS * (torch.cuda.mem_get_info()[0] if uses_card else available_memory()):
            break
        size *= 2
    if not sizes:
        raise TrainingError("no-batch-fits", size=size)
    return SizeTest(sizes, max(sizes), max(sizes, key=lambda each: sizes[each]))


@contextlib.contextmanager
def rehearsed(model: Any, data: Any, options: dict[str, Any]) -> Iterator[tuple[Path, TrainingError | None]]:
    """Train a copy of a model in a folder that the block may read; yield it, and why training failed, None where it did not.

    At the end the folder is deleted, and the random generators and the data are as they were.
    """
    before = generator_states()
    cards = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    held = Held({"data": data})
    failed = None
    try:
        with tempfile.TemporaryDirectory() as runs:
            built = copy.deepcopy(model) if isinstance(model, nn.Module) else model
            training = epochs(built, data, **{**options, "runs": runs, "quiet": True, "final_test": False})
            try:
                training.drain()
            except TrainingError as error:
                failed = error
            yield training.run.folder, failed
    finally:
        held.restore({})
        put_back(before)
        if cards:
            torch.cuda.set_rng_state_all(cards)


def peak_memory() -> int:
    """Return the most bytes that this process has held so far: on its card, where torch uses one, else in main memory."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return 0  # Windows does not tell without another library: sizes end where memory runs out
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
