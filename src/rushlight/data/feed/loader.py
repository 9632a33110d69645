"""A user's own DataLoader, used as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader

from rushlight.data.feed.batch import Batch
from rushlight.data.feed.feed import Feed
from rushlight.data.feed.reading import explained_workers, seeded, start_reading
from rushlight.data.feed.split import CPU, to_device
from rushlight.data.order import sample_seed


@dataclass(frozen=True)
class LoaderSplit:
    """A user's own DataLoader, used as it is: an iterable dataset, or a sampler only it understands.

    The order is the loader's. Its random draws are seeded by (seed, epoch), so an epoch repeats; leaving out the
    first batches means reading them.
    """

    loader: DataLoader[Any]
    prepare: Callable[[Batch], Batch]
    device: torch.device = CPU
    kind: str = field(default="streamed", init=False)
    names: None = field(default=None, init=False)  # unknown, as is the order

    @property
    def samples(self) -> int | None:
        """Unknown: a sampler may repeat or leave out samples, and an iterable dataset has no length."""
        return None

    def order(self, seed: int, epoch: int) -> None:
        """Unknown: the order is the loader's own."""

    def batches(self, size: int, *, seed: int, epoch: int, start: int = 0) -> Feed:
        """Open the loader's batches of a training epoch; their size is the loader's own."""
        return Feed(self._read(seed, epoch, start))

    def _read(self, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        name = type(self.loader.dataset).__name__
        with seeded(sample_seed(seed, epoch, -1)):
            for owner in (self.loader, self.loader.sampler, self.loader.batch_sampler):
                generator = getattr(owner, "generator", None)
                if isinstance(generator, torch.Generator):
                    generator.manual_seed(sample_seed(seed, epoch, -1))
            batches = start_reading(self.loader, name)
        for number in range(10**18):
            # reading in this process must not touch the step's stream
            with seeded(sample_seed(seed, epoch, -2 - number)), explained_workers(name, self.loader.num_workers):
                batch = next(batches, None)
            if batch is None:
                return
            if number >= start:
                yield to_device(self.prepare(batch), self.device)

    def in_order(self, size: int) -> Iterator[Batch]:
        """Give the loader's batches once."""
        return self._read(seed=0, epoch=0, start=0)

    def to(self, device: torch.device) -> LoaderSplit:
        """Return the split with its batches moved to `device`."""
        return LoaderSplit(self.loader, self.prepare, device)
