"""The contenders, one file each: the same network, data, batch size, optimizer and epochs, as its own users would write it.

Every file has `train(work, epochs, laps)`, which trains from `work.workload.model()` and calls `laps.done(loss, accuracy)` with the
test loss and the test accuracy after each epoch. Progress bars, loggers and checkpoints of the others are turned off,
Rushlight's history, checkpoints, report and bundle are not. None of them uses worker processes to read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from importlib.util import find_spec


@dataclass(frozen=True)
class Contender:
    """One way to train: the module that has it, what it is called, and the package it needs."""

    label: str
    module: str
    package: str | None = None  # as it is called by pip
    imported: str | None = None  # as it is called in Python
    arguments: dict[str, str] = field(default_factory=dict)
    is_ours: bool = False
    compiles: bool = False  # on the way, so that only a longer training shows its last speed

    @property
    def is_installed(self) -> bool:
        """Whether what it needs is here."""
        return self.imported is None or find_spec(self.imported) is not None


CONTENDERS = {
    "plain": Contender("plain DataLoader loop", "plain"),
    "by-hand": Contender("by hand, in memory", "by_hand"),
    "floor": Contender("floor: products alone", "floor"),
    "exact": Contender("Rushlight, exact", "ours", arguments={"numerics": "exact"}, is_ours=True),
    "fast": Contender("Rushlight, fast", "ours", arguments={"numerics": "fast"}, is_ours=True, compiles=True),
    "bfloat16": Contender(
        "Rushlight, bfloat16",
        "ours",
        arguments={"numerics": "fast", "precision": "bfloat16"},
        is_ours=True,
        compiles=True,
    ),
    "lightning": Contender("Lightning", "with_lightning", "lightning", "lightning"),
    "keras": Contender("Keras (torch)", "with_keras", "keras", "keras"),
    "skorch": Contender("skorch", "with_skorch", "skorch", "skorch"),
    "fastai": Contender("fastai", "with_fastai", "fastai", "fastai"),
    "accelerate": Contender("Accelerate", "with_accelerate", "accelerate", "accelerate"),
    "ignite": Contender("Ignite", "with_ignite", "pytorch-ignite", "ignite"),
}


class Laps:
    """Notes when each epoch was trained and tested, and what the test found."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float | None]] = []
        self.since = time.perf_counter()

    def begin(self) -> None:
        """Start the clock anew: what was done until now is no part of the first epoch."""
        self.since = time.perf_counter()

    def done(self, loss: float | None, accuracy: float | None) -> None:
        """Note the end of an epoch and of its test."""
        now = time.perf_counter()
        self.epochs.append({"seconds": now - self.since, "loss": loss, "accuracy": accuracy})
        self.since = time.perf_counter()
