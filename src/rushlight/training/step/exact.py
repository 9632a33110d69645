"""One optimizer step, exactly as the plain loop takes it.

A step takes the micro-batches whose gradients make one update (one, unless `accumulate` says otherwise), and returns
their mean loss as a tensor that nobody has waited for. `exact_step` is the plain loop's own sequence of kernels; every
faster mode must agree with it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rushlight.data import CPU, Batch
from rushlight.training.objective import Objective
from rushlight.training.step.pooling import FasterMaxPool, may_pool

BACKWARD = (Tensor.backward, torch.autograd.backward)  # as torch has them

Compute = Callable[[nn.Module, Batch], tuple[Tensor, Tensor | None]]
Step = Callable[
    [Sequence[Batch]], tuple[Tensor, Tensor | None]
]  # micro-batches -> (mean loss, outputs of the last batch)


@dataclass(frozen=True)
class Parts:
    """What a step works on."""

    model: nn.Module
    objective: Objective
    optimizer: Optimizer
    clip_norm: float | None = None
    precision: str = "float32"
    device: torch.device = CPU
    skips_bad: bool = False  # look at the loss and every gradient before they are used


class NotFinite(Exception):
    """A loss or a gradient is NaN or infinite. Nothing was updated."""

    def __init__(self, what: str, loss: Tensor) -> None:
        super().__init__(what)
        self.what = what  # 'loss', or the parameter's name
        self.loss = loss


class UpdateFailed(Exception):
    """The optimizer failed; a part of the parameters may be updated already. The cause is the reason."""


def exact_step(parts: Parts) -> Step:
    """Return the step that runs torch's eager kernels in the plain loop's order.

    It raises what the model and the loss raise, before anything is updated; UpdateFailed for what the optimizer raises;
    NotFinite where `skips_bad` asks for it.
    """
    model, objective, optimizer = parts.model, parts.objective, parts.optimizer
    compute = computing(parts)

    is_plain = type(optimizer).zero_grad is Optimizer.zero_grad  # then it does what follows, and looks for a profiler

    def step(micro_batches: Sequence[Batch]) -> tuple[Tensor, Tensor | None]:
        if is_plain:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        else:
            optimizer.zero_grad()
        if len(micro_batches) == 1:
            loss, outputs = compute(model, micro_batches[0])
            backward(loss)
            mean = loss.detach()
        else:
            mean, outputs = accumulate(micro_batches)
        if parts.skips_bad:
            check_finite(mean, trained(model, optimizer))
        if parts.clip_norm is not None:
            nn.utils.clip_grad_norm_(list(trained(model, optimizer).values()), parts.clip_norm)
        try:
            optimizer.step()
        except (RuntimeError, MemoryError) as error:
            raise UpdateFailed from error
        return mean, outputs

    def accumulate(micro_batches: Sequence[Batch]) -> tuple[Tensor, Tensor | None]:
        """Add up the micro-batches' gradients, each by its share, so that the sum is the big batch's gradient."""
        weights = [objective.weight(batch) for batch in micro_batches]
        total = sum(weights)
        shares, outputs = [], None
        for batch, weight in zip(micro_batches, weights, strict=True):
            loss, outputs = compute(model, batch)
            if weight == 0 and total > 0:
                continue  # every target is ignored: its mean is 0 / 0, its share of the big batch's nothing
            share = loss if objective.is_sum or not total else loss * (weight / total)
            backward(share)
            shares.append(share.detach())
        return torch.stack(shares).sum(), outputs

    return step


def backward(loss: Tensor) -> None:
    """Do what `loss.backward()` does; for a plain number without the Python around torch's engine: 14 of the 155 µs of a small step."""
    is_plain = type(loss) is Tensor and loss.dim() == 0 and loss.is_floating_point() and loss.device == CPU
    if is_plain and can_run_engine() and not is_intercepted(loss):
        run_engine(loss)
    else:
        loss.backward()  # type: ignore[no-untyped-call]


def is_intercepted(loss: Tensor) -> bool:
    """Tell whether somebody wants to see the call itself."""
    return (Tensor.backward, torch.autograd.backward) != BACKWARD or torch.overrides.has_torch_function_unary(loss)


def run_engine(loss: Tensor) -> None:
    """Compute the gradients of a number, as `torch.autograd.backward` has torch's engine do it."""
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


@functools.cache
def can_run_engine() -> bool:
    """Tell whether this torch's engine is called as `run_engine` calls it."""
    number = torch.ones((), requires_grad=True)
    try:
        run_engine(number * 3)
    except (AttributeError, TypeError):
        return False
    return number.grad is not None and float(number.grad) == 3


def trained(model: nn.Module, optimizer: Optimizer) -> dict[str, nn.Parameter]:
    """Return the parameters of a model that an optimizer has now, by name and in the model's order."""
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in known}


def check_finite(loss: Tensor, parameters: dict[str, nn.Parameter]) -> None:
    """Raise NotFinite for a loss or a gradient that is NaN or infinite."""
    if not math.isfinite(float(loss)):
        raise NotFinite("loss", loss)
    for name, parameter in parameters.items():
        gradient = parameter.grad
        if gradient is not None and not bool(
            torch.isfinite(gradient.coalesce().values() if gradient.is_sparse else gradient).all()
        ):
            raise NotFinite(name, loss)


def computing(parts: Parts) -> Callable[[nn.Module, Batch], tuple[Tensor, Tensor | None]]:
    """Return what computes loss and outputs of a batch, in the precision that is asked for."""
    compute = parts.objective.compute if parts.precision == "float32" else in_bfloat16(parts)
    return with_faster_pooling(compute) if may_pool(parts.model) else compute


def with_faster_pooling(compute: Compute) -> Compute:
    """Return the same computation, with the same bits, whose max pooling is faster."""

    def pooled_faster(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        with FasterMaxPool():
            return compute(model, batch)

    return pooled_faster


def in_bfloat16(parts: Parts) -> Callable[[nn.Module, Batch], tuple[Tensor, Tensor | None]]:
    """Return the objective computed under autocast: products in bfloat16, parameters and their update in float32."""

    def compute(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(parts.device.type, dtype=torch.bfloat16):
            return parts.objective.compute(model, batch)

    return compute
