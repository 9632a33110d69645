"""How samples become batches: resident (in memory, by index) or streamed (read as they are needed).

A split gives the batches of one epoch. Which samples, and in which order, is `order.py`'s word alone: it does not
depend on workers, devices or earlier epochs.
"""

from __future__ import annotations

import random
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from rushlight.data.order import epoch_order, sample_seed
from rushlight.data.spec import FeatureSpec, TargetSpec
from rushlight.errors import DataError, RushlightError

CPU = torch.device("cpu")

Batch = Any  # usually (inputs, targets), both tensors; whatever a user's own loader or collate gives otherwise


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

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.inputs)

    def batches(self, size: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of a training epoch: gathered by index, then prepared."""
        order = epoch_order(seed, epoch, len(self.inputs)) if self.is_shuffled else torch.arange(len(self.inputs))
        order = order.to(self.inputs.device)
        inputs, targets, prepare = self.inputs, self.targets, self.prepare
        for first in range(start * size, len(order), size):
            indices = order[first : first + size]
            # index_select is about four times faster than inputs[indices] at these sizes
            yield prepare(inputs.index_select(0, indices)), targets.index_select(0, indices)

    def in_order(self, size: int) -> Iterator[Batch]:
        """Give all samples once, as slices."""
        for first in range(0, len(self.inputs), size):
            yield self.prepare(self.inputs[first : first + size]), self.targets[first : first + size]

    def to(self, device: torch.device) -> ResidentSplit:
        """Return the split with its samples on `device`."""
        inputs, targets = self.inputs.to(device), self.targets.to(device)
        return ResidentSplit(inputs, targets, self.prepare, self.is_shuffled)


@dataclass(frozen=True)
class StreamedSplit:
    """Samples of a map-style dataset, read as they are needed, by worker processes or in this one.

    Whatever is random in reading sample `index` in epoch `epoch` is drawn from generators (Python's, NumPy's and
    torch's) seeded by (seed, epoch, index), so augmentation does not depend on the workers.
    """

    dataset: Dataset[Any]
    finish: Callable[[Batch], Batch]  # from a collated batch to what the model receives
    workers: int = 0
    collate: Callable[[list[Any]], Any] = default_collate
    is_shuffled: bool = True
    device: torch.device = CPU
    kind: str = field(default="streamed", init=False)

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
        groups = [list(indices[first : first + size]) for first in range(0, len(indices), size)]
        loader = DataLoader(
            SeededReads(self.dataset, seed, epoch),
            batch_sampler=groups,
            collate_fn=CollatedReads(self.collate, type(self.dataset).__name__),
            num_workers=self.workers,
            generator=torch.Generator(),  # else the loader draws from the global stream, which belongs to the step
            pin_memory=self.device.type == "cuda",
            worker_init_fn=ignore_interrupt,
        )
        for batch in loader:
            if isinstance(batch, Failed):
                raise batch.error() from RuntimeError(batch.traceback)
            yield to_device(self.finish(batch), self.device)

    def to(self, device: torch.device) -> StreamedSplit:
        """Return the split with its batches moved to `device`."""
        return StreamedSplit(self.dataset, self.finish, self.workers, self.collate, self.is_shuffled, device)


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


class SeededReads(Dataset[Any]):
    """A map-style dataset whose every read is seeded by (seed, epoch, index)."""

    def __init__(self, dataset: Dataset[Any], seed: int, epoch: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __getitem__(self, index: int) -> Any:
        with seeded(sample_seed(self.seed, self.epoch, index)):
            try:
                return self.dataset[index]
            except Exception as error:
                return failed(error, type(self.dataset).__name__, index)


class CollatedReads:
    """Collates what `SeededReads` read. What went wrong takes the batch's place."""

    def __init__(self, collate: Callable[[list[Any]], Any], name: str) -> None:
        self.collate, self.name = collate, name

    def __call__(self, samples: list[Any]) -> Any:
        """Return the batch, or the first failure among its samples, or that of collating them."""
        failure = next((sample for sample in samples if isinstance(sample, Failed)), None)
        if failure is not None:
            return failure
        try:
            return self.collate(samples)
        except Exception as error:
            return not_collated(error, self.name, samples)


@dataclass(frozen=True)
class Failed:
    """Why samples could not be read: plain values, since an exception itself may not survive the way from a worker."""

    kind: type[RushlightError]
    key: str
    values: dict[str, Any]
    traceback: str

    def error(self) -> RushlightError:
        """Return the error to raise."""
        return self.kind(self.key, **self.values)


def failed(error: Exception, name: str, index: int) -> Failed:
    """Return the failure to read sample `index` of the dataset called `name`."""
    text = traceback.format_exc()
    if isinstance(error, RushlightError):
        values = {key: value if isinstance(value, (int, float)) else str(value) for key, value in error.values.items()}
        return Failed(type(error), error.key, values, text)
    reason = f"{type(error).__name__}: {error}"
    return Failed(DataError, "sample-failed", {"data": name, "index": index, "reason": reason}, text)


def not_collated(error: Exception, name: str, samples: list[Any]) -> Failed:
    """Return the failure to stack samples of the dataset called `name`: most often their shapes differ."""
    found = list(dict.fromkeys(str(shapes_in(sample)) for sample in samples))
    if len(found) > 1:
        reason = f"found {found[0]} and {found[1]}"
        return Failed(DataError, "unequal-samples", {"data": name, "reason": reason}, traceback.format_exc())
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return Failed(DataError, "samples-not-batchable", {"data": name, "reason": reason}, traceback.format_exc())


def shapes_in(sample: Any) -> Any:
    """Return a sample with the shape of every tensor or array in its place, and the type of all else."""
    if isinstance(sample, (Tensor, np.ndarray)):
        return tuple(sample.shape)
    if isinstance(sample, (tuple, list)):
        return tuple(map(shapes_in, sample))
    if isinstance(sample, dict):
        return {key: shapes_in(value) for key, value in sample.items()}
    return type(sample).__name__


def ignore_interrupt(worker: int) -> None:
    """Leave Ctrl-C, which reaches every process of the terminal, to the main process: it still needs its batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class seeded:  # reads as a word in `with seeded(…):`
    """Seed Python's, NumPy's and torch's CPU generators for a block, then put them back as they were."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(self.seed)
        np.random.seed(self.seed)
        torch.default_generator.manual_seed(self.seed)

    def __exit__(self, *exception: object) -> None:
        python, numpy, torch_state = self.before
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)


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
