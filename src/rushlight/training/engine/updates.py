"""States optimizers' updates as formulas over tensors, for steps executed as one piece.

Each rule restates the documented formula of the torch.optim class of the same name. What changes from step to step and
is no tensor (the learning rate, Adam's corrections for its first steps) is computed in Python, in the way torch does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Group = dict[str, Any]  # an entry of optimizer.param_groups
Rates = list[float]  # the learning rates of one step, for each group
NUMBERS = 3  # how many numbers a step has for each group, at the most


@dataclass(frozen=True)
class Rule:
    """How one class of optimizers updates a parameter.

    `slots(group)` names the tensors it keeps for each parameter. `numbers(group, step)` gives the `NUMBERS` numbers that step
    `step` (from 1) is computed with. `update(group, numbers, parameter, gradient, slots)` returns the new parameter
    and the new slots.
    """

    slots: Callable[[Group], tuple[str, ...]]
    numbers: Callable[[Group, int], tuple[float, ...]]
    update: Callable[[Group, Tensor, Tensor, Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]
    counts: bool  # whether the state counts each parameter's steps, in "step"


def rule_of(optimizer: Optimizer) -> Rule | None:
    """Return the rule of an optimizer; None where its class or a setting has none here."""
    rule = RULES.get(type(optimizer))
    plain = all(
        isinstance(group["lr"], (int, float))
        and not any(group.get(setting) for setting in ("amsgrad", "capturable", "differentiable"))
        and not any(isinstance(value, Tensor) for value in (*group.values(), *group.get("betas", ())))
        for group in optimizer.param_groups
    )
    return rule if plain else None


def sgd_update(
    group: Group, numbers: Tensor, parameter: Tensor, gradient: Tensor, slots: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Update by gradient descent with momentum (Sutskever et al. 2013), as torch documents it."""
    if group["maximize"]:
        gradient = -gradient
    if group["weight_decay"]:
        gradient = gradient + group["weight_decay"] * parameter
    if slots:
        moved = group["momentum"] * slots[0] + (1 - group["dampening"]) * gradient
        gradient = gradient + group["momentum"] * moved if group["nesterov"] else moved
        slots = [moved]
    return parameter - numbers[0] * gradient, slots


def adam_update(
    group: Group, numbers: Tensor, parameter: Tensor, gradient: Tensor, slots: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Update by Adam (arXiv:1412.6980) or AdamW (arXiv:1711.05101), as torch documents them."""
    rate, first_correction, second_correction = numbers[0], numbers[1], numbers[2]
    first, second = group["betas"]
    if group["maximize"]:
        gradient = -gradient
    if group["weight_decay"]:
        if is_decoupled(group):
            parameter = parameter * (1 - rate * group["weight_decay"])
        else:
            gradient = gradient + group["weight_decay"] * parameter
    mean = slots[0] + (1 - first) * (gradient - slots[0])
    square = second * slots[1] + (1 - second) * gradient * gradient
    divisor = square.sqrt() / second_correction + group["eps"]
    return parameter - (rate / first_correction) * (mean / divisor), [mean, square]


def is_decoupled(group: Group) -> bool:
    """Tell whether a group's weight decay shrinks its parameters, as AdamW's, rather than adding to their gradients."""
    return bool(group.get("decoupled_weight_decay"))


SGD = Rule(
    lambda group: ("momentum_buffer",) if group["momentum"] else (),
    lambda group, step: (group["lr"], 0.0, 0.0),
    sgd_update,
    counts=False,
)
ADAM = Rule(
    lambda group: ("exp_avg", "exp_avg_sq"),
    # the learning rate, the first moment's correction, the root of the second's
    lambda group, step: (group["lr"], 1 - group["betas"][0] ** step, math.sqrt(1 - group["betas"][1] ** step)),
    adam_update,
    counts=True,
)
# torch before 2.7 has no setting that tells AdamW from Adam
ADAMW = replace(ADAM, update=lambda group, *others: adam_update({**group, "decoupled_weight_decay": True}, *others))
RULES: dict[type[Optimizer], Rule] = {torch.optim.SGD: SGD, torch.optim.Adam: ADAM, torch.optim.AdamW: ADAMW}


def clipped(gradients: list[Tensor], greatest: float) -> list[Tensor]:
    """Scale gradients to a norm of at most `greatest`, as torch documents clip_grad_norm_."""
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    factor = (greatest / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
    return [gradient * factor for gradient in gradients]
