"""How samples of a map-style dataset are read into batches: with which random numbers, and by which processes.

Whatever is random in reading sample `index` in epoch `epoch` is drawn from generators (Python's, NumPy's and torch's)
seeded by (seed, epoch, index). Seeding costs some microseconds a sample and excludes reading a whole batch at once. So a
dataset that is not known to draw is read without; a batch in whose reading a generator moved is read again with its
seeds, and so is every later one. The batches are the same either way.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import multiprocessing
import os
import pickle
import random
import signal
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from rushlight.data.feed.batch import Batch, pinned, tensors_in
from rushlight.data.feed.held import are_equal, generators_in, seed_each, set_state, state_of
from rushlight.data.order import sample_seed
from rushlight.device import usable_cores
from rushlight.errors import DataError, RushlightError, UsageError
from rushlight.texts import Note

AHEAD = 2  # batches that threads read before they are asked for
MOST_THREADS = 8
ALIVE_SECONDS = 0.5  # between two looks whether the workers live


# ── in this process or in a worker ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class BatchRequest:
    """The samples of one batch, and the seed and epoch that the random numbers of reading them depend on."""

    seed: int
    epoch: int
    indices: Sequence[int]


@dataclass
class BatchRequests:
    """The requests of an epoch, each made when it is asked for; iterating runs on into the epochs that follow.

    Those of one split are equal where they ask for the same batches.
    """

    seed: int
    epoch: int
    batches_of: Sequence[Sequence[int]] = field(compare=False)
    cut: tuple[int, ...] = ()  # batch size, first batch, rank, processes
    follow: Callable[[], BatchRequests] | None = field(default=None, compare=False)  # makes the next epoch's
    next: BatchRequests | None = field(default=None, init=False, compare=False)  # the next epoch's, once reached

    def __len__(self) -> int:
        return len(self.batches_of)

    def __iter__(self) -> Iterator[BatchRequest]:
        requests: BatchRequests | None = self
        while requests is not None:
            for indices in requests.batches_of:
                yield BatchRequest(requests.seed, requests.epoch, indices)
            if requests.follow is not None:
                requests.next = requests.follow()
            requests = requests.next


@dataclass(frozen=True)
class ReadError:
    """An error of ours as plain values: an exception itself may not survive being sent by a worker."""

    kind: type[RushlightError]
    key: str
    values: dict[str, Any]
    traceback: str


class SeededDataset(Dataset[Any]):
    """Batches of a map-style dataset, as torch's DataLoader asks for them: one `BatchRequest`, one collated batch.

    `is_random` tells whether reading a sample draws random numbers; None: not as far as is known. Where it never does
    (False) threads may read too.
    """

    def __init__(
        self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any], is_random: bool | None = True
    ) -> None:
        self.dataset, self.collate, self.is_random = dataset, collate, is_random
        self.own: list[Any] | None = None  # generators of the dataset's own; None: not sought yet

    def __getitems__(self, request: BatchRequest) -> Any:
        """Return the batch, or the ReadError of one of its samples."""
        try:
            return self.read(request)
        except RushlightError as error:
            plain = (int, float, Note)
            values = {key: value if isinstance(value, plain) else str(value) for key, value in error.values.items()}
            return ReadError(type(error), error.key, values, traceback.format_exc())

    def read(self, request: BatchRequest) -> Any:
        """Return the collated batch; DataError where a sample cannot be read or stacked."""
        return collated(self.samples(request), self.collate, type(self.dataset).__name__)

    def samples(self, request: BatchRequest) -> list[Any]:
        """Return the samples of a batch, with their seeds where reading them draws."""
        if self.is_random is False:
            return read_samples(self.dataset, request.indices)
        if self.own is None:
            self.own = generators_in(self.dataset)
        before = generator_states(self.own)
        try:
            if self.is_random is None:
                samples = read_samples(self.dataset, request.indices)
                if are_same(before, generator_states(self.own)):
                    return samples
                self.is_random = True
            samples = []
            for index in request.indices:
                seed_generators(sample_seed(request.seed, request.epoch, index), self.own)
                samples.append(read_sample(self.dataset, index))
            return samples
        finally:
            put_back(before, self.own)  # also where a signal ends the reading: the states are saved in checkpoints


def read_sample(dataset: Any, index: int) -> Any:
    """Return one sample; DataError with the dataset's name and the index where it cannot be read."""
    try:
        return dataset[index]
    except RushlightError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError("sample-failed", data=type(dataset).__name__, index=index, reason=reason) from error


def read_samples(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """Return the samples at `indices`, by the dataset's own `__getitems__` where it has one, as torch's loader does."""
    if not callable(getattr(dataset, "__getitems__", None)):
        return [read_sample(dataset, index) for index in indices]
    cause: Exception | None = None
    try:
        samples = list(dataset.__getitems__(list(indices)))
        if len(samples) == len(indices):
            return samples
        reason: str = Note("data.gave-other-count", given=len(samples), count=len(indices))
    except Exception as error:
        cause, reason = error, f"{type(error).__name__}: {error}"
    for index in indices:
        read_sample(dataset, index)  # raises for the sample that fails, if it is one
    raise DataError(
        "samples-failed-together", data=type(dataset).__name__, count=len(indices), first=indices[0], reason=reason
    ) from cause


def collated(samples: list[Any], collate: Callable[[list[Any]], Any], name: str) -> Any:
    """Return the batch of these samples; DataError when they cannot be stacked, most often by their shapes."""
    try:
        return shared(collate(samples))
    except Exception as error:
        if isinstance(error, RuntimeError):
            check_shared_memory(error, name)
        found = list(dict.fromkeys(str(shapes_in(sample)) for sample in samples))
        if len(found) > 1:
            two = Note("data.found-two", first=found[0], second=found[1])
            raise DataError("unequal-samples", data=name, reason=two) from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError("samples-not-batchable", data=name, reason=reason) from error


def shared(batch: Batch) -> Batch:
    """Return a batch, in a worker with its tensors in shared memory: a thread of torch's that fails at it only prints."""
    if get_worker_info() is not None:
        for tensor in tensors_in(batch):
            if tensor.layout is torch.strided and tensor.device.type == "cpu":
                tensor.share_memory_()  # type: ignore[no-untyped-call]
    return batch


def check_shared_memory(error: Exception, name: str) -> None:
    """Raise DataError for an error that comes of full shared memory, in which workers give their batches."""
    reason, no_space = str(error).strip(), os.strerror(errno.ENOSPC)
    is_full = ("</torch_" in reason and no_space in reason) or ("(pid" in reason and "Bus error" in reason)
    if is_full or getattr(error, "errno", None) == errno.ENOSPC:
        raise DataError("shared-memory-full", data=name, reason=reason.splitlines()[-1]) from error


def shapes_in(sample: Any) -> Any:
    """Return a sample with the shape of every tensor or array in its place, and the type of all else."""
    if isinstance(sample, (Tensor, np.ndarray)):
        return tuple(sample.shape)
    if isinstance(sample, (tuple, list)):
        return tuple(map(shapes_in, sample))
    if isinstance(sample, dict):
        return {key: shapes_in(value) for key, value in sample.items()}
    return type(sample).__name__


# ── by this process, by threads, by workers ──────────────────────────────────────────────────────────────────


@dataclass
class Reading:
    """Batches that are read before they are asked for; it may outlive its epoch."""

    given: bytes | None  # the workers' key
    batches: Iterator[Any]
    loader: DataLoader[Any] | None  # None: read by threads
    coming: BatchRequests | None = None  # the next epoch's, where they are being read; None: the workers wait

    def end(self) -> None:
        """End the workers or threads."""
        end_workers(self.batches)
        if isinstance(self.batches, Generator):
            self.batches.close()


class BatchReader:
    """Reads the batches that are asked for: in this process, by threads of it, or by worker processes.

    Inside `keep_workers` the workers of an epoch that was read to its end read the next one too, if new ones would
    be given the same dataset: who owns the loop may change it between two epochs. Files that never change are read on
    into the next epoch, up to the last one, while the steps of this one and its test still run.
    """

    def __init__(
        self,
        samples: SeededDataset,
        workers: int,
        begin_worker: Callable[[int], object] | None = None,
        start_method: str | None = None,
    ) -> None:
        check_main_guard(workers)
        self.samples, self.workers, self.begin_worker = samples, workers, begin_worker
        self.start_method = start_method  # of the workers; None: the usual one
        self.keeps, self.last_epoch = False, 0
        self.kept: Reading | None = None

    def batches(self, requests: BatchRequests, is_pinned: bool) -> Generator[Any]:
        """Give the batches in the order of the requests; `is_pinned`: those read ahead in memory that a GPU reads fast.

        Raises:
            DataError: a sample cannot be read, or a worker cannot be started or died.
        """
        if self.reads_ahead:
            return self.ahead(requests, is_pinned)
        return (self.samples.read(request) for request in requests)

    @property
    def reads_ahead(self) -> bool:
        """Whether batches are read before they are asked for."""
        return self.workers > 0 or (self.samples.is_random is False and usable_cores() > 1)

    def runs_on(self, epoch: int) -> bool:
        """Tell whether reading this epoch runs on into the next one."""
        return self.reads_ahead and self.samples.is_random is False and epoch < self.last_epoch

    def ahead(self, requests: BatchRequests, is_pinned: bool) -> Generator[Any]:
        """Give the batches, read by threads or workers, which may have begun with them in the epoch before."""
        name, given = type(self.samples.dataset).__name__, self.workers_key() if self.keeps else None
        reading, self.kept = self.kept, None
        if reading is not None and (reading.given != given or reading.coming not in (None, requests)):
            reading.end()
            reading = None
        if reading is None:
            reading = self.begin(requests, is_pinned, given)
        elif reading.coming is not None:
            requests = reading.coming
        elif reading.loader is not None:
            vars(reading.loader.batch_sampler).update(vars(requests))
            requests = reading.loader.batch_sampler  # type: ignore[assignment]  # it is what `begin` gave
            reading.batches = start_reading(reading.loader, name)
        try:
            for _ in range(len(requests)):
                with explained_workers(name, self.workers):
                    batch = next(reading.batches)
                if isinstance(batch, ReadError):
                    raise batch.kind(batch.key, **batch.values) from RuntimeError(batch.traceback)
                yield batch
            reading.coming, requests.next = requests.next, None  # else each epoch's would hold all later ones
            if reading.coming is None:
                next(reading.batches, None)  # its end: only then are the workers idle
            if self.keeps and given is not None and (self.workers or reading.coming is not None):
                self.kept = reading
        finally:
            if self.kept is not reading:
                reading.end()

    def begin(self, requests: BatchRequests, is_pinned: bool, given: bytes | None) -> Reading:
        """Start workers of torch's DataLoader, or threads, that read the batches."""
        if not self.workers:
            threads = min(MOST_THREADS, usable_cores())
            return Reading(given, by_threads(self.samples, requests, threads, is_pinned), None)
        loader = DataLoader(
            self.samples,
            batch_sampler=requests,  # type: ignore[arg-type]  # anything that gives requests; kept workers get other ones
            collate_fn=already_collated,
            num_workers=self.workers,
            generator=torch.Generator(),  # else the loader draws from the global generator, which is the step's
            pin_memory=is_pinned,
            worker_init_fn=functools.partial(begin_worker, self.begin_worker),
            persistent_workers=given is not None,
            multiprocessing_context=self.start_method,
        )
        return Reading(given, start_reading(loader, type(self.samples.dataset).__name__), loader)

    def workers_key(self) -> bytes | None:
        """Return a digest of all that a worker is given; None: new workers for each epoch.

        Workers that are forked start in milliseconds. Others import torch anew, which takes seconds, and are sent the
        dataset pickled, whose digest tells whether it was changed.
        """
        if self.samples.is_random is False:
            return b"a folder of images, never changed"
        if multiprocessing.get_start_method() == "fork":
            return None
        try:
            return hashlib.sha256(pickle.dumps(self.samples)).digest()
        except Exception:  # starting the workers will tell
            return None

    @contextlib.contextmanager
    def keep_workers(self, last_epoch: int = 0) -> Iterator[None]:
        """Let workers outlive their epoch, for the block; training epochs up to `last_epoch` follow one another."""
        self.keeps, self.last_epoch = True, last_epoch
        try:
            yield
        finally:
            self.keeps, self.last_epoch = False, 0
            if self.kept is not None:
                self.kept.end()
                self.kept = None


def already_collated(batch: Any) -> Any:
    """Return the batch, which is collated already."""
    return batch


def begin_worker(own: Callable[[int], object] | None, worker: int) -> None:
    """Leave Ctrl-C, which reaches every process of the terminal, to the main process; do what the user's loader does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process still needs this worker's batch
    if own is not None:
        own(worker)


def by_threads(samples: SeededDataset, requests: Iterable[BatchRequest], count: int, is_pinned: bool) -> Generator[Any]:
    """Give the batches, each read by `count` threads, some batches before its turn.

    Only for samples that draw nothing at random: the generators are the whole process's, and a step draws from them.
    """
    threads = ThreadPoolExecutor(count, "rushlight-reader")
    coming: deque[list[Any]] = deque()

    def next_batch() -> Any:
        read = [sample for part in coming.popleft() for sample in part.result()]
        batch = collated(read, samples.collate, type(samples.dataset).__name__)
        return pinned(batch) if is_pinned else batch

    try:
        for request in requests:
            share = -(-len(request.indices) // count)
            parts = [request.indices[first : first + share] for first in range(0, len(request.indices), share)]
            coming.append([threads.submit(read_samples, samples.dataset, part) for part in parts])
            if len(coming) > AHEAD:
                yield next_batch()
        while coming:
            yield next_batch()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def start_reading(loader: DataLoader[Any], name: str) -> Iterator[Any]:
    """Start a DataLoader's workers, if it has any, and return its batches.

    Torch would have the death of a worker raised by a signal handler, in the middle of whatever the main thread does.
    Without that handler it is raised where the next batch is asked for, `ALIVE_SECONDS` later at most; torch looks every five.

    Raises:
        UsageError: the program has no main guard, and its workers run it from the top.
        DataError: the workers cannot be started: the dataset cannot be sent to them, most often.
    """
    if not loader.num_workers:
        return iter(loader)
    check_main_guard(loader.num_workers)
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Got pickle error")  # torch's words for the error below
            batches: Any = iter(loader)
    except Exception as error:
        check_shared_memory(error, name)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError("workers-not-started", data=name, reason=reason) from error
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)
    if not loader.timeout and hasattr(batches, "_try_get_data"):  # else the user's own limit is asked for
        get = type(batches)._try_get_data
        batches._try_get_data = lambda: get(batches, ALIVE_SECONDS)
    return batches  # type: ignore[no-any-return]


def end_workers(batches: Any) -> None:
    """End the workers of a DataLoader's iterator, if it has any.

    Torch ends them when the iterator is deleted; where that is left to Python's collector of garbage, as with an error whose
    traceback holds the iterator, the queue that tells them to end is deleted first, and each is waited for 5 seconds.
    """
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()


def check_main_guard(workers: int) -> None:
    """Raise UsageError in a worker that is being started and runs the user's program from the top."""
    if workers and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError("workers-need-guard", workers=workers)


@contextlib.contextmanager
def explained_workers(name: str, workers: int) -> Iterator[None]:
    """Turn the errors that a dead worker leads to into a DataError; those of the user's code are raised as they are."""
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:
        if workers:
            check_shared_memory(error, name)
        found = str(error).strip().partition("\n")[0]
        if not workers or found.startswith("Caught "):  # the user's, sent by a worker
            raise
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in found:
            raise
        reason = found if isinstance(error, RuntimeError) else Note("data.connection-closed")
        raise DataError("worker-died", data=name, reason=reason) from error


# ── random generators ────────────────────────────────────────────────────────────────────────────────────────

GeneratorStates = tuple[Any, Any, Tensor, list[Any]]  # of Python's, NumPy's and torch's CPU generator, and of others


def generator_states(own: Sequence[Any] = ()) -> GeneratorStates:
    """Return the states of the three global generators, and of others."""
    return random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state(), list(map(state_of, own))


def seed_generators(seed: int, own: Sequence[Any] = ()) -> None:
    """Seed the three global generators, and others."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    seed_each(own, seed)


def are_same(one: GeneratorStates, other: GeneratorStates) -> bool:
    """Tell whether no generator has moved from one to the other."""
    return one[0] == other[0] and are_equal(one[1:], other[1:])


def put_back(before: GeneratorStates, own: Sequence[Any] = ()) -> None:
    """Set all generators to what they were, also where a signal that ends the reading comes in the middle of this."""
    python, numpy, torch_state, others = before
    try:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)
        for generator, state in zip(own, others, strict=True):
            set_state(generator, state)
    except BaseException:
        put_back(before, own)
        raise


@contextlib.contextmanager
def seeded(seed: int, own: Sequence[Any] = ()) -> Iterator[None]:
    """Seed the three global generators, and others, for a block, then put them back as they were."""
    before = generator_states(own)
    try:
        seed_generators(seed, own)
        yield
    finally:
        put_back(before, own)
