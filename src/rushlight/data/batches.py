"""How samples become batches: resident (in memory, by index) or streamed (read as they are needed).

A split gives the batches of one epoch. Which samples, and in which order, is `order.py`'s word alone: it does not
depend on workers, devices or earlier epochs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from rushlight.data.order import epoch_order, sample_seed
from rushlight.data.reading import Batch as Batch  # who reads batches calls them so too
from rushlight.data.reading import Failed, Reader, Request, Source, seeded
from rushlight.data.spec import FeatureSpec, TargetSpec

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

    def batches(self, size: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of training epoch `epoch` (from 1), shuffled, leaving out the first `start` batches."""
        ...

    def in_order(self, size: int) -> Iterator[Batch]:
        """Give all samples once, unshuffled: for testing."""
        ...

    def to(self, device: torch.device) -> Split:
        """Return the split with its batches on `device`."""
        ...


ALIGNMENT = 64  # bytes: of the memory that torch allocates on the processor
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
        inputs, targets = self.inputs.to(device), self.targets.to(device)
        return ResidentSplit(inputs, targets, self.prepare, self.is_shuffled)


@dataclass(frozen=True)
class StreamedSplit:
    """Samples of a map-style dataset, read as they are needed, by worker processes or in this one.

    Whatever is random in reading a sample depends on (seed, epoch, index) alone: see `reading.py`, which `draws` and
    `together` are for.
    """

    dataset: Dataset[Any]
    finish: Callable[[Batch], Batch]  # from a collated batch to what the model receives
    workers: int = 0
    collate: Callable[[list[Any]], Any] = default_collate
    is_shuffled: bool = True
    device: torch.device = CPU
    draws: bool | None = True  # None: reading draws nothing, as far as was seen; False: it never does, in any thread
    together: bool = False  # whether the dataset's own __getitems__ gives a batch's samples
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext  # holds while it is read
    kind: str = field(default="streamed", init=False)
    source: Source = field(init=False, repr=False, compare=False)  # who reads

    def __post_init__(self) -> None:
        reader = Reader(self.dataset, self.collate, self.draws, self.together)
        object.__setattr__(self, "source", Source(reader, self.workers))

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.dataset)  # type: ignore[arg-type]  # map-style datasets have a length

    def batches(self, size: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of a training epoch, in the order of `order.py`."""
        order = epoch_order(seed, epoch, self.samples) if self.is_shuffled else torch.arange(self.samples)
        return self._read(order[start * size :].tolist(), size, seed, epoch)

    def in_order(self, size: int) -> Iterator[Batch]:
        """Give all samples once, unshuffled; what is random in them is drawn as in epoch 0."""
        return self._read(range(self.samples), size, seed=0, epoch=0)

    def _read(self, indices: Sequence[int], size: int, seed: int, epoch: int) -> Iterator[Batch]:
        requests = (Request(seed, epoch, indices[first : first + size]) for first in range(0, len(indices), size))
        with self.around(), contextlib.closing(self.source.batches(requests, self.device.type == "cuda")) as batches:
            for batch in batches:
                if isinstance(batch, Failed):
                    raise batch.error() from RuntimeError(batch.traceback)
                yield to_device(self.finish(batch), self.device)

    def to(self, device: torch.device) -> StreamedSplit:
        """Return the split with its batches moved to `device`."""
        return replace(self, device=device)


@dataclass(frozen=True)
class LoaderSplit:
    """A user's own DataLoader, used as it is: an iterable dataset, or a sampler only it understands.

    The order is the loader's. Its random draws are seeded by (seed, epoch), so an epoch repeats; leaving out the
    first batches means reading them.
    """

    loader: DataLoader[Any]
    finish: Callable[[Batch], Batch]
    device: torch.device = CPU
    kind: str = field(default="streamed", init=False)

    @property
    def samples(self) -> int | None:
        """Unknown: a sampler may repeat or leave out samples, and an iterable dataset has no length."""
        return None

    def batches(self, size: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Give the loader's batches; `size` is the loader's own business."""
        with seeded(sample_seed(seed, epoch, -1)):
            for owner in (self.loader, self.loader.sampler, self.loader.batch_sampler):
                generator = getattr(owner, "generator", None)
                if isinstance(generator, torch.Generator):
                    generator.manual_seed(sample_seed(seed, epoch, -1))
            batches = iter(self.loader)
        for number in range(10**18):
            with seeded(
                sample_seed(seed, epoch, -2 - number)
            ):  # reading in this process must not touch the step's stream
                batch = next(batches, None)
            if batch is None:
                return
            if number >= start:
                yield to_device(self.finish(batch), self.device)

    def in_order(self, size: int) -> Iterator[Batch]:
        """Give the loader's batches once."""
        return self.batches(size, seed=0, epoch=0)

    def to(self, device: torch.device) -> LoaderSplit:
        """Return the split with its batches moved to `device`."""
        return LoaderSplit(self.loader, self.finish, device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move every tensor in a batch (tuples, lists and dicts of them) to `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


@dataclass(frozen=True)
class Data:
    """Train and test splits with what a model must know of them.

    `test` is None when there is nothing to test on. `notes` are the decisions made while opening, one sentence
    each, to be said aloud. `fingerprint` is a SHA-256 over the samples (or a description, where these cannot be read).
    `features` and `target` are None when the batches are not (inputs, targets): only an `objective` can train on these.
    """

    name: str
    train: Split
    test: Split | None
    features: FeatureSpec | None
    target: TargetSpec | None
    fingerprint: str
    notes: tuple[str, ...] = ()
    batch_size: int | None = None  # a DataLoader of the user's brings its own
    examples: Tensor | None = None  # a few training inputs as stored, for the bundle


@contextlib.contextmanager
def keeping_workers(data: Data) -> Iterator[None]:
    """Let the worker processes that read the data outlive an epoch, for the block: starting them takes its time."""
    with contextlib.ExitStack() as stack:
        for split in (data.train, data.test):
            if isinstance(split, StreamedSplit):
                stack.enter_context(split.source.keep_workers())
        yield
