"""When memory runs out in a step: the same step again in smaller pieces, with the same effective batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rushlight.data import Batch, count_samples, tensors_in

CPU_REFUSALS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out: a GPU's, or the machine's own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in CPU_REFUSALS)


def largest(micro_batches: Sequence[Batch]) -> int:
    """Return how many samples the largest micro-batch has."""
    return max(int(count_samples(batch)) for batch in micro_batches)


def split(micro_batches: Sequence[Batch], size: int) -> list[Batch]:
    """Cut micro-batches into pieces of at most `size` samples."""
    return [piece for batch in micro_batches for piece in pieces(batch, size)]


def pieces(batch: Batch, size: int) -> Iterator[Batch]:
    """Give a batch in pieces of at most `size` samples."""
    samples = int(count_samples(batch))
    for first in range(0, samples, size):
        yield rows(batch, slice(first, min(first + size, samples)), samples)


def rows(batch: Any, chosen: slice, samples: int) -> Any:
    """Return some rows of every tensor and list in a batch that has one for each sample; all else goes to every piece."""
    if isinstance(batch, Tensor):
        return batch[chosen] if batch.dim() and len(batch) == samples else batch
    if isinstance(batch, dict):
        return {key: rows(value, chosen, samples) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        if not any(True for _ in tensors_in(batch)):
            return batch[chosen] if len(batch) == samples else batch
        return type(batch)(rows(value, chosen, samples) for value in batch)
    return batch


def has_batch_norm(model: nn.Module) -> bool:
    """Tell whether a layer's result depends on which samples share its batch."""
    return any(isinstance(module, BATCH_NORMS) for module in model.modules())


class Buffers:
    """A copy of the model's buffers from before a step: a forward pass that failed has changed some of them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.places: list[tuple[nn.Module, str]] = []
        self.present: list[Tensor] = []
        self.saved: list[Tensor] = []
        self.find()

    def find(self) -> None:
        """Look up all buffers, and make room for their copies."""
        self.places = [
            (owner, name) for owner in self.model.modules() for name, kept in owner._buffers.items() if kept is not None
        ]
        self.present = [owner._buffers[name] for owner, name in self.places]  # type: ignore[misc]
        self.saved = [buffer.clone() for buffer in self.present]

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the buffers as they are now."""
        pairs = zip(self.places, self.present, strict=True)
        if any(owner._buffers.get(name) is not buffer for (owner, name), buffer in pairs):
            self.find()  # the model has put others in their place
        else:
            torch._foreach_copy_(self.saved, self.present)

    @torch.no_grad()
    def put_back(self) -> None:
        """Make the buffers what they were."""
        for (owner, name), buffer, saved in zip(self.places, self.present, self.saved, strict=True):
            owner._buffers[name] = buffer
            buffer.copy_(saved)
