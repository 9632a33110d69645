"""Losses and objectives: from names, from live objects, or from the user's function."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rushlight.data import Batch, Floats, Task, count_samples, equal_parts, in_floats
from rushlight.errors import UsageError, suggest
from rushlight.models import call_model, main_output
from rushlight.training.objective.metrics import NO_METRICS, Metrics
from rushlight.training.objective.tasks import FUNCTIONS, is_own

Loss = Callable[[Tensor, Tensor], Tensor]

LOSS_BY_TASK: dict[Task, str] = {
    "classification": "CrossEntropyLoss",
    "binary": "BCEWithLogitsLoss",
    "multilabel": "BCEWithLogitsLoss",
    "regression": "MSELoss",
    "other": "MSELoss",
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


class Mixing(NamedTuple):
    """How a training batch is mixed with itself in another order; the alphas of beta distributions."""

    mixup: float | None = None
    cutmix: float | None = None


NO_MIXING = Mixing()


class Answer(NamedTuple):
    """What an objective returns for a batch; `weight` None: as many samples as there are."""

    loss: Tensor
    outputs: Any = None
    weight: float | None = None
    numbers: Mapping[str, float | Tensor] = {}


class Told:
    """Gathers what the user's objective tells beside its losses: the weights of steps, and numbers to log."""

    def __init__(self) -> None:
        self.batches: list[
            tuple[float, bool, Mapping[str, float | Tensor]]
        ] = []  # of the step in work; was it weighed?
        self.weights: list[float] = []  # of the steps that are done
        self.numbers: list[tuple[str, float | Tensor, float]] = []  # of these: name, value, weight

    def add(self, answer: Answer, batch: Batch) -> None:
        """Add what was told of a batch."""
        weight = count_samples(batch) if answer.weight is None else answer.weight
        self.batches.append((weight, answer.weight is not None, answer.numbers))

    def end_step(self) -> None:
        """Close the step whose batches were added."""
        self.weights.append(sum(weight for weight, _, _ in self.batches))
        for weight, _, numbers in self.batches:
            self.numbers += [(name, value, weight) for name, value in numbers.items()]
        self.batches.clear()

    def clear(self) -> None:
        """Forget all."""
        for gathered in (self.batches, self.weights, self.numbers):
            gathered.clear()


@dataclass(frozen=True)
class Objective:
    """A step minimises it.

    `compute(model, batch)` returns the mean loss of a batch, and the outputs where the loss has some to show.
    `weight(batch)` is the denominator of that mean: the number of samples, or the sum of their class weights. Means of
    unequal batches, and of the micro-batches of one step, are combined by it. A loss that `is_sum` is combined by
    adding, and its averages are over samples. `own` and `told` are a user's own objective's.
    """

    compute: Callable[[nn.Module, Batch], tuple[Tensor, Any]]
    weight: Callable[[Batch], float]
    loss: Loss | None  # None for a user's own objective
    is_sum: bool = False
    is_even: Callable[[], bool] = lambda: False  # whether all samples weigh the same
    own: Callable[[nn.Module, Batch], Any] | None = None  # the user's function
    told: Told | None = None
    step: Callable[[Batch], Any] | None = None  # the user's function, which does whole steps
    mixing: Mixing = NO_MIXING
    metrics: Metrics = NO_METRICS  # what an evaluation measures besides

    def weights(self, batch: Batch, count: int) -> list[float]:
        """Return the weights of `count` equal parts of a batch, which is a tuple of tensors."""
        if self.is_even():
            return [self.weight(batch) / count] * count
        return [self.weight(part) for part in equal_parts(batch, count)]

    def total(self, loss: float, weight: float) -> float:
        """Return a batch's loss added up over all that its `weight` counts."""
        return loss if self.is_sum else loss * weight


def make_objective(loss: Loss, are_labels_checked: bool = False, mixing: Mixing = NO_MIXING) -> Objective:
    """Return the objective `loss(model(inputs), targets)`; `are_labels_checked`: none below 0.

    Of a training batch that is mixed with x' and y', the loss is λ loss(y) + (1 − λ) loss(y'), with the λ of `mixed`.
    """

    def compute(model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        inputs, targets = batch
        if not any(mixing) or not model.training:
            outputs = forward(model, inputs)
            return loss(outputs, targets), outputs
        inputs, other, share = mixed(inputs, mixing)
        outputs = forward(model, inputs)
        return share * loss(outputs, targets) + (1 - share) * loss(outputs, targets[other]), outputs

    def forward(model: nn.Module, inputs: Any) -> Any:
        outputs = call_model(model, inputs)
        return outputs if takes_all or isinstance(outputs, Tensor) else main_output(outputs)

    counted = as_module(loss)
    takes_all = is_own(counted)
    is_sum = getattr(counted, "reduction", "mean") == "sum"
    if is_sum or not isinstance(counted, (nn.CrossEntropyLoss, nn.NLLLoss)):
        return Objective(compute, count_samples, loss, is_sum, lambda: True, mixing=mixing)

    def is_even() -> bool:  # as the loss is now
        return counted.weight is None and are_labels_checked and counted.ignore_index < 0

    weight = functools.partial(count_weight, counted, is_even)
    return Objective(compute, weight, loss, is_sum, is_even, mixing=mixing)


def mixed(inputs: Tensor, mixing: Mixing) -> tuple[Tensor, Tensor, float]:
    """Return a batch mixed with itself in another order, that order, and the share λ of each sample that is its own.

    mixup:  λ x + (1 − λ) x', with λ of Beta(alpha, alpha) (Zhang et al. 2018, arXiv:1710.09412)
    cutmix: x with a rectangle of x', of the image's shape and a share 1 − λ of its area, around a place drawn evenly; λ becomes
            the area that is left where the image's edge cuts it (Yun et al. 2019, arXiv:1905.04899, appendix A)

    With both, one of them is drawn, each as often. All is drawn from torch's generator, which each step seeds anew.
    """
    is_cut = mixing.mixup is None or (mixing.cutmix is not None and bool(torch.rand(()) < 0.5))
    alpha = mixing.cutmix if is_cut else mixing.mixup
    share = float(torch.distributions.Beta(alpha, alpha).sample())  # type: ignore[arg-type]
    other = torch.randperm(len(inputs)).to(inputs.device)
    if not is_cut:
        return share * inputs + (1 - share) * inputs[other], other, share
    edges, left = [], 1.0
    for size in inputs.shape[2:]:  # (batch, channels, height, width)
        middle, half = int(torch.randint(size, ())), int(0.5 * math.sqrt(1 - share) * size)
        edges.append(slice(max(middle - half, 0), min(middle + half, size)))
        left *= (edges[-1].stop - edges[-1].start) / size
    cut = inputs.clone()
    cut[:, :, edges[0], edges[1]] = inputs[other][:, :, edges[0], edges[1]]
    return cut, other, 1 - left


def as_module(loss: Any) -> Any:
    """Return the module that calls a function of torch's, `F.cross_entropy` say; any other loss as it is."""
    return next((kind() for function, kind in FUNCTIONS.items() if loss is function), loss)


def own_objective(function: Callable[[nn.Module, Batch], Any]) -> Objective:
    """Return the objective of a user's `f(model, batch)`, which returns what `read_answer` reads."""
    told = Told()

    def compute(model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        answer = read_answer(function(model, batch))
        told.add(answer, batch)
        return answer.loss, answer.outputs

    return Objective(compute, count_samples, None, own=function, told=told)


def with_own_step(objective: Objective | None, function: Callable[[Batch], Any]) -> Objective:
    """Return an objective whose steps the user's `f(batch)` does, with all its updates; None: nothing is evaluated."""
    found = objective or Objective(lambda model, batch: (Tensor(), None), count_samples, None)
    return replace(found, step=function, told=Told() if found.told is None else found.told)


def read_answer(answer: Any) -> Answer:
    """Read what an objective returned: a loss, (loss, outputs), or a dict.

    In a dict "loss" is minimised, "weight" is what it is a mean over, "outputs" are the model's, and all other values are
    numbers to log. Objects with `.loss` and `.logits`, as transformers' models return, need not be taken apart.

    Raises:
        UsageError: there is no loss in it, or a value that is no number.
    """
    if isinstance(answer, Tensor):
        return Answer(answer)
    if isinstance(answer, (tuple, list)) and len(answer) == 2 and isinstance(answer[0], Tensor):
        return Answer(answer[0], answer[1])
    if isinstance(loss := getattr(answer, "loss", None), Tensor):
        return Answer(loss, getattr(answer, "logits", None))
    if not isinstance(answer, Mapping) or not isinstance(answer.get("loss"), Tensor):
        found = f"dict ({', '.join(map(str, answer))})" if isinstance(answer, Mapping) else type(answer).__name__
        raise UsageError("objective-no-tensor", found=found)
    numbers: dict[str, float | Tensor] = {}
    for name, value in answer.items():
        if name in ("loss", "outputs"):
            continue
        if isinstance(value, Tensor) and value.numel() == 1:
            numbers[name] = value.detach().reshape(()).to(answer["loss"].device, torch.float32)  # to be read together
        elif isinstance(value, Real):
            numbers[name] = float(value)
        else:
            found = str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
            raise UsageError("objective-no-number", name=name, found=found)
    weight = numbers.pop("weight", None)
    return Answer(answer["loss"], answer.get("outputs"), None if weight is None else float(weight), numbers)


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


def named_loss(name: str, arguments: Mapping[str, Any] | None = None, floats: Floats = "float32") -> Loss:
    """Return a new loss by its torch class ('CrossEntropyLoss') or short name ('cross-entropy').

    Lists become tensors, of numbers in the dtype of the model's weights.
    """
    known = {key: getattr(nn, key) for key in dir(nn) if key.endswith("Loss")}
    class_name = LOSS_ALIASES.get(name.lower(), name)
    if class_name not in known:
        raise UsageError("unknown-loss", name=name, suggestion=suggest(name, [*known, *LOSS_ALIASES]))
    accepted = list(inspect.signature(known[class_name]).parameters)
    for argument in arguments or ():
        if argument not in accepted:
            near = suggest(argument, accepted)
            raise UsageError(
                "unknown-loss-argument", loss=class_name, argument=argument, known=", ".join(accepted), suggestion=near
            )
    try:
        values = {
            key: in_floats(torch.tensor(value, dtype=torch.float64), floats)
            if isinstance(value, (list, tuple))
            else value
            for key, value in (arguments or {}).items()
        }
        made: Loss = known[class_name](**values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError("loss-arguments", loss=class_name, reason=error) from error
    return made


def balanced(argument: str, targets: Tensor, classes: int) -> list[float]:
    """Return class weights n / (classes · count), or for `pos_weight` each label's zeros for every one."""
    if argument == "pos_weight":
        labels = targets.double().reshape(len(targets), -1)
        ones = labels.sum(0)
        found: list[float] = ((len(labels) - ones) / ones.clamp(min=1)).tolist()
        return found
    return balanced_by_counts(argument, torch.bincount(targets.long().flatten(), minlength=classes))


def balanced_by_counts(argument: str, counts: Tensor) -> list[float]:
    """Return the same of how often each class occurs, (classes,); `pos_weight` is for the second of two classes."""
    if argument == "pos_weight":
        return [float(counts[0] / counts[1].clamp(min=1))]
    weights: list[float] = (counts.sum() / (len(counts) * counts.double().clamp(min=1))).tolist()
    return weights
