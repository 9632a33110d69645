"""How the samples of a map-style dataset are read into batches: with which random numbers, and by whom.

Whatever is random in reading sample `index` in epoch `epoch` is drawn from generators (Python's, NumPy's and torch's) seeded
by (seed, epoch, index). That takes some microseconds a sample, and asks for one sample at a time. So a dataset that is not
known to draw is read without, whole batches at once where it can give these; a batch in whose reading a generator moved
is read again with its seeds, and so is every later one. What comes out does not depend on any of this.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import pickle
import queue
import random
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rushlight.data.order import sample_seed
from rushlight.device import usable_cores
from rushlight.errors import DataError, RushlightError

AHEAD = 2  # batches that threads read before they are asked for
MOST_THREADS = 8
THREADS_FROM = 0.0005  # seconds a sample: reading what takes less is mostly Python, which runs in one thread at a time
FORKED_BYTES, SENT_BYTES = (
    2**20,
    2**26,
)  # of a dataset that are looked at, where workers are forked and where they are not


@dataclass(frozen=True)
class Request:
    """A batch that is asked for: which samples, and what the random numbers of reading them depend on."""

    seed: int
    epoch: int
    indices: Sequence[int]


class Reader(Dataset[Any]):
    """Reads batches of a map-style dataset, in this process or in a worker.

    `draws` says whether reading a sample draws random numbers; None: that shows. Where it never does (False) threads may
    read too. `together` says that the dataset's own `__getitems__` gives the samples of a batch.
    """

    def __init__(
        self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any], draws: bool | None, together: bool
    ) -> None:
        self.dataset, self.collate = dataset, collate
        self.draws, self.together = draws, together

    @property
    def name(self) -> str:
        """What the dataset is called in errors."""
        return type(self.dataset).__name__

    def __getitems__(self, request: Request) -> Any:
        """Read a batch: torch's protocol, by which a worker is asked."""
        return self.read(request)

    def read(self, request: Request) -> Any:
        """Return the collated batch, or what went wrong in reading it."""
        return self.collated(self.seeded_samples(request) if self.draws else self.samples(request))

    def samples(self, request: Request) -> Any:
        """Return the samples of a batch, read without seeds if reading them draws nothing, or the first failure."""
        if self.draws is False:
            return self.all_samples(request.indices)
        before = streams()
        try:
            samples = self.all_samples(request.indices)
            has_drawn = not are_same(before, streams())
        finally:
            put_back(before)  # also where a signal ends the reading: the streams are saved with the state
        if not has_drawn:
            return samples
        self.draws = True
        return self.seeded_samples(request)

    def all_samples(self, indices: Sequence[int]) -> Any:
        """Return the samples at `indices` without seeding, or the first failure."""
        if not self.together:
            samples = []
            for index in indices:
                sample = self.sample(index)
                if isinstance(sample, Failed):
                    return sample
                samples.append(sample)
            return samples
        try:
            return read_together(self.dataset, indices)
        except Exception as error:
            together = failed_together(error, self.name, indices)
        alone = (sample for sample in map(self.sample, indices) if isinstance(sample, Failed))
        return next(alone, together)  # which sample it was, if it was one

    def seeded_samples(self, request: Request) -> Any:
        """Return the samples of a batch, each read with its own seed, or the first failure."""
        samples = []
        before = streams()
        try:
            for index in request.indices:
                seed_streams(sample_seed(request.seed, request.epoch, index))
                sample = self.sample(index)
                if isinstance(sample, Failed):
                    return sample
                samples.append(sample)
        finally:
            put_back(before)
        return samples

    def sample(self, index: int) -> Any:
        """Return one sample, or why it cannot be read."""
        try:
            return self.dataset[index]
        except Exception as error:
            return failed(error, self.name, index)

    def collated(self, samples: Any) -> Any:
        """Return the batch of these samples; a failure takes its place."""
        if isinstance(samples, Failed):
            return samples
        try:
            return self.collate(samples)
        except Exception as error:
            return not_collated(error, self.name, samples)


class Source:
    """Gives batches that a reader reads: in this process, by threads of it, or by worker processes.

    While `keep_workers` asks for it, the workers of an epoch that was read to its end wait for the next one. They are used
    again if new ones would be given the same dataset: who owns the loop may change it between two epochs.
    """

    def __init__(self, reader: Reader, workers: int) -> None:
        self.reader, self.workers = reader, workers
        self.is_kept = False
        self.idle: DataLoader[Any] | None = None  # with its workers
        self.given: bytes | None = None  # the digest of what these were given

    def batches(self, requests: Iterable[Request], pinned: bool) -> Generator[Any]:
        """Give the batches that are asked for, or failures, in that order; `pinned` for what workers send to a GPU."""
        if self.workers:
            return self.by_workers(list(requests), pinned)
        if self.reader.draws is False and usable_cores() > 1:
            return by_threads_if_slow(self.reader, requests)
        return (self.reader.read(request) for request in requests)

    def by_workers(self, requests: list[Request], pinned: bool) -> Generator[Any]:
        """Give the batches that workers read."""
        given = digest(self.reader) if self.is_kept else None
        loader, self.idle = self.idle if given is not None and given == self.given else None, None
        if loader is None:
            loader = self.new_loader(pinned, is_kept=given is not None)
        plan = loader.batch_sampler
        assert isinstance(plan, Plan)
        plan.requests = requests
        yield from loader
        if self.is_kept and given is not None:
            self.idle, self.given = loader, given  # only here: of an epoch that is left, batches are still on their way

    def new_loader(self, pinned: bool, is_kept: bool) -> DataLoader[Any]:
        """Return a loader whose workers have not started."""
        return DataLoader(
            self.reader,
            batch_sampler=Plan(),
            collate_fn=as_it_is,
            num_workers=self.workers,
            generator=torch.Generator(),  # else the loader draws from the global stream, which belongs to the step
            pin_memory=pinned,
            worker_init_fn=ignore_interrupt,
            persistent_workers=is_kept,
        )

    @contextlib.contextmanager
    def keep_workers(self) -> Iterator[None]:
        """Let workers outlive their epoch, for the block."""
        self.is_kept = True
        try:
            yield
        finally:
            self.is_kept, self.idle = False, None


class Plan(Sampler[Any]):
    """What a loader asks its workers for, in this order: torch's batch sampler, with another plan for each epoch."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


def as_it_is(batch: Any) -> Any:
    """Return the batch, which is collated already."""
    return batch


def ignore_interrupt(worker: int) -> None:
    """Leave Ctrl-C, which reaches every process of the terminal, to the main process: it still needs its batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def digest(reader: Reader) -> bytes | None:
    """Return the SHA-256 of all that a worker is given; None where that cannot be pickled, or is too much to look at."""
    if reader.draws is False:
        return b"ours, and never changed"
    hashing = Hashing(FORKED_BYTES if multiprocessing.get_start_method() == "fork" else SENT_BYTES)
    try:
        Pickler(hashing, pickle.HIGHEST_PROTOCOL).dump(reader)
    except Exception:  # whatever a dataset's own way to be pickled leads to
        return None
    return hashing.sha256.digest()


class Hashing(io.RawIOBase):
    """A file that keeps nothing but the SHA-256 of what is written; OverflowError beyond `most` bytes."""

    def __init__(self, most: int) -> None:
        self.sha256, self.most, self.written = hashlib.sha256(), most, 0

    def write(self, content: Any) -> int:
        """Take up some bytes."""
        size = memoryview(content).nbytes
        self.written += size
        if self.written > self.most:
            raise OverflowError
        self.sha256.update(content)
        return size


class Pickler(pickle.Pickler):
    """Pickles into a `Hashing`, which is asked about arrays before these are copied."""

    def __init__(self, hashing: Hashing, protocol: int) -> None:
        super().__init__(hashing, protocol)
        self.most = hashing.most

    def reducer_override(self, value: Any) -> Any:
        """Refuse a large array; pickle all else as always."""
        if isinstance(value, (Tensor, np.ndarray)) and value.nbytes > self.most:
            raise OverflowError
        return NotImplemented


def by_threads_if_slow(reader: Reader, requests: Iterable[Request]) -> Generator[Any]:
    """Give the batches that are asked for; what comes after the first is read by threads if that one took long enough.

    Only for what draws nothing at random: the generators are the whole process's, and a step is drawing from them.
    """
    remaining = iter(requests)
    first = next(remaining, None)
    if first is None:
        return
    began = time.perf_counter()
    batch = reader.read(first)
    seconds = (time.perf_counter() - began) / len(first.indices)
    yield batch
    del batch
    if seconds < THREADS_FROM:
        yield from map(reader.read, remaining)
    else:
        yield from ahead(reader, remaining, min(MOST_THREADS, usable_cores()))


def ahead(reader: Reader, requests: Iterable[Request], count: int) -> Generator[Any]:
    """Give the batches that are asked for, each read by `count` threads, some batches before its turn."""
    threads = Threads(count)
    try:
        coming: deque[list[Future[Any]]] = deque()
        for request in requests:
            share = -(-len(request.indices) // count)
            parts = [request.indices[first : first + share] for first in range(0, len(request.indices), share)]
            coming.append([threads.begin(reader.all_samples, part) for part in parts])
            if len(coming) > AHEAD:
                yield gathered(reader, coming.popleft())
        while coming:
            yield gathered(reader, coming.popleft())
    finally:
        threads.close()


def gathered(reader: Reader, parts: list[Future[Any]]) -> Any:
    """Wait for the parts of a batch; return it collated, or its first failure."""
    samples: list[Any] = []
    for part in parts:
        read = part.result()
        if isinstance(read, Failed):
            return read
        samples += read
    return reader.collated(samples)


class Threads:
    """A few threads that do what they are given. Python does not wait for them to end: a disk that hangs would hold it up."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[Any], Any], Any] | None] = queue.SimpleQueue()
        for _ in range(count):
            threading.Thread(target=self.work, name="rushlight-reader", daemon=True).start()

    def begin(self, function: Callable[[Any], Any], argument: Any) -> Future[Any]:
        """Have `function(argument)` called; return where its result will be."""
        future: Future[Any] = Future()
        self.tasks.put((future, function, argument))
        return future

    def work(self) -> None:
        """Do one task after the other, until there is none."""
        while (task := self.tasks.get()) is not None:
            future, function, argument = task
            try:
                future.set_result(function(argument))
            except BaseException as error:
                future.set_exception(error)
            del task, future  # else the last batch is kept while waiting for the next task

    def close(self) -> None:
        """Drop what is not begun, and let the threads end."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.tasks.get_nowait()
        for _ in range(self.count):
            self.tasks.put(None)


def read_together(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """Return the samples at `indices` by the dataset's `__getitems__`; ValueError when it does not give one for each."""
    samples = dataset.__getitems__(list(indices))
    if not isinstance(samples, (list, tuple)) or len(samples) != len(indices):
        given = f"{len(samples)} samples" if isinstance(samples, (list, tuple)) else f"a {type(samples).__name__}"
        raise ValueError(f"it gave {given} for {len(indices)} indices")
    return list(samples)


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


def failed_together(error: Exception, name: str, indices: Sequence[int]) -> Failed:
    """Return the failure to read samples at once that can be read one by one."""
    reason = f"{type(error).__name__}: {error}"
    return Failed(
        DataError, "samples-failed-together",
        {"data": name, "count": len(indices), "first": indices[0], "reason": reason}, traceback.format_exc(),
    )  # fmt: skip


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


Streams = tuple[Any, Any, Tensor]  # where Python's, NumPy's and torch's CPU generators stand


def streams() -> Streams:
    """Return where the generators stand."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def set_streams(states: Streams) -> None:
    """Put the generators where `streams` found them."""
    python, numpy, torch_state = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(torch_state)


def seed_streams(seed: int) -> None:
    """Seed all three generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def are_same(one: Streams, other: Streams) -> bool:
    """Tell whether no generator has moved from one to the other."""
    (kind, keys, *rest), (other_kind, other_keys, *other_rest) = one[1], other[1]
    numpy = kind == other_kind and rest == other_rest and np.array_equal(keys, other_keys)
    return numpy and one[0] == other[0] and torch.equal(one[2], other[2])


def put_back(before: Streams) -> None:
    """Set the streams to what they were, all of them, also where a signal that ends the reading comes in the midst of this."""
    try:
        set_streams(before)
    except BaseException:
        set_streams(before)
        raise


class seeded:  # reads as a word in `with seeded(…):`
    """Seed Python's, NumPy's and torch's CPU generators for a block, then put them back as they were."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.before = streams()
        try:
            seed_streams(self.seed)
        except BaseException:  # a signal that ends the reading: nothing leaves the block then
            set_streams(self.before)
            raise

    def __exit__(self, *exception: object) -> None:
        put_back(self.before)
