"""Samples kept in memory, gathered by index a batch at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rushlight.data.feed.augment import Augment
from rushlight.data.feed.batch import ALIGNMENT, Batch
from rushlight.data.feed.feed import Feed, SharedFeed
from rushlight.data.order import epoch_order, shared_order

GATHERED_BYTES = 1 << 18  # of small batches at once: they stay in the processor's cache


class ResidentFeed(Feed):
    """Batches gathered by index from a split in memory; small ones several at once, since each gathering has its price.

    A batch lies where memory of its own would lie, at a multiple of 64 bytes: kernels may round differently elsewhere.
    """

    def __init__(
        self, split: ResidentSplit, order: Tensor, size: int, at: int,
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.split, self.indices, self.size, self.augment = split, order, size, augment
        self.at = self.first = at  # the next sample of the epoch; the first of those that are gathered
        self.inputs, self.targets = split.inputs[:0], split.targets[:0]  # gathered
        self.joins = max(1, len(order) // size)
        batch_bytes = [size * tensor[:1].nbytes for tensor in (split.inputs, split.targets)]
        is_aligned = split.inputs.device.type == "cpu" and not any(count % ALIGNMENT for count in batch_bytes)
        self.ahead = max(1, GATHERED_BYTES // max(1, *batch_bytes)) if is_aligned else 1

    def take(self, count: int = 1) -> Batch | None:
        """Return the next `count` batches as one, shorter where the epoch ends; None after its last."""
        wanted = min(count * self.size, len(self.indices) - self.at)
        if wanted <= 0:
            return None
        if self.at + wanted > self.first + len(self.inputs):
            self.gather(max(wanted, self.ahead * self.size))
        rows = slice(self.at - self.first, self.at - self.first + wanted)
        self.at += wanted
        # .data: a model may write into its batch, and autograd would tie the next batch to that
        raw = self.inputs[rows].data
        if self.augment is not None:
            raw = self.augment(raw, self.indices[self.at - wanted : self.at])
        return self.split.prepare(raw), self.targets[rows].data

    def gather(self, samples: int) -> None:
        """Gather the next samples."""
        indices, self.first = self.indices[self.at : self.at + samples], self.at
        # index_select is about four times faster than inputs[indices] at these sizes
        self.inputs = self.split.inputs.index_select(0, indices)
        self.targets = self.split.targets.index_select(0, indices)

    def close(self) -> None:
        """Nothing is read ahead that would have to stop."""


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
    augment: Augment | None = None  # of images, in training
    kind: str = field(default="resident", init=False)

    def __post_init__(self) -> None:
        # images of one channel may have the strides of channels last, which convolutions go by: another rounding
        if self.inputs.is_contiguous():
            object.__setattr__(self, "inputs", self.inputs.view(-1).view(self.inputs.shape))

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.inputs)

    def count_batches(self, size: int) -> int:
        """Return how many batches of `size` samples an epoch has; the last may be smaller."""
        return -(-self.samples // size)

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return the samples' indices in the order of a training epoch."""
        return epoch_order(seed, epoch, len(self.inputs)) if self.is_shuffled else torch.arange(len(self.inputs))

    def batches(self, size: int, *, seed: int, epoch: int, start: int = 0, rank: int = 0, processes: int = 1) -> Feed:
        """Open the batches of a training epoch, or one process's shares of them: gathered by index, then prepared."""
        augment = None if self.augment is None else functools.partial(self.augment, seed=seed, epoch=epoch)
        order, own = shared_order(self.order(seed, epoch), size, rank, processes)
        feed = ResidentFeed(self, order.to(self.inputs.device), own, start * own, augment)
        return feed if processes == 1 else SharedFeed(feed, self.count_batches(size) - start)

    def in_order(self, size: int, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Give all samples once, or one process's batches. A batch has memory of its own: a model may write into it."""
        for first in range(rank * size, len(self.inputs), processes * size):
            raw = self.inputs[first : first + size]
            prepared = self.prepare(raw)
            yield raw.clone() if prepared is raw else prepared, self.targets[first : first + size].clone()

    def to(self, device: torch.device) -> ResidentSplit:
        """Return the split with its samples on `device`."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))
