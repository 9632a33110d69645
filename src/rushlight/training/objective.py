"""Loss, optimizer and schedule: from names or from live objects."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rushlight.data.batches import ALIGNMENT, Batch
from rushlight.data.spec import TargetSpec, Task
from rushlight.errors import UsageError, suggest
from rushlight.training.uncompiled import make_optimizer

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


# ── the loss ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Objective:
    """What a step minimises.

    `compute(model, batch)` returns the mean loss of a batch, and the outputs where the loss has some to show.
    `weight(batch)` is what that mean is over: the number of samples, or the sum of their class weights. Means of
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
    """Return the objective `loss(model(inputs), targets)`. `are_labels_checked` says that no label is below 0."""

    def compute(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        inputs, targets = batch
        outputs = model(inputs)
        return loss(outputs, targets), outputs

    is_sum = getattr(loss, "reduction", "mean") == "sum"
    if is_sum or not isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        return Objective(compute, count_samples, loss, is_sum, lambda: True)

    def is_even() -> bool:  # as the loss is now
        return loss.weight is None and are_labels_checked and loss.ignore_index < 0

    return Objective(compute, functools.partial(count_weight, loss, is_even), loss, is_sum, is_even)


def own_objective(function: Callable[[nn.Module, Batch], Tensor]) -> Objective:
    """Return the objective of a user's `f(model, batch) -> loss`, which is taken to be a mean over the batch."""

    def compute(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        loss = function(model, batch)
        if not isinstance(loss, Tensor):
            raise UsageError("objective-no-tensor", found=type(loss).__name__)
        return loss, None

    return Objective(compute, count_samples, None)


def count_weight(loss: nn.CrossEntropyLoss | nn.NLLLoss, is_even: Callable[[], bool], batch: Batch) -> float:
    """Return what such a loss's mean is over: the sum of the targets' weights, without those that are ignored.

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


def count_samples(batch: Batch) -> float:
    """Return how many samples a batch has: the length of the first tensor in it that has one."""
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor) and batch[0].dim():
        return float(batch[0].shape[0])  # nearly always, and ten times as fast
    lengths = (len(tensor) for tensor in tensors_in(batch) if tensor.dim())
    return float(next(lengths, 1))


def equal_parts(batch: Batch, count: int) -> list[Batch]:
    """Cut a tuple of tensors into `count` equal batches that are as batches of their own would be.

    None is a view of the others, so a model may write into its batch. Each begins at a multiple of 64 bytes: kernels may
    round differently elsewhere.
    """
    columns = [tensor.unsafe_chunk(count) for tensor in batch]  # not unsafe here: nobody uses the whole
    return list(
        zip(*(parts if not parts[0].nbytes % ALIGNMENT else map(Tensor.clone, parts) for parts in columns), strict=True)
    )


def tensors_in(batch: Batch) -> Iterator[Tensor]:
    """Give the tensors in a batch of tuples, lists and dicts."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (Mapping, list, tuple)):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_in(part)


def named_loss(name: str) -> Loss:
    """Return a new loss by the name of its torch class ('CrossEntropyLoss') or a short one ('cross-entropy')."""
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
    """Raise UsageError when the loss cannot work on such targets, in the words of a beginner's mistake."""
    name = type(loss).__name__
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and target.task == "regression":
        raise UsageError("float-labels", loss=name, found=str(targets_dtype or torch.float32).removeprefix("torch."))
    if isinstance(loss, (nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss)) and target.task == "classification":
        raise UsageError("regression-loss-on-classes", loss=name, classes=len(target.classes))
    if isinstance(loss, nn.BCEWithLogitsLoss) and target.task == "classification" and len(target.classes) != 2:
        raise UsageError("binary-loss-on-many-classes", loss=name, classes=len(target.classes))


# ── the optimizer ────────────────────────────────────────────────────────────────────────────────────────────


def named_optimizer(name: str, model: nn.Module, arguments: dict[str, Any]) -> Optimizer:
    """Return a new `torch.optim` optimizer by class name over the model's parameters that train.

    Raises:
        UsageError: no such optimizer, no such argument, or nothing in the model trains.
    """
    known = {
        key: value for key, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, Optimizer) and value is not Optimizer
    }  # fmt: skip
    by_lower = {key.lower(): key for key in known}
    if name.lower() not in by_lower:
        raise UsageError(
            "unknown-optimizer", name=name, known=", ".join(sorted(known)), suggestion=suggest(name, known)
        )
    optimizer_class = known[by_lower[name.lower()]]
    accepted = [key for key in inspect.signature(optimizer_class).parameters if key != "params"]
    for argument in arguments:
        if argument not in accepted:
            raise UsageError(
                "unknown-optimizer-argument", optimizer=optimizer_class.__name__, argument=argument,
                known=", ".join(accepted), suggestion=suggest(argument, accepted),
            )  # fmt: skip
    for argument, value in arguments.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError("not-a-finite-number", option=argument, value=value)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise UsageError("nothing-trains", model=type(model).__name__)
    try:
        made = make_optimizer(optimizer_class, parameters, arguments)
    except (TypeError, ValueError) as error:
        raise UsageError("optimizer-arguments", optimizer=optimizer_class.__name__, reason=error) from error
    return made


def check_live_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Raise UsageError when a live optimizer holds other parameters than the model's own, or none that trains."""
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    foreign = sum(id(parameter) not in own for parameter in held)
    if foreign:
        raise UsageError(
            "foreign-optimizer", optimizer=type(optimizer).__name__, model=type(model).__name__,
            foreign=foreign, held=len(held),
        )  # fmt: skip
    if not any(parameter.requires_grad for parameter in held):
        raise UsageError("nothing-trains", model=type(model).__name__)


def check_steps_alone(optimizer: Optimizer) -> None:
    """Raise UsageError for an optimizer whose step computes the loss several times, through a closure (LBFGS)."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UsageError("needs-closure", optimizer=type(optimizer).__name__)


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer's class and those of its settings that its constructor takes and JSON can hold."""
    accepted = inspect.signature(type(optimizer)).parameters
    plain = {
        key: value for key, value in optimizer.defaults.items()
        if key in accepted and isinstance(value, (int, float, str, bool, tuple))
        and not (isinstance(value, float) and not math.isfinite(value))
    }  # fmt: skip
    return {"name": type(optimizer).__name__, "arguments": plain}


# ── the schedule ─────────────────────────────────────────────────────────────────────────────────────────────


def schedule_factor(name: str, step: int, total: int, warmup: int) -> float:
    """Return what the learning rate of step `step` (from 0) of `total` is multiplied by.

    warm-up:   `(step + 1) / warmup` for the first `warmup` steps, then the schedule over the steps that remain
    constant:  1
    cosine:    (1 + cos(π t)) / 2, for t from 0 to 1 (Loshchilov & Hutter, arXiv:1608.03983, without restarts)
    onecycle:  up from 1/25 to 1 over the first 30 %, down to 1e-4 / 25 over the rest, both along a cosine (Smith &
               Topin, arXiv:1708.07120): the learning rates of torch's OneCycleLR; momentum is left alone
    """
    if step < warmup:
        return (step + 1) / warmup
    t = (step - warmup) / max(total - warmup, 1)
    if name == "cosine":
        return (1 + math.cos(math.pi * t)) / 2
    if name == "onecycle":
        return one_cycle(step - warmup, total - warmup)
    return 1.0


def one_cycle(step: int, total: int) -> float:
    """Return the one-cycle factor of step `step` (from 0) of `total`, as torch's OneCycleLR counts: the last is the end."""
    low, high, end = 1 / 25, 1.0, 1e-4 / 25
    peak, last = 0.3 * total - 1, total - 1
    rises = step <= peak
    start, stop, share = (low, high, step / peak) if rises else (high, end, (step - peak) / (last - peak))
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2
