"""Losses and objectives: from names, from live objects, or from the user's function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rushlight.data import Batch, TargetSpec, Task, count_samples, equal_parts
from rushlight.errors import UsageError, suggest
from rushlight.training.objective.calls import call_model

Loss = Callable[[Tensor, Tensor], Tensor]

LOSS_BY_TASK: dict[Task, str] = {
    "classification": "CrossEntropyLoss",
    "binary": "BCEWithLogitsLoss",
    "multilabel": "BCEWithLogitsLoss",
    "regression": "MSELoss",
}
LOSS_ALIASES = {
    "cross-entropy": "CrossEntropyLoss",
    "crossentropy": "CrossEntropyLoss",
    "bce-with-logits": "BCEWithLogitsLoss",
    "bce": "BCEWithLogitsLoss",
    "mse": "MSELoss",
    "l1": "L1Loss",
    "mae": "L1Loss",
    "huber": "HuberLoss",
}


@dataclass(frozen=True)
class Objective:
    """A step minimises it.

    `compute(model, batch)` returns the mean loss of a batch, and the outputs where the loss has some to show.
    `weight(batch)` is the denominator of that mean: the number of samples, or the sum of their class weights. Means of
    unequal batches, and of the micro-batches of one step, are combined by it. A loss that `is_sum` is combined by
    adding, and its averages are over samples.
    """

    compute: Callable[[nn.Module, Batch], tuple[Tensor, Tensor | None]]
    weight: Callable[[Batch], float]
    loss: Loss | None  # None for a user's own objective
    is_sum: bool = False
    is_even: Callable[[], bool] = lambda: False  # whether all samples weigh the same

    def weights(self, batch: Batch, count: int) -> list[float]:
        """Return the weights of `count` equal parts of a batch, which is a tuple of tensors."""
        if self.is_even():
            return [self.weight(batch) / count] * count
        return [self.weight(part) for part in equal_parts(batch, count)]

    def total(self, loss: float, weight: float) -> float:
        """Return a batch's loss added up over all that its `weight` counts."""
        return loss if self.is_sum else loss * weight


def make_objective(loss: Loss, are_labels_checked: bool = False) -> Objective:
    """Return the objective `loss(model(inputs), targets)`; `are_labels_checked`: none below 0."""

    def compute(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        inputs, targets = batch
        outputs = call_model(model, inputs)
        return loss(outputs, targets), outputs

    is_sum = getattr(loss, "reduction", "mean") == "sum"
    if is_sum or not isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        return Objective(compute, count_samples, loss, is_sum, lambda: True)

    def is_even() -> bool:  # as the loss is now
        return loss.weight is None and are_labels_checked and loss.ignore_index < 0

    return Objective(compute, functools.partial(count_weight, loss, is_even), loss, is_sum, is_even)


def own_objective(function: Callable[[nn.Module, Batch], Tensor]) -> Objective:
    """Return the objective of a user's `f(model, batch) -> loss`, a mean over the batch."""

    def compute(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        loss = function(model, batch)
        if not isinstance(loss, Tensor):
            raise UsageError("objective-no-tensor", found=type(loss).__name__)
        return loss, None

    return Objective(compute, count_samples, None)


def count_weight(loss: nn.CrossEntropyLoss | nn.NLLLoss, is_even: Callable[[], bool], batch: Batch) -> float:
    """Return the denominator of a loss's mean: the sum of the weights of counted targets.

    `CrossEntropyLoss(weight=w)` and `NLLLoss(weight=w)` divide by it, and leave out `ignore_index` (torch's documentation
    of these classes).
    """
    targets = batch[1]
    if targets.is_floating_point():  # class probabilities: the mean is over samples
        return float(len(targets))
    if is_even():
        return float(targets.numel())
    kept = targets != loss.ignore_index
    return float(kept.sum()) if loss.weight is None else float(loss.weight[targets[kept]].sum())


def named_loss(name: str) -> Loss:
    """Return a new loss by its torch class ('CrossEntropyLoss') or short name ('cross-entropy')."""
    known = {key: getattr(nn, key) for key in dir(nn) if key.endswith("Loss")}
    class_name = LOSS_ALIASES.get(name.lower(), name)
    if class_name not in known:
        raise UsageError("unknown-loss", name=name, suggestion=suggest(name, [*known, *LOSS_ALIASES]))
    made: Loss = known[class_name]()
    return made


def task_of_loss(loss: Loss, task: Task) -> Task:
    """Return the task as the loss sees it: two classes under BCE-with-logits are a binary task."""
    return "binary" if isinstance(loss, nn.BCEWithLogitsLoss) and task == "classification" else task


def check_loss_fits(loss: Loss, target: TargetSpec, targets_dtype: torch.dtype | None) -> None:
    """Raise UsageError when the loss cannot work on such targets, naming the mistake."""
    name = type(loss).__name__
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and target.task == "regression":
        raise UsageError("float-labels", loss=name, found=str(targets_dtype or torch.float32).removeprefix("torch."))
    if isinstance(loss, (nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss)) and target.task == "classification":
        raise UsageError("regression-loss-on-classes", loss=name, classes=len(target.classes))
    if isinstance(loss, nn.BCEWithLogitsLoss) and target.task == "classification" and len(target.classes) != 2:
        raise UsageError("binary-loss-on-many-classes", loss=name, classes=len(target.classes))
