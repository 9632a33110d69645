"""A user's own DataLoader, used as it is."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, get_worker_info

from rushlight.data.feed.batch import Batch, count_samples, note_samples, samples_by_form, to_device
from rushlight.data.feed.feed import Feed
from rushlight.data.feed.held import generators_in, seed_each
from rushlight.data.feed.reading import end_workers, explained_workers, seeded, shared, start_reading
from rushlight.data.feed.split import CPU
from rushlight.data.order import sample_seed


class Collated(NamedTuple):
    """A batch, and how many samples of the dataset were collated into it; None: a single sample may be a batch by itself."""

    batch: Batch
    samples: int | None


@dataclass(frozen=True)
class CountingCollate:
    """Collates as `collate` does, and counts the samples; a class, so that it can be sent to workers."""

    collate: Callable[[Any], Batch]
    counts: bool

    def __call__(self, samples: Any) -> Collated:
        """Return the batch with the number of its samples."""
        return Collated(shared(self.collate(samples)), len(samples) if self.counts else None)


def counting(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return a loader of the same batches that gives them as `Collated`; the loader itself where it has its own `__iter__`."""
    if type(loader).__iter__ is not DataLoader.__iter__:
        return loader
    clone = copy.copy(loader)
    is_counted = loader.batch_sampler is not None and loader.batch_size != 1
    clone.collate_fn = CountingCollate(loader.collate_fn, is_counted)
    return clone


def first_collated(loader: DataLoader[Any], name: str) -> tuple[Batch | None, int | None]:
    """Return a loader's first batch, None where it has none, and the number of its samples, None where that is not known."""
    with seeded(0), explained_workers(name, loader.num_workers):
        batches = start_reading(counting(with_new_workers(loader)), name)
        try:
            found = next(batches, None)
        finally:
            end_workers(batches)
    first, samples = found if isinstance(found, Collated) else (found, None)
    if samples is None:
        return first, samples_by_form(first)
    return first, samples if count_samples(note_samples(first, samples)) == samples else None


def length_of(thing: Any) -> int | None:
    """Return `len(thing)`; None where it has none."""
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None


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
        """How many samples an epoch has, as the dataset or the sampler tells; None where neither does.

        What a batch sampler of the user's own gathers is not known, nor how many samples a ready-made batch has.
        """
        batches, items = self.loader.batch_sampler, self.items
        if items is None or type(batches) is not BatchSampler:
            return None
        return items - items % batches.batch_size if batches.drop_last else items

    @property
    def items(self) -> int | None:
        """How many items the loader reads in an epoch; None where nobody can tell."""
        if isinstance(self.loader.dataset, IterableDataset):
            return length_of(self.loader.dataset)
        return length_of(getattr(self.loader.batch_sampler, "sampler", self.loader.sampler))

    def count_batches(self, size: int) -> int | None:
        """Return how many batches an epoch has; None where nobody can tell. Their size is the loader's own."""
        batches = self.loader.batch_sampler
        if batches is None:  # each item is a batch
            return self.items
        if type(batches) is not BatchSampler:
            return length_of(batches)
        return None if self.samples is None else math.ceil(self.samples / batches.batch_size)

    def order(self, seed: int, epoch: int) -> None:
        """Unknown: the order is the loader's own."""

    def batches(self, size: int, *, seed: int, epoch: int, start: int = 0, rank: int = 0, processes: int = 1) -> Feed:
        """Open the loader's batches of a training epoch; their size is the loader's own. Several processes are refused before."""
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
            batches = start_reading(counting(loader), name)
        try:
            for number in itertools.count():
                # reading in this process must not touch the step's stream
                seeds = seeded(sample_seed(seed, epoch, -2 - number), of_samples)
                with seeds, explained_workers(name, loader.num_workers):
                    found = next(batches, None)
                if found is None:
                    return
                if number < start:
                    continue
                batch, samples = found if isinstance(found, Collated) else (found, None)
                moved = to_device(self.prepare(batch), self.device)
                yield moved if samples is None else note_samples(moved, samples)
        finally:
            end_workers(batches)

    def in_order(self, size: int, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Give the loader's batches once; they are not divided, since its order may be another in each process."""
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
