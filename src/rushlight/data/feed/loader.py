"""A user's own DataLoader, used as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from rushlight.data.feed.batch import Batch
from rushlight.data.feed.feed import Feed
from rushlight.data.feed.held import generators_in, seed_each
from rushlight.data.feed.reading import explained_workers, seeded, start_reading
from rushlight.data.feed.split import CPU, to_device
from rushlight.data.order import sample_seed


@dataclass(frozen=True)
class LoaderSplit:
    """A user's own DataLoader, used as it is: an iterable dataset, or a sampler only it understands.

    The order is the loader's. The generators of the process and those that loader, samplers and dataset hold are seeded by
    (seed, epoch), and workers start anew for each epoch, so an epoch repeats; leaving out the first batches means
    reading them.
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
        loader = with_new_workers(self.loader)
        name = type(loader.dataset).__name__
        of_epoch = generators_in(loader.generator, loader.sampler, loader.batch_sampler, without=[loader.dataset])
        of_samples = [] if loader.num_workers else generators_in(loader.dataset, loader.collate_fn)
        with seeded(sample_seed(seed, epoch, -1)):
            for generator in of_epoch:
                if isinstance(generator, torch.Generator):
                    generator.manual_seed(sample_seed(seed, epoch, -1))
                else:
                    seed_each([generator], sample_seed(seed, epoch, -1))
            batches = start_reading(loader, name)
        for number in range(10**18):
            # reading in this process must not touch the step's stream
            seeds = seeded(sample_seed(seed, epoch, -2 - number), of_samples)
            with seeds, explained_workers(name, loader.num_workers):
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


def with_new_workers(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return the loader, or a copy of it whose workers start anew for each epoch, seeded by its generator.

    Workers that persist draw on from where they stopped in the epoch before, which no other process can repeat.
    """
    if not loader.num_workers:
        return loader
    has_own = bool(generators_in(loader.dataset, loader.collate_fn))
    if not (loader.persistent_workers or has_own):
        return loader
    new = copy.copy(loader)
    starts = SeedWorker(loader.collate_fn, loader.worker_init_fn)
    vars(new).update(
        persistent_workers=False, worker_init_fn=starts if has_own else loader.worker_init_fn
    )  # both fixed
    return new


@dataclass(frozen=True)
class SeedWorker:
    """Seeds the generators that a worker's copy of the dataset holds, as torch seeds the global ones; then what was given."""

    collate: Callable[[list[Any]], Any]
    given: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        """Begin the worker of this number."""
        info = get_worker_info()
        assert info is not None  # this is called in a worker
        seed_each(generators_in(info.dataset, self.collate), info.seed % 2**32)
        if self.given is not None:
            self.given(worker)
