"""Samples kept in memory, gathered by index a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rushlight.data.feed.batch import ALIGNMENT, Batch
from rushlight.data.order import epoch_order

GATHERED_BYTES = 1 << 18  # of small batches at once: they stay in the processor's cache


@dataclass(frozen=True)
class ResidentSplit:
    """Samples kept in memory as they are stored, taken by index and prepared a batch at a time.

    `inputs` is (n, *shape) in the stored dtype (images stay uint8), `targets` is (n,) or (n, width).
    """

    inputs: Tensor
    targets: Tensor
    prepare: Callable[[Tensor], Tensor]
    is_shuffled: bool = True
    names: Sequence[str] | None = None  # of each sample: its file or row, for reports and errors
    kind: str = field(default="resident", init=False)

    def __post_init__(self) -> None:
        # images of one channel may have the strides of channels last, which convolutions go by: another rounding
        if self.inputs.is_contiguous():
            object.__setattr__(self, "inputs", self.inputs.view(-1).view(self.inputs.shape))

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.inputs)

    def batches(
        self, size: int, *, seed: int, epoch: int, start: int = 0, together: Callable[[], int] = lambda: 1
    ) -> Iterator[Batch]:
        """Give the batches of a training epoch: gathered by index, then prepared.

        `together` is asked before each how many of them are wanted at once, one after the other in one.
        """
        order = epoch_order(seed, epoch, len(self.inputs)) if self.is_shuffled else torch.arange(len(self.inputs))
        order = order.to(self.inputs.device)
        ahead = self.gathered_together(size)
        inputs, targets = self.inputs[:0], self.targets[:0]  # gathered, from sample `first` of the epoch on
        first = at = start * size
        while at < len(order):
            count = min(together() * size, len(order) - at)
            if at + count > first + len(inputs):
                indices, first = order[at : at + max(count, ahead)], at
                # index_select is about four times faster than inputs[indices] at these sizes
                inputs, targets = self.inputs.index_select(0, indices), self.targets.index_select(0, indices)
            rows = slice(at - first, at - first + count)
            # .data: a model may write into its batch, and autograd would tie the next batch to that
            yield self.prepare(inputs[rows].data), targets[rows].data
            at += count

    def gathered_together(self, size: int) -> int:
        """Return how many samples are gathered at once: several small batches, since each gathering has its price.

        A batch lies where memory of its own would lie, at a multiple of 64 bytes: kernels may round differently elsewhere.
        """
        if not len(self.inputs) or self.inputs.device.type != "cpu":
            return size
        batch_bytes = [size * tensor[:1].nbytes for tensor in (self.inputs, self.targets)]
        is_aligned = not any(count % ALIGNMENT for count in batch_bytes)
        return size * max(1, GATHERED_BYTES // max(1, *batch_bytes)) if is_aligned else size

    def in_order(self, size: int) -> Iterator[Batch]:
        """Give all samples once. A batch has memory of its own: a model may write into it."""
        for first in range(0, len(self.inputs), size):
            raw = self.inputs[first : first + size]
            prepared = self.prepare(raw)
            yield raw.clone() if prepared is raw else prepared, self.targets[first : first + size].clone()

    def to(self, device: torch.device) -> ResidentSplit:
        """Return the split with its samples on `device`."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))
