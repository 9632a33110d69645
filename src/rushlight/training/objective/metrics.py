"""Figures that an evaluation measures besides the loss: by name, objects with `update` and `compute`, or functions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rushlight.data import Batch, TargetSpec
from rushlight.errors import UsageError, suggest
from rushlight.report import Report

Array = NDArray[np.float64]
Counts = tuple[Array, Array, Array]  # of each class: samples predicted right, predicted, true

AVERAGE_PRECISION = "average-precision"
COUNTED: dict[str, Callable[[Array, Array, Array], Counts]] = {  # numerator, denominator, and whether the class counts
    "f1": lambda right, predicted, true: (2 * right, predicted + true, predicted + true),
    "iou": lambda right, predicted, true: (right, predicted + true - right, predicted + true),
    "precision": lambda right, predicted, true: (right, predicted, predicted + true),
    "balanced-accuracy": lambda right, predicted, true: (right, true, true),
}
NAMED = (*COUNTED, AVERAGE_PRECISION)
HIGHER = ("accuracy", "r2", *NAMED)
LOWER = ("loss", "mae", "rmse", "perplexity")
RESAMPLED = 1000  # times, for an interval
MOST_CELLS = 1000  # of a confusion matrix with samples in them: drawing from more takes too long


@dataclass(frozen=True)
class Metrics:
    """The metrics of a run by name, None for one of `NAMED`; `judged_by` is "max:NAME" or "min:NAME", or "" for the default."""

    live: Mapping[str, Any] = field(default_factory=dict)
    judged_by: str = ""

    def begin(self) -> Measuring:
        """Begin an evaluation."""
        for metric in self.live.values():
            if is_gathering(metric):
                metric.reset()
        return Measuring(self)


NO_METRICS = Metrics()


class Measuring:
    """One evaluation by the metrics of a run.

    A function is called once, with the outputs and targets of all samples, on the processor; an object gets batches.
    Classes and labels are whole numbers, quantities in the data's own units; outputs of classes are as the model gives them.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.live = {name: metric for name, metric in metrics.live.items() if metric is not None}
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def measurable(self, outputs: Any, batch: Batch, target: TargetSpec | None) -> tuple[Tensor, ...]:
        """Return a batch's outputs and targets as metrics take them, () where there are none; `target` None: nothing is known."""
        if not self.live:
            return ()
        targets: Any = None
        if isinstance(batch, Mapping):
            targets = batch.get("labels")
        elif isinstance(batch, (tuple, list)) and len(batch) == 2:
            targets = batch[1]
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            lacking = "outputs" if isinstance(targets, Tensor) else "targets"
            raise UsageError("metric-without-outputs", metric=next(iter(self.live)), lacking=lacking)
        if target is not None and target.task == "regression":
            outputs, targets = target.decoded(outputs), target.in_units(targets)
        elif target is not None and target.task != "other" and not target.are_probabilities(targets):
            targets = targets.long()
        return outputs, targets

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch, as `measurable` gave it."""
        for name, metric in self.live.items():
            if is_gathering(metric):
                moved = metric.to(outputs.device) if hasattr(metric, "to") else metric
                guarded(name, moved.update, outputs, targets)
        if not all(map(is_gathering, self.live.values())):
            self.outputs.append(outputs.cpu())
            self.targets.append(targets.cpu())

    def measured(self, report: Report, outcome: Any) -> dict[str, Any]:
        """Return the "numbers" and "intervals" of the report; `outcome` has the truth and the prediction of each sample."""
        numbers, intervals = dict(report.numbers), dict(report.intervals)
        for name, metric in self.metrics.live.items():
            if metric is None:
                numbers[name], interval = named_figure(name, report, outcome)
                intervals |= {} if interval is None else {name: interval}
                continue
            if is_gathering(metric):
                value = guarded(name, metric.compute)
            else:
                gathered = [guarded(name, torch.cat, parts) for parts in (self.outputs, self.targets)]
                value = guarded(name, metric, *gathered)
            values = value if isinstance(value, Mapping) else {name: value}
            numbers |= {key: guarded(name, float, each) for key, each in values.items()}
        return {"numbers": numbers, "intervals": intervals}


def choose_metrics(given: Any, best: str | None) -> Metrics:
    """Return the metrics that were given (a list of names, functions and objects, or a dict of these), and what decides.

    Raises:
        UsageError: one is neither; two have one name; or nothing tells whether a higher `best` is better.
    """
    if isinstance(given, str) or not isinstance(given, (list, tuple, Mapping, type(None))):
        raise UsageError("metrics-no-list", found=type(given).__name__)
    listed = [] if isinstance(given, Mapping) else given or ()
    named = [each if isinstance(each, str) else getattr(each, "__name__", type(each).__name__) for each in listed]
    entries = given.items() if isinstance(given, Mapping) else zip(named, listed, strict=True)
    live: dict[str, Any] = {}
    for name, metric in entries:
        if isinstance(metric, str) and metric not in NAMED:
            raise UsageError("unknown-metric", name=metric, known=", ".join(NAMED), suggestion=suggest(metric, NAMED))
        if isinstance(metric, type) or not (isinstance(metric, str) or callable(metric) or is_gathering(metric)):
            raise UsageError("not-a-metric", name=name, found=type(metric).__name__)
        if name in live:
            raise UsageError("metrics-of-one-name", name=name)
        live[metric if isinstance(metric, str) else name] = None if isinstance(metric, str) else metric
    if best is None:
        return Metrics(live)
    mode, colon, name = best.rpartition(":")
    if name in NAMED and name not in live:
        live[name] = None
    if not colon:
        is_higher = name in HIGHER if name in (*HIGHER, *LOWER) else getattr(live.get(name), "higher_is_better", None)
        mode = "" if is_higher is None else "max" if is_higher else "min"
    if mode not in ("max", "min"):
        raise UsageError("best-without-direction", name=name)
    return Metrics(live, f"{mode}:{name}")


def check_metrics(metrics: Metrics, target: TargetSpec | None) -> None:
    """Raise UsageError for a metric by name that targets like these do not have."""
    for name in (name for name, metric in metrics.live.items() if metric is None):
        task = None if target is None else target.task
        fits = task in ("classification", "binary", "multilabel")
        if name == AVERAGE_PRECISION and target is not None:
            fits = target.layout != "dense" and (task in ("binary", "multilabel") or len(target.classes) == 2)
        if not fits:
            raise UsageError("metric-does-not-fit", metric=name, task=task or "–")


def is_gathering(metric: Any) -> bool:
    """Tell whether a metric gathers batches, as those of torchmetrics do."""
    methods = (inspect.getattr_static(metric, name, None) for name in ("update", "compute", "reset"))
    return not isinstance(metric, type) and None not in [*methods]


def guarded(name: str, compute: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a metric computes; UsageError with its own error where it fails."""
    try:
        return compute(*arguments)
    except Exception as error:
        raise UsageError("metric-failed", metric=name, reason=f"{type(error).__name__}: {error}") from error


# ── metrics by name ──────────────────────────────────────────────────────────────────────────────────────────


def named_figure(name: str, report: Report, outcome: Any) -> tuple[float, tuple[float, float] | None]:
    """Return a figure over the classes that occur or are predicted, each class alike, and its 95 % interval where it has one."""
    if not report.confusion and outcome is None:
        raise UsageError("metric-without-outputs", metric=name, lacking="outputs")
    if name == AVERAGE_PRECISION:
        return average_precision(outcome), None
    if not report.confusion:  # each label by itself
        truth, predicted = outcome.truth.numpy(), outcome.predicted.numpy()
        counts = ((truth & predicted).sum(0), predicted.sum(0), truth.sum(0))
        return float(mean_of_classes(name, *counts)), None
    confusion = np.array(report.confusion, dtype=np.float64)
    value = float(mean_of_classes(name, *counts_in(confusion)))
    cells = confusion.nonzero()
    if report.places is not None or not 0 < len(cells[0]) <= MOST_CELLS:  # places are not independent of each other
        return value, None
    drawn = np.zeros((RESAMPLED, *confusion.shape))
    n = int(confusion.sum())
    drawn[:, cells[0], cells[1]] = np.random.default_rng(0).multinomial(n, confusion[cells] / n, RESAMPLED)
    low, high = np.quantile(mean_of_classes(name, *counts_in(drawn)), (0.025, 0.975))
    return value, (float(low), float(high))


def counts_in(confusion: Array) -> Counts:
    """Return the counts of each class in confusion matrices (…, true class, predicted class)."""
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-2), confusion.sum(-1)


def mean_of_classes(name: str, right: Array, predicted: Array, true: Array) -> Array:
    """Return a figure's mean over the classes; what is undefined in a class that counts is 0."""
    numerator, denominator, weight = COUNTED[name](right, predicted, true)
    counts = weight > 0
    figures = np.where(counts, numerator / np.maximum(denominator, 1), 0).sum(-1)
    return np.where(counts.any(-1), figures / np.maximum(counts.sum(-1), 1), math.nan)


def average_precision(outcome: Any) -> float:
    """Return the area under the steps of precision over recall, by falling probability; of labels their mean.

    Σ (R_i − R_{i−1}) P_i over the different probabilities (as sklearn.metrics.average_precision_score). Of two classes the
    second is the one to find.
    """
    truth, scores = outcome.truth.numpy(), outcome.confidence.numpy()
    if truth.ndim == 1:
        scores = np.where(outcome.predicted.numpy() == 1, scores, 1 - scores)
    truth, scores = truth.reshape(len(truth), -1) > 0, scores.reshape(len(scores), -1)
    found = []
    for true, score in zip(truth.T, scores.T, strict=True):
        if not true.any():
            continue
        order = np.argsort(-score, kind="stable")
        ends = np.append(np.diff(score[order]) != 0, True).nonzero()[0]  # of each different probability
        right = true[order].cumsum()[ends]
        found.append(float((np.diff(right, prepend=0) / true.sum() * right / (ends + 1)).sum()))
    return sum(found) / len(found) if found else math.nan
