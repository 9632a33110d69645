"""Repeats a step in smaller pieces when memory runs out, with the same effective batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rushlight.data import Batch, count_samples, split_batch

CPU_REFUSALS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out: a GPU's, or the machine's own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in CPU_REFUSALS)


def largest_size(micro_batches: Sequence[Batch]) -> int:
    """Return how many samples the largest micro-batch has."""
    return max(int(count_samples(batch)) for batch in micro_batches)


def split(micro_batches: Sequence[Batch], size: int) -> list[Batch]:
    """Cut micro-batches into pieces of at most `size` samples."""
    return [piece for batch in micro_batches for piece in split_batch(batch, size)]


class Buffers:
    """Copies the model's buffers before a step: a forward pass that fails has changed some."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.find()

    def find(self) -> None:
        """Look up all buffers, and copy them."""
        self.places = [
            (owner, name) for owner in self.model.modules() for name, kept in owner._buffers.items() if kept is not None
        ]
        self.present: list[Tensor] = [owner._buffers[name] for owner, name in self.places]  # type: ignore[misc]
        self.saved = [buffer.clone() for buffer in self.present]

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the buffers as they are now."""
        pairs = zip(self.places, self.present, strict=True)
        if any(owner._buffers.get(name) is not buffer for (owner, name), buffer in pairs):
            self.find()  # the model has replaced some
        else:
            torch._foreach_copy_(self.saved, self.present)

    @torch.no_grad()
    def restore(self) -> None:
        """Make the buffers as they were when they were copied."""
        for (owner, name), buffer, saved in zip(self.places, self.present, self.saved, strict=True):
            owner._buffers[name] = buffer
            buffer.copy_(saved)
