"""One optimizer step, exactly as the plain loop executes it.

A step takes the micro-batches whose gradients make one update (one, unless `accumulate` says otherwise), and returns
their mean loss as a tensor that nobody has waited for. `exact_step` is the plain loop's own sequence of kernels; every
faster mode must agree with it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from rushlight.data import CPU, Batch
from rushlight.errors import UsageError
from rushlight.training.distributed import Shards
from rushlight.training.objective import Objective, Told, held_parameters, named_parameters, read_answer
from rushlight.training.step.pooling import FasterMaxPool, may_pool

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
BACKWARD = (Tensor.backward, torch.autograd.backward)  # as torch has them

Compute = Callable[[nn.Module, Batch], tuple[Tensor, Any]]
Step = Callable[[Sequence[Batch]], tuple[Tensor, Any]]  # micro-batches -> (mean loss, the last one's outputs)


@dataclass(frozen=True)
class Parts:
    """The objects that a step works on."""

    model: nn.Module
    objective: Objective
    optimizer: Optimizer
    clip_norm: float | None = None
    precision: str = "float32"
    device: torch.device = CPU
    skips_bad: bool = False  # whether the loss and every gradient are checked before they are used
    scaler: GradScaler | None = None  # in float16
    shards: Shards | None = None  # this process's rows of the model, where it is divided


class NotFinite(Exception):
    """A loss or a gradient is NaN or infinite. Nothing was updated."""

    def __init__(self, what: str, loss: Tensor) -> None:
        super().__init__(what)
        self.what = what  # 'loss', or the parameter's name
        self.loss = loss


class UpdateFailed(Exception):
    """The optimizer failed; some parameters may be updated already. The cause is the reason."""


def exact_step(parts: Parts) -> Step:
    """Return the step that runs torch's eager kernels in the plain loop's order.

    It raises what the model and the loss raise, before anything is updated; UpdateFailed for what the optimizer raises;
    NotFinite where `skips_bad` asks for it.
    """
    model, objective, optimizer = parts.model, parts.objective, parts.optimizer
    if objective.step is not None:
        return own_step(objective.step, objective.told)
    compute, scaler = computing(parts), parts.scaler
    go_back = backward if scaler is None else lambda loss: backward(scaler.scale(loss))
    is_plain = type(optimizer).zero_grad is Optimizer.zero_grad  # then it does what follows, and asks for a profiler

    def step(micro_batches: Sequence[Batch]) -> tuple[Tensor, Any]:
        if is_plain:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        else:
            optimizer.zero_grad()
        if len(micro_batches) == 1:
            loss, outputs = compute(model, micro_batches[0])
            go_back(loss)
            mean = loss.detach()
        else:
            mean, outputs = accumulate(micro_batches)
        update(parts, mean)
        return mean, outputs

    def accumulate(micro_batches: Sequence[Batch]) -> tuple[Tensor, Any]:
        """Add up the micro-batches' gradients, each by its share of the whole batch."""
        if objective.told is not None:
            return accumulate_told(micro_batches, objective.told)
        weights = [objective.weight(batch) for batch in micro_batches]
        total = sum(weights)
        shares, outputs = [], None
        for batch, weight in zip(micro_batches, weights, strict=True):
            loss, outputs = compute(model, batch)
            if weight == 0 and total > 0:
                continue  # every target is ignored: its mean is 0 / 0, its share of the big batch's nothing
            share = loss if objective.is_sum or not total else loss * (weight / total)
            go_back(share)
            shares.append(share.detach())
        return torch.stack(shares).sum(), outputs

    def accumulate_told(micro_batches: Sequence[Batch], told: Told) -> tuple[Tensor, Any]:
        """Do so for an objective, which may tell each weight only with its loss; the whole is divided in the end."""
        samples = sum(map(objective.weight, micro_batches))
        shares, outputs = [], None
        for batch in micro_batches:
            loss, outputs = compute(model, batch)
            weight, is_told, _ = told.batches[-1]
            if weight == 0:
                continue  # nothing in it counts: its mean is 0 / 0
            share = loss * (weight if is_told else weight / samples)
            go_back(share)
            shares.append(share.detach())
        are_told = {is_told for _, is_told, _ in told.batches}
        if len(are_told) > 1:
            raise UsageError("objective-weighs-some")
        total = sum(weight for weight, _, _ in told.batches) if are_told == {True} else 1.0
        if total not in (0.0, 1.0):
            for parameter in trained(parts).values():
                if parameter.grad is not None:
                    parameter.grad.div_(total)
        return torch.stack(shares).sum() / total if shares else loss.detach(), outputs

    return step


def update(parts: Parts, mean: Tensor) -> None:
    """Update the parameters by their gradients, once these are checked and clipped where that was asked for.

    Raises:
        NotFinite: the loss `mean` or a gradient is not finite, and the recipe leaves such steps out.
        UpdateFailed: the optimizer failed.
    """
    optimizer, scaler = parts.optimizer, parts.scaler
    if parts.skips_bad:
        check_finite_step(mean, trained(parts) if scaler is None else {})
    if scaler is not None:
        scaler.unscale_(optimizer)
    if parts.clip_norm is not None and parts.shards is None:
        nn.utils.clip_grad_norm_(list(trained(parts).values()), parts.clip_norm)
    elif parts.clip_norm is not None and parts.shards is not None:
        rows = list(trained(parts).values())
        nn.utils.clip_grads_with_norm_(rows, parts.clip_norm, parts.shards.norm(rows))
    try:
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    except (RuntimeError, MemoryError) as error:
        raise UpdateFailed from error


def own_step(function: Callable[[Batch], Any], told: Told | None) -> Step:
    """Return the step that a function of the user's does: forward, backward, and the updates of its optimizers."""

    def step(micro_batches: Sequence[Batch]) -> tuple[Tensor, Any]:
        try:
            answer = read_answer(function(micro_batches[0]))
        except (RuntimeError, MemoryError) as error:
            raise UpdateFailed from error
        assert told is not None
        told.add(answer, micro_batches[0])
        return answer.loss.detach(), answer.outputs

    return step


def backward(loss: Tensor) -> None:
    """Call `loss.backward()`, or for a plain number torch's engine: a tenth of a small step.

    Whoever has replaced torch's functions wants to see the call itself.
    """
    is_plain = type(loss) is Tensor and loss.dim() == 0 and loss.is_floating_point() and loss.device == CPU
    is_intercepted = (Tensor.backward, torch.autograd.backward) != BACKWARD
    if is_plain and can_run_engine() and not (is_intercepted or torch.overrides.has_torch_function_unary(loss)):
        run_engine(loss)
    else:
        loss.backward()  # type: ignore[no-untyped-call]


def run_engine(loss: Tensor) -> None:
    """Compute the gradients of a number, as `torch.autograd.backward` has torch's engine do it."""
    run = torch.autograd.Variable._execution_engine.run_backward
    run((loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True)


@functools.cache
def can_run_engine() -> bool:
    """Tell whether this torch's engine is called as `run_engine` calls it."""
    number = torch.ones((), requires_grad=True)
    try:
        run_engine(number * 3)
    except (AttributeError, TypeError):
        return False
    return number.grad is not None and float(number.grad) == 3


def trained(parts: Parts) -> dict[str, nn.Parameter]:
    """Return the parameters that the optimizer has now, by name, in the order of the model and its loss."""
    known = set(map(id, held_parameters(parts.optimizer)))
    named = named_parameters(parts.model, parts.objective.loss) if parts.shards is None else parts.shards.parameters
    return {name: parameter for name, parameter in named.items() if id(parameter) in known}


def check_finite_step(loss: Tensor, parameters: dict[str, nn.Parameter]) -> None:
    """Raise NotFinite for a loss or a gradient that is NaN or infinite."""
    if not math.isfinite(float(loss)):
        raise NotFinite("loss", loss)
    for name, parameter in parameters.items():
        gradient = parameter.grad
        if gradient is not None and gradient.is_sparse:
            gradient = gradient.coalesce().values()
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            raise NotFinite(name, loss)


def computing(parts: Parts) -> Compute:
    """Return the function that computes loss and outputs, in the recipe's precision.

    In bfloat16 and float16 the products are, under autocast; parameters and their update stay in float32.
    """
    compute = parts.objective.compute
    if (dtype := HALVES.get(parts.precision)) is not None:
        compute = within(lambda: torch.autocast(parts.device.type, dtype=dtype), compute)
    return within(FasterMaxPool, compute) if may_pool(parts.model) else compute


def within(context: Callable[[], AbstractContextManager[Any]], compute: Compute) -> Compute:
    """Return the same computation within a context."""

    def computed(model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        with context():
            return compute(model, batch)

    return computed
