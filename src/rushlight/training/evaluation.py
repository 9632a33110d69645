"""Evaluating a model on a split: what comes out is a `Report`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rushlight.data import Split, TargetSpec
from rushlight.models import eval_mode
from rushlight.report import Report, class_figures, wilson
from rushlight.training.objective import Objective
from rushlight.training.step import FasterMaxPool, may_pool

MOST_WRONG = 10
VECTOR = 16  # numbers that the widest instructions process at once


@dataclass(frozen=True)
class Outcome:
    """The model's prediction for each sample, in order; everything on the CPU.

    For classes: `truth`, `predicted` int64 (n,) and `confidence` float32 (n,), the probability of the predicted class.
    For labels: truth and predicted are bool (n, labels). For regression: float32 (n, width), in the data's units.
    """

    truth: Tensor
    predicted: Tensor
    confidence: Tensor
    names: Sequence[str] | None = None  # of the samples: files, or rows of a table


def evaluate(
    model: nn.Module,
    split: Split,
    objective: Objective,
    target: TargetSpec | None,
    batch_size: int,
    *,
    watch: Callable[[int], None] = lambda done: None,
) -> tuple[Report, Outcome | None]:
    """Evaluate `model` on all samples of `split`, in order, in eval mode and without gradients.

    `watch(samples done)` is called after every batch. Nothing is read back from the device before the end, and the
    model returns to the mode it was in.
    """
    losses: list[Tensor] = []
    weights: list[float] = []
    judged: list[tuple[Tensor, Tensor, Tensor]] = []
    done = 0
    pooling = FasterMaxPool() if may_pool(model) else contextlib.nullcontext()
    with eval_mode(model), torch.no_grad(), pooling:
        for batch in split.in_order(batch_size):
            loss, outputs = objective.compute(model, batch)
            losses.append(loss)
            weights.append(objective.weight(batch))
            if outputs is not None and target is not None:
                judged.append(judge(outputs, batch[1], target))
            done += len(batch[1]) if outputs is not None else round(weights[-1])
            watch(done)
    values = torch.stack(losses).double().tolist() if losses else []
    total = sum(objective.total(*pair) for pair in zip(values, weights, strict=True) if pair[1])
    loss_mean = total / sum(weights) if sum(weights) else math.nan
    if not judged or target is None:
        return Report(None, loss_mean, done), None
    truth, predicted, confidence = (torch.cat(column).cpu() for column in zip(*judged, strict=True))
    outcome = Outcome(truth, predicted, confidence, split.names)
    return make_report(outcome, target, loss_mean), outcome


def judge(outputs: Tensor, targets: Tensor, target: TargetSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Turn a batch's outputs into (truth, predicted, confidence), still on the device."""
    if target.task == "classification":
        confidence, predicted = likeliest(outputs.float())
        return targets, predicted, confidence
    if target.task == "binary":
        probability = outputs.float().sigmoid().flatten()
        predicted = (probability > 0.5).long()
        return targets.flatten().long(), predicted, torch.where(predicted.bool(), probability, 1 - probability)
    if target.task == "multilabel":
        probability = outputs.float().sigmoid()
        return targets > 0.5, probability > 0.5, probability
    outputs = outputs.float().reshape(targets.shape)
    return target.in_units(targets), target.in_units(outputs), torch.zeros(len(targets), device=targets.device)


def likeliest(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability and the number of each sample's likeliest class, (n,), from outputs (n, classes)."""
    if outputs.shape[1] >= VECTOR:
        return outputs.softmax(1).max(1)
    # torch processes short rows one number at a time: columns need half the time
    return outputs.t().contiguous().softmax(0).max(0)


def make_report(outcome: Outcome, target: TargetSpec, loss: float) -> Report:
    """Return the report of one evaluation."""
    if target.task == "regression":
        return regression_report(outcome, target, loss)
    truth, predicted = outcome.truth.numpy(), outcome.predicted.numpy()
    confusion: tuple[tuple[int, ...], ...] = ()
    mistakes: tuple[dict[str, Any], ...] = ()
    if target.task == "multilabel":  # each label is judged by itself
        right, n = int((truth == predicted).sum()), truth.size
        counts = zip((truth & predicted).sum(0).tolist(), predicted.sum(0).tolist(), truth.sum(0).tolist(), strict=True)
    else:
        size = len(target.classes)
        counted = np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size)
        right, n = int(np.trace(counted)), len(truth)
        counts = zip(counted.diagonal().tolist(), counted.sum(0).tolist(), counted.sum(1).tolist(), strict=True)
        confusion = tuple(tuple(row) for row in counted.tolist())
        mistakes = tuple(most_wrong(outcome, target))
    return Report(
        task=target.task, loss=loss, n=len(truth), accuracy=right / n, accuracy_interval=wilson(right, n),
        classes=tuple(class_figures(name, *count) for name, count in zip(target.classes, counts, strict=True)),
        confusion=confusion, target=target.name, most_wrong=mistakes,
    )  # fmt: skip


def regression_report(outcome: Outcome, target: TargetSpec, loss: float) -> Report:
    """Return the report of a regression: MAE, RMSE and R² = 1 - SSE / SST, averaged over the target's columns."""
    truth, predicted = outcome.truth.double().numpy(), outcome.predicted.double().numpy()
    error = predicted - truth
    spread = ((truth - truth.mean(0)) ** 2).sum(0)
    r2 = np.where(spread > 0, 1 - (error**2).sum(0) / np.where(spread > 0, spread, 1), math.nan).mean()
    size = np.abs(error).max(1)
    worst = (
        {
            **identified(index, outcome), "true": truth[index].tolist(), "predicted": predicted[index].tolist(),
            "error": float(size[index]),
        }
        for index in np.argsort(-size, kind="stable")[:MOST_WRONG].tolist()
    )  # fmt: skip
    return Report(
        task=target.task, loss=loss, n=len(truth), mae=float(np.abs(error).mean()), rmse=float(np.sqrt((error**2).mean())),
        r2=float(r2), target=target.name, most_wrong=tuple(worst),
    )  # fmt: skip


def most_wrong(outcome: Outcome, target: TargetSpec) -> Iterator[dict[str, Any]]:
    """Give the wrong predictions with the highest confidence."""
    wrong = (outcome.truth != outcome.predicted).nonzero().flatten()
    shown = wrong[torch.argsort(outcome.confidence[wrong], descending=True, stable=True)[:MOST_WRONG]]
    columns = (column[shown].tolist() for column in (outcome.truth, outcome.predicted, outcome.confidence))
    for index, true, predicted, probability in zip(shown.tolist(), *columns, strict=True):
        yield {
            **identified(index, outcome), "true": target.classes[true], "predicted": target.classes[predicted],
            "probability": round(probability, 6),
        }  # fmt: skip


def identified(index: int, outcome: Outcome) -> dict[str, Any]:
    """Return a sample's index, and its name where the samples have names."""
    return {"index": index} if outcome.names is None else {"index": index, "name": outcome.names[index]}
