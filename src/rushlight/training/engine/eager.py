"""The eager execution modes: the optimizer's fused kernel, and images laid out channels last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from rushlight.data import Batch
from rushlight.training.step import Parts, Step, exact_step


def eager_step(parts: Parts, fused: bool, channels_last: bool) -> Step:
    """Return the exact step with the optimizer's fused kernel, or with images laid out channels last: only rounding differs."""
    execute = exact_step(parts)

    def step(micro_batches: Sequence[Batch]) -> tuple[Tensor, Tensor | None]:
        groups = parts.optimizer.param_groups  # others after a state was loaded
        before = [group.get("fused") for group in groups]
        try:
            for group in groups if fused else ():
                group["fused"] = True
            return execute([with_channels_last(batch) for batch in micro_batches] if channels_last else micro_batches)
        finally:
            for group, setting in zip(groups if fused else (), before, strict=False):
                group["fused"] = setting

    return step


def has_fused_update(optimizer: Optimizer) -> bool:
    """Tell whether torch has a kernel that updates all parameters of this optimizer at once."""
    return all(
        "fused" in group and not (group["fused"] or group.get("foreach") or group.get("differentiable"))
        for group in optimizer.param_groups
    ) and all(
        parameter.is_floating_point() and not (parameter.grad is not None and parameter.grad.is_sparse)
        for group in optimizer.param_groups
        for parameter in group["params"]
    )


def with_channels_last(batch: Batch) -> Batch:
    """Return a batch whose images have the channels of each pixel beside each other in memory."""
    inputs, *rest = batch
    if not isinstance(inputs, Tensor) or inputs.dim() != 4:
        return batch
    _, channels, height, width = inputs.shape
    if channels == 1:  # only the strides differ: that is what convolutions go by
        return inputs.contiguous().as_strided(inputs.shape, (height * width, 1, width, 1)), *rest
    return inputs.contiguous(memory_format=torch.channels_last), *rest
