"""Dropout that does not depend on the number of processes.

Each process draws the mask of the whole batch, as one process would, and takes the rows of its own samples: what several
processes share otherwise, each does in full. On a card torch's own kernels draw, whose numbers depend on how they are laid out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

F = nn.functional
CHANNELS = {F.dropout: None, F.dropout1d: 3, F.dropout2d: 4, F.dropout3d: 5}  # dimensions where whole channels drop


class WholeDropout(TorchFunctionMode):
    """Replaces the dropout functions of torch within it: the samples of a batch of `samples` that this process has are `own`.

    `generator` is in the state in which one process's would be; `kernels` is the one that the kernels of a card draw from.
    What is laid out otherwise than samples first (or samples times places first) is left to torch.
    """

    def __init__(
        self, generator: torch.Generator, own: range, samples: int, kernels: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.generator, self.own, self.samples, self.kernels = generator, own, samples, kernels

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch."""
        named = kwargs or {}
        dropped = self.dropout(function, *args, **named) if function in CHANNELS else None
        return function(*args, **named) if dropped is None else dropped

    def dropout(
        self, function: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor | None:
        """Return what the function returns; None where it must be called itself."""
        places, rest = divmod(len(input) if input.dim() else 0, len(self.own))
        channels = CHANNELS[function]
        if not training or not 0 < p < 1 or rest or not places or (channels and input.dim() != channels):
            return None
        shape = [self.samples * places, *input.shape[1:]]
        if channels:
            shape[2:] = [1] * (channels - 2)
        if self.kernels is None:  # as torch does on the processor: Bernoulli numbers, divided by the share that stays
            mask = torch.empty(shape, dtype=input.dtype).bernoulli_(1 - p, generator=self.generator).div_(1 - p)
        else:
            before = self.kernels.graphsafe_get_state()
            self.kernels.graphsafe_set_state(self.generator)
            try:
                mask = function(torch.ones(shape, dtype=input.dtype, device=input.device), p, True)
            finally:  # memory may run out, and the step is done again in pieces
                self.kernels.graphsafe_set_state(before)
        mask = mask[self.own.start * places : self.own.stop * places]
        return input.mul_(mask) if inplace else input * mask
