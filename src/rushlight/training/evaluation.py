"""Evaluating a model on a split: what comes out is a `Report`."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rushlight.data import Batch, FeatureSpec, LoaderSplit, ResidentSplit, Split, TargetSpec, count_samples, seeded
from rushlight.models import as_figures, calls_own_code, eval_mode
from rushlight.report import Report, class_figures, wilson
from rushlight.training.divided import Indivisible, Judged, judged_together
from rushlight.training.interrupt import SharedInterrupt
from rushlight.training.objective import Measuring, Objective, as_module
from rushlight.training.places import Places, QuantityPlaces, as_places
from rushlight.training.state import Training
from rushlight.training.step import FasterMaxPool, Parts, computing, is_out_of_memory, may_pool

MOST_WRONG = 10
MOST_OBSERVED = 32  # samples of whose loss the gradients are told
VECTOR = 16  # numbers that the widest instructions process at once
SEED = 0  # of whatever a model or an objective draws in an evaluation


@dataclass(frozen=True)
class Outcome:
    """The model's prediction for each sample, in order; everything on the CPU.

    For classes: `truth`, `predicted` int64 (n,) and `confidence` float32 (n,), the probability of the predicted class.
    For labels: truth and predicted are bool (n, labels). For regression: float32 (n, width), in the data's units.
    What is float32 here is float64 of a model in that.
    """

    truth: Tensor
    predicted: Tensor
    confidence: Tensor
    names: Sequence[str] | None = None  # of the samples: files, or rows of a table
    of_truth: Tensor | None = None  # float32 (n,), the probability of the true class; None for labels and regression


def first_loss(training: Training, parts: Parts) -> Tensor | None:
    """Return the loss of the first training samples in eval mode.

    None where code of the user's would be called for nothing else, which may count its calls, and in several processes.
    """
    split, model, loss = training.data.train, training.model, training.objective.loss
    if not isinstance(split, ResidentSplit) or not isinstance(loss, nn.Module) or training.world.is_shared:
        return None
    if calls_own_code(model) or calls_own_code(loss):
        return None
    batch = next(split.in_order(min(training.recipe.batch_size, MOST_OBSERVED)))
    with seeded(SEED), eval_mode(model):
        return computing(parts)(model, batch)[0]


def evaluate(
    model: nn.Module,
    split: Split,
    objective: Objective,
    target: TargetSpec | None,
    batch_size: int,
    *,
    watch: Callable[[int], None] = lambda done: None,
    together: SharedInterrupt | None = None,
) -> tuple[Report, Outcome | None]:
    """Evaluate `model` on all samples of `split`, in order, in eval mode and without gradients.

    `watch(samples done)` is called after every batch. Nothing is read back from the device before the end, and the
    model returns to the mode it was in. Random numbers are those of a fixed seed: evaluated again, it gives the same.
    Where memory runs out, it is begun again with batches of half the size. `together` is that of several processes which
    share the batches out: the first one returns the report, the others an empty one.
    """
    is_whole = False
    while True:
        try:
            return evaluate_at_once(model, split, objective, target, batch_size, watch, together, is_whole)
        except Indivisible:
            is_whole = True
            continue
        except (RuntimeError, MemoryError) as error:
            is_divided = together is not None and together.world.is_divided
            if not is_out_of_memory(error) or batch_size < 2 or isinstance(split, LoaderSplit) or is_divided:
                raise
        batch_size //= 2  # not in the clause above: the error holds on to memory


def beside_naive(report: Report, split: Split, features: FeatureSpec | None, target: TargetSpec | None) -> Report:
    """Return the report of a forecast with the error of the last known value; any other one as it is."""
    names = [] if features is None or features.time is None else [column.name for column in features.columns]
    if features is None or target is None or target.name not in names or not isinstance(split, ResidentSplit):
        return report
    place = sum(column.width for column in features.columns[: names.index(target.name)])
    last = features.normalization.undo(split.inputs[:, -1], -1)[:, place, None]
    targets = target.in_units(split.targets.reshape(len(last), -1))
    return replace(report, naive=float((targets - last).abs().mean()))


def evaluate_at_once(
    model: nn.Module,
    split: Split,
    objective: Objective,
    target: TargetSpec | None,
    batch_size: int,
    watch: Callable[[int], None],
    together: SharedInterrupt | None,
    is_whole: bool,
) -> tuple[Report, Outcome | None]:
    """Evaluate with batches of one size; `is_whole`: no batch is left to other processes."""
    losses: list[Tensor] = []
    weights: list[float] = []
    judged: list[tuple[Tensor, ...]] = []
    numbers: dict[str, list[Tensor | float]] = {}
    places = None if target is None else as_places(target)
    target = None if target is None or target.task == "other" else target
    done, measuring = 0, objective.metrics.begin()
    pooling = FasterMaxPool() if may_pool(model) else contextlib.nullcontext()
    with eval_mode(model), torch.no_grad(), pooling, drawing_the_same():
        judge_one = functools.partial(judge_batch, model, objective, target, measuring, places)
        both = nn.ModuleList(each for each in (model, objective.loss) if isinstance(each, nn.Module))
        for found in (
            map(judge_one, split.in_order(batch_size))
            if together is None
            else judged_together(judge_one, both, split, batch_size, together, is_whole)
        ):
            losses.append(found.loss)
            weights.append(found.weight)
            for name, value in found.numbers.items():
                numbers.setdefault(name, []).append(value)
            if found.measurable:
                measuring.add(*found.measurable)
            if found.counted and places is not None:
                places.add(*found.counted)
            if found.judged:
                judged.append(found.judged)
            done += found.samples
            watch(done)
    if together is not None and not together.world.is_first:
        return Report(None, math.nan, 0), None
    values = torch.stack(losses).double().tolist() if losses else []
    total = sum(objective.total(*pair) for pair in zip(values, weights, strict=True) if pair[1])
    loss_mean = total / sum(weights) if sum(weights) else math.nan
    means = {name: float(sum(column)) / sum(weights) if sum(weights) else math.nan for name, column in numbers.items()}
    report, outcome = Report(None, loss_mean, done), None
    if places is not None and places.count:
        report = places.report(loss_mean, done, is_perplexity(objective.loss))
    elif judged and target is not None:
        truth, predicted, confidence, *of_truth = (torch.cat(column).cpu() for column in zip(*judged, strict=True))
        outcome = Outcome(truth, predicted, confidence, split.names, *of_truth)
        report = make_report(outcome, target, loss_mean)
    measured = measuring.measured(replace(report, numbers=means), outcome)
    return replace(report, **measured, judged_by=objective.metrics.judged_by), outcome


def judge_batch(
    model: nn.Module, objective: Objective, target: TargetSpec | None, measuring: Measuring,
    places: Places | QuantityPlaces | None, batch: Batch,
) -> Judged:  # fmt: skip
    """Evaluate one batch."""
    told = None if objective.own is None else objective.told
    loss, outputs = objective.compute(model, batch)
    weight, said = objective.weight(batch), dict[str, Tensor | float]()
    if told is not None:
        weight, _, numbers = told.batches.pop()
        said = {name: value * weight for name, value in numbers.items()}
    counted: tuple[Tensor, ...] = ()
    judged: tuple[Tensor, ...] = ()
    if isinstance(outputs, Tensor) and target is not None:
        targets = batch[1] if told is None else target.for_loss(batch[1])
        if places is not None:
            counted = places.counts(outputs, targets)
        else:
            judged = judge(outputs, targets, target)
    samples = len(batch[1]) if told is None else round(count_samples(batch))
    return Judged(loss, weight, samples, said, measuring.measurable(outputs, batch, target), counted, judged)


@contextlib.contextmanager
def drawing_the_same() -> Iterator[None]:
    """Draw the random numbers of `SEED` within the block, and leave torch's, NumPy's and Python's generators as they were."""
    is_used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = [torch.cuda.current_device()] if is_used else []
    with torch.random.fork_rng(devices), seeded(SEED):
        if devices:
            torch.cuda.manual_seed(SEED)
        yield


def is_perplexity(loss: object) -> bool:
    """Tell whether the exponential of a loss is a perplexity: a plain mean of cross-entropies."""
    module = as_module(loss)
    is_entropy = isinstance(module, (nn.CrossEntropyLoss, nn.NLLLoss)) and module.weight is None
    return is_entropy and module.reduction == "mean" and not getattr(module, "label_smoothing", 0)


def judge(outputs: Tensor, targets: Tensor, target: TargetSpec) -> tuple[Tensor, ...]:
    """Turn a batch's outputs into (truth, predicted, confidence), and for classes the truth's probability; on the device."""
    outputs = as_figures(outputs)
    if target.task == "classification":
        truth = target.true(targets)
        if target.gives == "probabilities":
            confidence, predicted = outputs.max(1)
            return truth, predicted, confidence, at(outputs, truth, target.ignored)
        return truth, *likeliest(outputs, truth, target.ignored)
    if target.task == "binary":
        probability = target.decoded(outputs).flatten()
        predicted = (probability > 0.5).long()
        truth, other = targets.flatten().long(), 1 - probability
        return truth, predicted, *(torch.where(one.bool(), probability, other) for one in (predicted, truth))
    if target.task == "multilabel":
        probability = target.decoded(outputs)
        return targets > 0.5, probability > 0.5, probability
    truth, predicted = target.in_units(targets), target.decoded(outputs.reshape(targets.shape))
    return (
        truth.reshape(len(truth), -1),
        predicted.reshape(len(truth), -1),
        torch.zeros(len(truth), device=truth.device),
    )


def likeliest(outputs: Tensor, truth: Tensor, ignored: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sample's likeliest class, its probability, and that of its true class, (n,), from outputs (n, classes)."""
    if outputs.shape[1] >= VECTOR:
        probabilities = outputs.softmax(1)
        confidence, predicted = probabilities.max(1)
        return predicted, confidence, at(probabilities, truth, ignored)
    # torch processes short rows one number at a time: columns need half the time
    columns = outputs.t().contiguous().softmax(0)
    confidence, predicted = columns.max(0)
    return predicted, confidence, at(columns.t(), truth, ignored)


def at(probabilities: Tensor, classes: Tensor, ignored: int | None) -> Tensor:
    """Return the probability of one class for each sample; NaN for the number that is ignored."""
    if ignored is None:
        return probabilities.gather(1, classes.unsqueeze(1)).squeeze(1)
    is_ignored = classes == ignored
    found = probabilities.gather(1, classes.masked_fill(is_ignored, 0).unsqueeze(1)).squeeze(1)
    return found.masked_fill(is_ignored, math.nan)


def make_report(outcome: Outcome, target: TargetSpec, loss: float) -> Report:
    """Return the report of one evaluation."""
    if target.task == "regression":
        return regression_report(outcome, target, loss)
    truth, predicted = outcome.truth.numpy(), outcome.predicted.numpy()
    if target.ignored is not None:
        counted = truth != target.ignored
        truth, predicted = truth[counted], predicted[counted]
    confusion: tuple[tuple[int, ...], ...] = ()
    mistakes: tuple[dict[str, Any], ...] = ()
    if target.task == "multilabel":  # each label is judged by itself
        right, n = int((truth == predicted).sum()), truth.size
        counts = zip((truth & predicted).sum(0).tolist(), predicted.sum(0).tolist(), truth.sum(0).tolist(), strict=True)
    else:
        size = len(target.classes)
        taken_for = np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size)
        right, n = int(np.trace(taken_for)), len(truth)
        counts = zip(taken_for.diagonal().tolist(), taken_for.sum(0).tolist(), taken_for.sum(1).tolist(), strict=True)
        confusion = tuple(tuple(row) for row in taken_for.tolist())
        mistakes = tuple(most_wrong(outcome, target))
    return Report(
        task=target.task, loss=loss, n=len(truth), accuracy=right / n if n else math.nan, accuracy_interval=wilson(right, n),
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
    is_wrong = outcome.truth != outcome.predicted
    if target.ignored is not None:
        is_wrong &= outcome.truth != target.ignored
    wrong = is_wrong.nonzero().flatten()
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
