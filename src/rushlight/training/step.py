"""One optimizer step, and the ways to execute it.

A step takes one window: the micro-batches whose gradients make one update (one of them, unless `accumulate` says
otherwise), and returns the window's mean loss as a tensor nobody has waited for. `exact_step` is the plain loop's
own sequence of kernels; every faster way must agree with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rushlight.data.batches import CPU, Batch
from rushlight.training.objective import Objective

Step = Callable[[Sequence[Batch]], tuple[Tensor, Tensor | None]]  # window -> (mean loss, outputs of the last batch)


@dataclass(frozen=True)
class Parts:
    """What a step works on."""

    model: nn.Module
    objective: Objective
    optimizer: Optimizer
    clip_norm: float | None = None
    precision: str = "float32"
    device: torch.device = CPU


def exact_step(parts: Parts) -> Step:
    """Return the step that runs torch's eager kernels in the plain loop's order."""
    model, objective, optimizer = parts.model, parts.objective, parts.optimizer
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    parameters = [parameter for parameter in model.parameters() if id(parameter) in trained]  # those that are clipped
    compute = objective.compute if parts.precision == "float32" else in_bfloat16(parts)

    def step(window: Sequence[Batch]) -> tuple[Tensor, Tensor | None]:
        optimizer.zero_grad()
        if len(window) == 1:
            loss, outputs = compute(model, window[0])
            loss.backward()  # type: ignore[no-untyped-call]
            mean = loss.detach()
        else:
            mean, outputs = accumulate(window)
        if parts.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, parts.clip_norm)
        optimizer.step()
        return mean, outputs

    def accumulate(window: Sequence[Batch]) -> tuple[Tensor, Tensor | None]:
        """Add up the micro-batches' gradients, each by its share, so that the sum is the big batch's gradient."""
        weights = [objective.weight(batch) for batch in window]
        total = sum(weights)
        shares, outputs = [], None
        for batch, weight in zip(window, weights, strict=True):
            loss, outputs = compute(model, batch)
            if weight == 0 and total > 0:
                continue  # every target is ignored: its mean is 0 / 0, its share of the big batch's nothing
            share = loss if objective.is_sum or not total else loss * (weight / total)
            share.backward()  # type: ignore[no-untyped-call]
            shares.append(share.detach())
        return torch.stack(shares).sum(), outputs

    return step


def in_bfloat16(parts: Parts) -> Callable[[nn.Module, Batch], tuple[Tensor, Tensor | None]]:
    """Return the objective computed under autocast: products in bfloat16, parameters and their update in float32."""

    def compute(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(parts.device.type, dtype=torch.bfloat16):
            return parts.objective.compute(model, batch)

    return compute
