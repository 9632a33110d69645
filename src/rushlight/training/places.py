"""Figures of targets that each place of a sample has: pixels, tokens. Counted batch by batch: nothing is kept of a place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rushlight.data import TargetSpec
from rushlight.report import ClassFigures, Report, class_figures

MOST_CLASSES = 1000  # of which each has figures of its own; a vocabulary has none


class Places:
    """Counts places of classes: how often each class was taken for which, on the device."""

    def __init__(self, target: TargetSpec) -> None:
        self.target, self.size = target, len(target.classes)
        self.confusion: Tensor | None = None
        self.right: list[Tensor] = []
        self.counted: list[Tensor] = []
        self.dimensions: Tensor | int = 0  # of a sample's places

    @property
    def count(self) -> int:
        """How many places were counted."""
        return int(sum(map(int, self.counted)))

    def counts(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Return what a batch counts: [right ones, all, dimensions of a sample's places], and the pairs of classes."""
        truth, predicted = self.target.true(targets).long(), self.target.predicted(outputs).long()
        dimensions = truth.new_tensor(truth.dim() - 1)
        kept = truth != self.target.ignored if self.target.ignored is not None else torch.ones_like(truth).bool()
        truth, predicted = truth[kept], predicted[kept]
        figures = torch.stack([(truth == predicted).sum(), kept.sum(), dimensions])
        if self.size > MOST_CLASSES:
            return (figures,)
        return figures, torch.bincount(truth * self.size + predicted, minlength=self.size**2)

    def add(self, figures: Tensor, *pairs: Tensor) -> None:
        """Add what a batch counts."""
        right, counted, self.dimensions = figures
        self.right.append(right)
        self.counted.append(counted)
        for each in pairs:
            self.confusion = each if self.confusion is None else self.confusion + each

    def report(self, loss: float, samples: int, is_perplexity: bool) -> Report:
        """Return accuracy over all places, and by class precision, recall and intersection over union (IoU).

        Places of one sample are not independent, so no figure has an interval.
        """
        classes: list[ClassFigures] = []
        confusion: tuple[tuple[int, ...], ...] = ()
        iou = None
        if self.confusion is not None:
            counts = self.confusion.reshape(self.size, self.size).cpu()
            columns = (counts.diagonal().tolist(), counts.sum(0).tolist(), counts.sum(1).tolist())
            classes = [
                class_figures(name, right, predicted, count, are_places=True)
                for name, right, predicted, count in zip(self.target.classes, *columns, strict=True)
            ]
            known = [figures.iou for figures in classes if figures.iou is not None]  # of the classes that occur
            iou = sum(known) / len(known) if known else math.nan
            confusion = tuple(map(tuple, counts.tolist()))
        perplexity = None
        if is_perplexity and int(self.dimensions) == 1 and self.target.task == "classification":  # of tokens
            perplexity = math.exp(loss) if loss < 700 else math.inf  # a float can be no larger
        return Report(
            task=self.target.task, loss=loss, n=samples, accuracy=sum(map(int, self.right)) / self.count,
            classes=tuple(classes), confusion=confusion, target=self.target.name, places=self.count, iou=iou,
            perplexity=perplexity,
        )  # fmt: skip


class QuantityPlaces:
    """Adds up the errors of quantities at places, in float64."""

    def __init__(self, target: TargetSpec) -> None:
        self.target = target
        self.sums: Tensor | None = None  # places, |error|, error², value, value²
        self.first: Tensor | float = 0.0  # a value near all others: their squares are summed from there

    @property
    def count(self) -> int:
        """How many places were counted."""
        return 0 if self.sums is None else int(self.sums[0])

    def counts(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Return what a batch counts: its values, and the errors."""
        return targets.double(), self.target.decoded(outputs).double() - targets.double()

    def add(self, truth: Tensor, error: Tensor) -> None:
        """Add what a batch counts."""
        if self.sums is None:
            self.first = truth.mean()
        truth = truth - self.first
        places = truth.new_tensor(float(truth.numel()))
        sums = torch.stack([places, error.abs().sum(), (error**2).sum(), truth.sum(), (truth**2).sum()])
        self.sums = sums if self.sums is None else self.sums + sums

    def report(self, loss: float, samples: int, is_perplexity: bool) -> Report:
        """Return MAE, RMSE and R² over all places."""
        assert self.sums is not None
        count, absolute, squares, values, spread = self.sums.tolist()
        spread -= values**2 / count
        return Report(
            task=self.target.task, loss=loss, n=samples, mae=absolute / count, rmse=math.sqrt(squares / count),
            r2=1 - squares / spread if spread > 0 else math.nan, target=self.target.name, places=int(count),
        )  # fmt: skip


def as_places(target: TargetSpec) -> Places | QuantityPlaces | None:
    """Return what counts the places of such targets; None where a sample has one target, or nothing is known of it."""
    if target.layout != "dense" or target.task == "other":
        return None
    return QuantityPlaces(target) if target.task == "regression" else Places(target)
