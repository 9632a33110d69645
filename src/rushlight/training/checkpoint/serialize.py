"""How the state that comes from a checkpoint lies in memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer


def lay_out_like_parameters(optimizer: Optimizer) -> None:
    """Lay the optimizer's tensors out as their parameters: fused kernels go by memory order.

    Tensors from a checkpoint are contiguous; a parameter may be channels last.
    """
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
