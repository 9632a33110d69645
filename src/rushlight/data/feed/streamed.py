"""Samples of a map-style dataset, read as they are needed."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from rushlight.data.feed.batch import Batch, note_samples, tensors_in, to_device
from rushlight.data.feed.feed import Feed, SharedFeed
from rushlight.data.feed.reading import BatchReader, BatchRequests, SeededDataset
from rushlight.data.feed.split import CPU
from rushlight.data.order import BatchIndices, WindowedOrder, Windows, epoch_order


@dataclass(frozen=True)
class StreamedSplit:
    """Samples of a map-style dataset, read as they are needed, by worker processes or in this one.

    Whatever is random in reading a sample depends on (seed, epoch, index) alone: see `reading.py`.
    """

    dataset: Dataset[Any]
    prepare: Callable[[Batch], Batch]  # from a collated batch to what the model receives
    workers: int = 0
    begin_worker: Callable[[int], object] | None = None  # a loader's worker_init_fn
    collate: Callable[[list[Any]], Any] = default_collate
    is_shuffled: bool = True
    device: torch.device = CPU
    is_random: bool | None = (
        True  # None: reading draws nothing, as far as is known; False: it never does, in any thread
    )
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext  # holds while it is read
    names: Sequence[str] | None = None  # of each sample: its file or row, for reports and errors
    windows: Windows | None = None  # what is shuffled together, where that is not all there is
    start_method: str | None = None  # of the workers, where what reads does not survive a fork
    kind: str = field(default="streamed", init=False)
    reader: BatchReader = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        samples = SeededDataset(self.dataset, self.collate, self.is_random)
        object.__setattr__(self, "reader", BatchReader(samples, self.workers, self.begin_worker, self.start_method))

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.dataset)  # type: ignore[arg-type]  # map-style datasets have a length

    def count_batches(self, size: int) -> int:
        """Return how many batches of `size` samples an epoch has; the last may be smaller."""
        return -(-self.samples // size)

    def order(self, seed: int, epoch: int) -> Tensor | WindowedOrder:
        """Return the samples' indices in the order of a training epoch."""
        if self.windows is not None:
            return self.windows.order(seed, epoch)
        return epoch_order(seed, epoch, self.samples) if self.is_shuffled else torch.arange(self.samples)

    def batches(self, size: int, *, seed: int, epoch: int, start: int = 0, rank: int = 0, processes: int = 1) -> Feed:
        """Open the batches of a training epoch, or one process's shares of them, read as they are taken."""
        feed = Feed(self._read(self._requests(seed, epoch, size, start, rank, processes)))
        return feed if processes == 1 else SharedFeed(feed, self.count_batches(size) - start)

    def in_order(self, size: int, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Give all samples once, or one process's batches, unshuffled; what is random in them is drawn as in epoch 0."""
        return self._read(BatchRequests(0, 0, cut_into_batches(range(self.samples), size)[rank::processes]))

    def _requests(self, seed: int, epoch: int, *cut: int) -> BatchRequests:
        size, _, rank, processes = cut
        indices = BatchIndices(self.order(seed, epoch), *cut)
        follow = partial(self._requests, seed, epoch + 1, size, 0, rank, processes)
        return BatchRequests(seed, epoch, indices, cut, follow if self.reader.runs_on(epoch) else None)

    def _read(self, requests: BatchRequests) -> Iterator[Batch]:
        is_card = self.device.type == "cuda"
        batches = self.reader.batches(requests, is_card)
        with self.around(), contextlib.closing(batches):
            moved = copied_ahead(batches, self.device) if is_card and self.reader.reads_ahead else batches
            # batches first: workers are kept at their end
            for batch, indices in zip(moved, requests.batches_of, strict=True):
                yield note_samples(self.prepare(to_device(batch, self.device)), len(indices))

    def to(self, device: torch.device) -> StreamedSplit:
        """Return the split with its batches moved to `device`."""
        return replace(self, device=device)


def cut_into_batches(indices: Sequence[int], size: int) -> list[Sequence[int]]:
    """Return the samples of each batch of `size`; the last may have fewer."""
    return [indices[first : first + size] for first in range(0, len(indices), size)]


def copied_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Give batches on a card, each copied while the card works on the one before; they lie in pinned memory."""
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    coming: deque[tuple[Batch, torch.cuda.Event]] = deque()

    def next_batch() -> Batch:
        batch, copied = coming.popleft()
        working = torch.cuda.current_stream(device)
        working.wait_event(copied)
        for tensor in tensors_in(batch):
            tensor.record_stream(working)
        return batch

    for batch in batches:
        with torch.cuda.stream(copying):
            moved = to_device(batch, device)
            coming.append((moved, copying.record_event()))
        if len(coming) > 1:
            yield next_batch()
    while coming:
        yield next_batch()
