"""Cross-validation: a run for each fold of the data, and the mean over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from rushlight.api import train
from rushlight.errors import UsageError
from rushlight.options import OPTIONS
from rushlight.report import fold_interval
from rushlight.run import Run
from rushlight.runs import slug
from rushlight.texts import Note, shown

MINE = ("test_data", "test_fraction", "resume")  # what folds decide themselves


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """The runs of a cross-validation, and what their tests found: `values` has the `metric` of each fold, in order."""

    name: str
    runs: tuple[Run, ...]
    metric: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the folds."""
        return sum(self.values) / len(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean, as `fold_interval` has it."""
        return fold_interval(self.values)

    def to_json(self) -> dict[str, Any]:
        """Return the figures, JSON-ready."""
        figures = {
            "metric": self.metric,
            "values": list(self.values),
            "mean": self.mean,
            "interval": list(self.interval),
        }
        return {"name": self.name, "runs": [run.name for run in self.runs], **figures}

    def __str__(self) -> str:
        low, high = self.interval
        each = ", ".join(f"{value:.4g}" for value in self.values)
        figures = {
            "name": self.metric,
            "mean": self.mean,
            "low": low,
            "high": high,
            "count": len(self.values),
            "each": each,
        }
        return shown(Note("training.folds", **figures))


def cross_validate(
    model: str | Callable[[], nn.Module], data: Any = "fashion-mnist", folds: int = 5, **options: Any
) -> CrossValidation:
    """Train a model anew for each of `folds` folds, on all other samples, and test it on the fold; return the runs and the mean.

    `model` is a name, as `train` takes, or a function that returns a new model. A class's samples, in an order drawn by `seed`,
    are dealt to the folds one by one, so that each fold has as many of it, to within one. The options are those of `train`.
    The runs are called NAME-fold-1, NAME-fold-2, …, with `name`, or one made of model and data. Called again, it goes on:
    finished folds are not trained again.

    Raises:
        UsageError: an option that the folds decide, or that belongs to one model (a live optimizer); data with a test split of its
            own that cannot be put aside, or that is not in memory.
    """
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise UsageError("too-few-folds", found=folds)
    for option in MINE:
        if options.pop(option, None) not in (None, OPTIONS[option].default):
            raise UsageError("not-beside-folds", option=option)
    if isinstance(model, nn.Module):
        raise UsageError("folds-need-function", found=type(model).__name__)
    for option in ("optimizer", "schedule"):
        if isinstance(options.get(option), (Optimizer, torch.optim.lr_scheduler.LRScheduler)):
            raise UsageError("not-beside-folds", option=option)
    called = model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
    words = (called, data if isinstance(data, str) else getattr(data, "name", type(data).__name__), f"{folds}-folds")
    name = options.pop("name", None) or "-".join(filter(None, map(slug, map(str, words))))
    runs = []
    for number in range(1, folds + 1):
        made = model if isinstance(model, str) else seeded_model(model, options.get("seed", 0), {})
        fold: Any = (number, folds)
        runs.append(train(made, data, test_fraction=fold, name=f"{name}-fold-{number}", resume=True, **options))
    found = [run.report.headline for run in runs if run.report is not None]
    if len(found) < folds:
        raise UsageError("nothing-to-test", run=name)
    return CrossValidation(name, tuple(runs), found[0][0], tuple(value for _, value in found))


def seeded_model(model: Callable[..., nn.Module], seed: int, arguments: dict[str, Any]) -> nn.Module:
    """Return a new model, whose initial weights are by `seed`, also in a process that goes on."""
    with torch.random.fork_rng(devices=[]):  # a card's generator is seeded for every step
        torch.manual_seed(seed)
        return model(**arguments)
