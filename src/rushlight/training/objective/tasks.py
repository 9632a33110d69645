"""What losses take: classes, labels, quantities or counts, and what the model's outputs are to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rushlight.data import Scale, TargetSpec
from rushlight.errors import UsageError

OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
OF_LABELS = (nn.BCEWithLogitsLoss, nn.BCELoss, nn.MultiLabelSoftMarginLoss)
OF_QUANTITIES = (nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss)
FUNCTIONS: dict[Any, type[nn.Module]] = {  # of torch, and the modules that call them
    functional.cross_entropy: nn.CrossEntropyLoss,
    functional.nll_loss: nn.NLLLoss,
    functional.multi_margin_loss: nn.MultiMarginLoss,
    functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    functional.binary_cross_entropy: nn.BCELoss,
    functional.multilabel_soft_margin_loss: nn.MultiLabelSoftMarginLoss,
    functional.mse_loss: nn.MSELoss,
    functional.l1_loss: nn.L1Loss,
    functional.huber_loss: nn.HuberLoss,
    functional.smooth_l1_loss: nn.SmoothL1Loss,
    functional.poisson_nll_loss: nn.PoissonNLLLoss,
}
SUMS_TO_ONE = 1e-3  # how far probabilities may be from it, as float16 holds them


def is_own(loss: object) -> bool:
    """Tell whether a loss is the user's own, so that nothing is known of what it takes."""
    return not type(loss).__module__.startswith("torch.") and not isinstance(
        loss, (*OF_CLASSES, *OF_LABELS, *OF_QUANTITIES, nn.PoissonNLLLoss)
    )


def task_of_loss(loss: object, target: TargetSpec, targets: Tensor | None) -> TargetSpec:
    """Return the target as the loss sees it; `targets` are some of the data's own, or None where these are unknown.

    Raises:
        UsageError: the loss cannot work on such targets.
    """
    if isinstance(loss, OF_CLASSES):
        return as_classes(loss, target, targets)
    if isinstance(loss, OF_LABELS):
        return as_labels(loss, target, targets)
    if isinstance(loss, nn.PoissonNLLLoss):
        scale: Scale = "logarithms" if loss.log_input else "scores"
        return replace(quantities_or_counts(loss, target, targets), gives=scale)
    if isinstance(loss, OF_QUANTITIES):
        if target.task == "classification" and target.layout == "rows":
            raise UsageError("regression-loss-on-classes", loss=type(loss).__name__, classes=len(target.classes))
        is_share = target.task in ("binary", "multilabel")  # the outputs come as near to 0 and 1 as they can
        return replace(target, gives="probabilities") if is_share else quantities_or_counts(loss, target, targets)
    if is_own(loss) and not (target.task == "regression" and are_yes_or_no(targets)):
        return target
    return TargetSpec("other", width=target.outputs, name=target.name, layout=target.layout)


def as_classes(loss: nn.Module, target: TargetSpec, targets: Tensor | None) -> TargetSpec:
    """Return the target as class numbers, or as a probability for each class where these are given."""
    ignored = getattr(loss, "ignore_index", None)
    if target.task in ("regression", "multilabel"):
        takes_probabilities = isinstance(loss, nn.CrossEntropyLoss)
        if takes_probabilities and targets is not None and are_distributions(targets):
            names = target.classes or tuple(map(str, range(targets.shape[1])))
            return TargetSpec("classification", names, name=target.name, layout=target.layout)
        if target.task == "regression":
            found = "float32" if targets is None else str(targets.dtype).removeprefix("torch.")
            raise UsageError("float-labels", loss=type(loss).__name__, found=found)
        return TargetSpec("classification", ("0", "1"), layout="dense", ignored=ignored)  # zeros and ones, by place
    if target.task == "binary":
        target = replace(target, task="classification")
    if target.task != "classification":
        return target
    classes = target.classes
    if ignored == len(classes) - 1 and are_numbered(classes) and targets is not None:  # the highest number is no class
        counted = targets[targets != ignored]
        classes = classes[: int(counted.max()) + 1 if counted.numel() else 1]
    return replace(target, classes=classes, ignored=ignored)


def as_labels(loss: nn.Module, target: TargetSpec, targets: Tensor | None) -> TargetSpec:
    """Return the target as zeros and ones: one of two classes, or labels that hold at once."""
    name = type(loss).__name__
    gives: Scale = "probabilities" if isinstance(loss, nn.BCELoss) else "scores"
    if target.task in ("classification", "binary"):
        if len(target.classes) > 2 or (len(target.classes) < 2 and target.layout == "rows"):
            raise UsageError("binary-loss-on-many-classes", loss=name, classes=len(target.classes))
        classes = target.classes if len(target.classes) == 2 else ("0", "1")
        return replace(target, task="binary", classes=classes, gives=gives)
    if target.task == "multilabel":
        return replace(target, gives=gives)
    if target.task == "other" or targets is None:
        return replace(target, task="other")
    if not bool(((targets >= 0) & (targets <= 1)).all()):
        low, high = float(targets.min()), float(targets.max())
        raise UsageError("labels-not-between", loss=name, low=low, high=high)
    if not are_yes_or_no(targets):
        return replace(target, task="other")  # shares: which of them are right nobody can say
    if target.layout == "dense" or target.width == 1:
        return TargetSpec("binary", ("0", "1"), name=target.name, layout=target.layout, gives=gives)
    return TargetSpec("multilabel", tuple(map(str, range(target.width))), name=target.name, gives=gives)


def quantities_or_counts(loss: nn.Module, target: TargetSpec, targets: Tensor | None) -> TargetSpec:
    """Return the target as quantities or counts, which whole numbers may be too; those in two dimensions are columns."""
    if target.task in ("regression", "other"):
        return target
    if not are_numbered(target.classes):
        raise UsageError("regression-loss-on-classes", loss=type(loss).__name__, classes=len(target.classes))
    if targets is not None and targets.dim() == 2:
        return TargetSpec("regression", width=targets.shape[1], name=target.name)
    return TargetSpec("regression", name=target.name, layout=target.layout)


def are_numbered(classes: tuple[str, ...]) -> bool:
    """Tell whether classes are called 0, 1, 2, …, as those without names are."""
    return classes == tuple(map(str, range(len(classes))))


def are_yes_or_no(targets: Tensor | None) -> bool:
    """Tell whether targets are known to be nothing but zeros and ones."""
    return targets is not None and bool(((targets == 0) | (targets == 1)).all())


def are_distributions(targets: Tensor) -> bool:
    """Tell whether targets (n, classes, …) are the probabilities of classes: from 0 on, and together 1."""
    if targets.dim() < 2 or targets.shape[1] < 2:
        return False
    return bool((targets >= 0).all() and ((targets.sum(1, dtype=torch.float64) - 1).abs() < SUMS_TO_ONE).all())


# ── what the outputs are ─────────────────────────────────────────────────────────────────────────────────────

RESHAPES = [
    "View",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Select",
    "Slice",
    "Transpose",
    "Permute",
    "Clone",
    "ToCopy",
    "Clamp",
    "T",
]
LAST = {"Sigmoid": nn.Sigmoid, "Softmax": nn.Softmax}


def last_operation(outputs: Tensor) -> str:
    """Return the name of the operation that computed the outputs, 'Sigmoid' for one, but for changes of shape; '' for none."""
    node: Any = outputs.grad_fn
    while node is not None:
        name = node.name().removeprefix("Unsafe").partition("Backward")[0]
        if name not in RESHAPES:
            return str(name)
        node = node.next_functions[0][0] if node.next_functions else None
    return ""


def tells_scale(loss: object, target: TargetSpec) -> bool:
    """Tell whether a loss alone tells what the outputs are, or nothing depends on it."""
    is_known = isinstance(loss, (nn.CrossEntropyLoss, *OF_LABELS, *OF_QUANTITIES))
    return is_known or target.task not in ("classification", "binary", "multilabel")


def with_scale(loss: object, target: TargetSpec, outputs: Tensor, last: object) -> TargetSpec:
    """Return the target with what the outputs of classes or labels are, where the loss alone does not tell.

    The operation that computed them does, and the model's last layer, or that they add up to 1.
    """
    if tells_scale(loss, target):
        return target
    operation = last_operation(outputs)
    is_last = operation in LAST or (not operation and isinstance(last, tuple(LAST.values())))
    add_up = target.task == "classification" and are_distributions(outputs.detach())
    return replace(target, gives="probabilities") if is_last or add_up else target
