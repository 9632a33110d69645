"""How samples become batches: resident (in memory, by index) or streamed (read as they are needed).

A split gives the batches of one epoch. Which samples, and in which order, is `order.py`'s word alone: it does not
depend on workers, devices or earlier epochs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from rushlight.data.feed.batch import Batch
from rushlight.data.feed.feed import Feed
from rushlight.data.order import WindowedOrder

CPU = torch.device("cpu")


class Split(Protocol):
    """The samples of one split, as batches."""

    @property
    def kind(self) -> str:
        """'resident' or 'streamed', for the run's record."""
        ...

    @property
    def samples(self) -> int | None:
        """How many samples an epoch has; None when only reading it to the end can tell."""
        ...

    @property
    def names(self) -> Sequence[str] | None:
        """The samples' names, by index: files, or rows of a table; None where they have none."""
        ...

    def count_batches(self, size: int) -> int | None:
        """Return how many batches of `size` samples an epoch has; None when only reading it to the end can tell."""
        ...

    def order(self, seed: int, epoch: int) -> Tensor | WindowedOrder | None:
        """Return the samples' indices in the order of training epoch `epoch` (from 1); None where nobody can tell."""
        ...

    def batches(self, size: int, *, seed: int, epoch: int, start: int = 0, rank: int = 0, processes: int = 1) -> Feed:
        """Open the batches of training epoch `epoch` (from 1), in its order, without the first `start` batches.

        Of several processes, each gets its share of every batch: see `share_of` in `order.py`.
        """
        ...

    def in_order(self, size: int, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Give all samples once, unshuffled: for testing. Of several processes, each gets every so many-th batch, whole."""
        ...

    def to(self, device: torch.device) -> Split:
        """Return the split with its batches on `device`."""
        ...
