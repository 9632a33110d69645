"""Who reads, and how: whatever it is, the batches are those that seeded reads of one sample after the other give."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

import rushlight
from rushlight.data.feed import reading
from rushlight.data.feed.loader import LoaderSplit
from rushlight.data.feed.reading import BatchReader, BatchRequest, SeededDataset
from rushlight.data.feed.streamed import StreamedSplit
from rushlight.data.order import epoch_order, sample_seed
from rushlight.data.sources.datasets.datasets import open_dataset
from rushlight.data.sources.images.folder import open_image_folder
from rushlight.data.sources.images.pixels import no_image_warnings
from rushlight.errors import DataError
from rushlight.training.checkpoint.checkpoint import state_digest

COUNT = 23


def stacked(samples: Any) -> Any:
    return torch.stack([torch.as_tensor(x) for x, _ in samples]), torch.tensor([y for _, y in samples])


def as_given(batch: Any) -> Any:
    return batch


class Numbers(Dataset[Any]):
    """Samples that draw from all three generators where `drawing` says so; it counts how it was read."""

    def __init__(self, drawing: frozenset[int] = frozenset(), count: int = COUNT) -> None:
        self.drawing, self.count = drawing, count
        self.one_by_one = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.one_by_one += 1
        return self.read(index)

    def read(self, index: int) -> tuple[Tensor, int]:
        drawn = [0.0, 0.0, 0.0]
        if index in self.drawing:
            drawn = [random.random(), float(np.random.rand()), torch.rand(()).item()]
        return torch.tensor([float(index), *drawn], dtype=torch.float64), index % 3


class Together(Numbers):
    """The same, which can also give several samples at once."""

    def __init__(self, drawing: frozenset[int] = frozenset(), count: int = COUNT) -> None:
        super().__init__(drawing, count)
        self.at_once = 0

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        self.at_once += 1
        return [self.read(index) for index in indices]


class Pids(Numbers):
    """Samples that say which process read them."""

    def read(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([os.getpid()]), index


def by_hand(dataset: Numbers, size: int, seed: int = 5, epoch: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Read as the documentation says: each sample with its own seed, one after the other."""
    batches = []
    indices = epoch_order(seed, epoch, len(dataset)).tolist()
    for first in range(0, len(indices), size):
        samples = []
        for index in indices[first : first + size]:
            random.seed(sample_seed(seed, epoch, index))
            np.random.seed(sample_seed(seed, epoch, index))
            torch.default_generator.manual_seed(sample_seed(seed, epoch, index))
            samples.append(dataset.read(index))
        batches.append((torch.stack([x for x, _ in samples]), torch.tensor([y for _, y in samples])))
    return batches


def read(split: Any, size: int = 4, seed: int = 5, epoch: int = 1) -> list[tuple[Tensor, Tensor]]:
    return list(split.batches(size, seed=seed, epoch=epoch))


def assert_same(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other)
    for (x, y), (other_x, other_y) in zip(one, other, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


def positions() -> tuple[Any, ...]:
    """Return the next numbers of all three generators, and leave them where they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    drawn = random.random(), float(np.random.rand()), torch.rand(2).tolist()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return drawn


class Interrupting(BaseException):
    """What a signal that ends the reading raises, as training's own does."""


@pytest.mark.parametrize("kind", ["seeded samples", "samples that are watched", "a block", "entering a block"])
def test_a_signal_in_the_midst_of_putting_the_generators_back_leaves_none_of_them_elsewhere(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(number: int, frame: Any) -> None:
        raise Interrupting

    def signalled(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def once(*arguments: Any) -> Any:
            result = plain(*arguments)
            monkeypatch.setattr(owner, name, plain)
            signal.raise_signal(signal.SIGTERM)
            return result

        monkeypatch.setattr(owner, name, once)

    def seed_a_block() -> None:
        with reading.seeded(3):
            random.random()

    reader = SeededDataset(Numbers(frozenset(range(COUNT))), as_given, True if kind == "seeded samples" else None)
    request = BatchRequest(5, 1, [3, 4])
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    before, handler = positions(), signal.signal(signal.SIGTERM, leave)
    try:
        signalled(np.random, "seed" if kind == "entering a block" else "set_state")
        with pytest.raises(Interrupting):
            seed_a_block() if kind.endswith("block") else reader.read(request)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert positions() == before


# ── one by one, or together ──────────────────────────────────────────────────────────────────────────────────


@given(
    drawing=st.frozensets(st.integers(0, COUNT - 1)), size=st.integers(1, 30), epoch=st.integers(1, 5),
    kind=st.sampled_from([Numbers, Together]), is_random=st.sampled_from([True, None]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_batches_are_those_of_seeded_reads_whichever_samples_draw(
    drawing: frozenset[int], size: int, epoch: int, kind: type[Numbers], is_random: bool | None
) -> None:
    dataset = kind(drawing)
    expected = by_hand(dataset, size, epoch=epoch)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = positions()
    split = StreamedSplit(dataset, as_given, is_random=is_random)
    assert_same(read(split, size, epoch=epoch), expected)
    assert positions() == before


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("drawing", [frozenset(), frozenset({3, 11}), frozenset(range(COUNT))], ids=len)
def test_workers_find_out_for_themselves_whether_reading_draws(drawing: frozenset[int], workers: int) -> None:
    dataset = Together(drawing)
    split = StreamedSplit(dataset, as_given, workers, is_random=None)
    assert_same(read(split), by_hand(dataset, 4))


@pytest.mark.parametrize("is_random", [True, None])
def test_a_signal_in_the_middle_of_a_read_leaves_the_generators_as_they_were(is_random: bool | None) -> None:
    class Signal(BaseException):
        pass

    class Left(Numbers):
        def read(self, index: int) -> tuple[Tensor, int]:
            super().read(index)
            raise Signal

    before = positions()
    with pytest.raises(Signal):
        read(StreamedSplit(Left(frozenset(range(COUNT))), as_given, is_random=is_random))
    assert positions() == before


def test_a_dataset_that_gives_batches_is_asked_for_batches() -> None:
    dataset = Together()
    assert_same(read(StreamedSplit(dataset, as_given, is_random=None)), by_hand(dataset, 4))
    assert (dataset.at_once, dataset.one_by_one) == (6, 0)


def test_once_a_batch_has_drawn_all_are_read_one_by_one() -> None:
    dataset = Together(frozenset(range(COUNT)))
    split = StreamedSplit(dataset, as_given, is_random=None)
    for epoch in (1, 2):
        assert_same(read(split, epoch=epoch), by_hand(dataset, 4, epoch=epoch))
    assert (dataset.at_once, dataset.one_by_one) == (1, 2 * COUNT)


def opened(train: Any, test: Any = None, limit: int = 100) -> Any:
    return open_dataset(train, train if test is None else test, memory_limit=limit)


def test_a_users_dataset_that_draws_nothing_is_read_in_batches_to_train_and_to_test_on() -> None:
    dataset = Together()
    data = opened(dataset)
    dataset.at_once = dataset.one_by_one = 0
    assert len(list(data.train.batches(4, seed=0, epoch=1))) == len(list(data.test.in_order(4))) == 6
    assert (dataset.at_once, dataset.one_by_one) == (12, 0)
    subset = Subset(Together(), list(range(5, 20)))  # torch's own has __getitems__ too
    assert_same(read(opened(subset).train), read(StreamedSplit(subset, as_given)))


def test_one_that_draws_is_read_sample_by_sample_though_it_could_give_batches() -> None:
    dataset = Together(frozenset(range(COUNT)))
    data = opened(dataset, limit=2**30)
    assert data.train.is_random
    read(data.train)
    assert dataset.at_once == 0


class FailsTogether(Together):
    def __getitems__(self, indices: list[int]) -> Any:
        if self.at_once > 2:
            return "nothing" if self.drawing else super().__getitems__(indices)[1:]
        return super().__getitems__(indices)


class LacksSeven(Together):
    def read(self, index: int) -> tuple[Tensor, int]:
        if index == 7:
            raise KeyError("no such thing")
        return super().read(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_fails_in_a_batch_is_named(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        list(StreamedSplit(LacksSeven(), as_given, workers, is_random=None).in_order(5))
    assert caught.value.key == "sample-failed"
    assert "reading sample 7 failed: KeyError: 'no such thing'" in caught.value.problem


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_that_fail_where_samples_do_not_are_an_error_that_says_so(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        list(StreamedSplit(FailsTogether(), as_given, workers, is_random=None).in_order(5))
    assert caught.value.key == "samples-failed-together"
    assert "reading 5 samples at once (15 is the first of them) by its __getitems__ failed" in caught.value.problem
    assert "it gave 4 samples for 5 indices" in caught.value.problem


FULL = "unable to allocate shared memory(shm) for file </torch_7_1_0>: No space left on device (28)"


@pytest.mark.parametrize("is_loader", [False, True], ids=["ours", "a loader of the user's"])
@pytest.mark.parametrize("error", [RuntimeError(FULL), OSError(28, "No space left on device")], ids=["batch", "start"])
def test_full_shared_memory_is_an_error_that_says_so(
    is_loader: bool, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    if isinstance(error, OSError):
        monkeypatch.setattr(multiprocessing.Process, "start", refuse)
    else:
        monkeypatch.setattr(Tensor, "share_memory_", refuse)
    loader = DataLoader(Numbers(), 5, num_workers=1, collate_fn=stacked)
    split = LoaderSplit(loader, as_given) if is_loader else StreamedSplit(Numbers(), as_given, 1, collate=stacked)
    with pytest.raises(DataError) as caught:
        list(split.in_order(5))
    assert caught.value.key == "shared-memory-full"
    assert "No space left on device" in caught.value.problem
    assert "--shm-size" in caught.value.advice


@pytest.mark.parametrize("is_loader", [False, True], ids=["ours", "a loader of the user's"])
def test_workers_end_when_reading_fails_and_when_it_is_left(is_loader: bool) -> None:
    loader = DataLoader(LacksSeven(), 5, num_workers=1)
    split = LoaderSplit(loader, as_given) if is_loader else StreamedSplit(LacksSeven(), as_given, 1)
    with pytest.raises((DataError, KeyError)) as caught:
        list(split.in_order(5))
    assert not multiprocessing.active_children()  # though the error, which is kept, holds the iterator
    assert "no such thing" in str(caught.value)
    batches = split.in_order(5)
    next(batches)
    batches.close()
    assert not multiprocessing.active_children()


# ── threads ──────────────────────────────────────────────────────────────────────────────────────────────────


def write_images(folder: Path, count: int = 40) -> Path:
    pixels = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(count):
            path = folder / split / f"class-{number % 2}" / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images that are read by threads, as if each took its time."""
    monkeypatch.setattr(reading, "usable_cores", lambda: 2)
    return write_images(tmp_path / "images")


def streamed_images(folder: Path, workers: int = 0) -> Any:
    return open_image_folder(folder, memory_limit=0, workers=workers)


def reader_threads() -> int:
    return sum(thread.name.startswith("rushlight-reader") for thread in threading.enumerate())


def ends(is_over: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Tell whether something comes to an end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not is_over():
        time.sleep(0.01)
    return is_over()


def test_images_that_threads_read_are_those_that_workers_and_a_plain_loop_read(images: Path) -> None:
    data = streamed_images(images)
    dataset, features = data.train.dataset, data.features
    assert data.train.is_random is False
    order = epoch_order(3, 2, len(dataset)).tolist()
    samples = [[dataset[index] for index in order[first : first + 7]] for first in range(0, len(order), 7)]
    expected = [
        (features.prepare(torch.stack([x for x, _ in batch])), torch.tensor([y for _, y in batch])) for batch in samples
    ]
    assert_same(read(data.train, 7, seed=3, epoch=2), expected)
    assert_same(read(streamed_images(images, 2).train, 7, seed=3, epoch=2), expected)
    assert_same(list(data.train.batches(7, seed=3, epoch=2, start=4)), expected[4:])
    assert ends(lambda: not reader_threads())


@pytest.mark.parametrize("size", [1, 3, 40, 100])
def test_threads_leave_out_no_sample_whatever_the_batch_size(images: Path, size: int) -> None:
    labels = [y for _, batch in streamed_images(images).test.in_order(size) for y in batch.tolist()]
    assert labels == [0] * 20 + [1] * 20


def test_threads_disturb_no_generator(images: Path) -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = positions()
    batches = streamed_images(images).train.batches(4, seed=0, epoch=1)
    seen = [positions() for _ in batches]
    assert len(seen) == 10
    assert set(map(str, seen)) == {str(before)}


def test_leaving_an_epoch_ends_the_threads(images: Path) -> None:
    batches = streamed_images(images).train.batches(4, seed=0, epoch=1)
    next(batches)
    assert reader_threads() == 2
    batches.close()
    assert ends(lambda: not reader_threads())


@pytest.mark.parametrize(("cores", "threads"), [(1, 0), (2, 2), (99, 8)])
def test_as_many_threads_read_as_there_are_cores_eight_at_most(
    cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waiting(Numbers):
        def read(self, index: int) -> tuple[Tensor, int]:
            assert ends(lambda: reader_threads() >= threads)  # no thread is idle before all have begun
            return super().read(index)

    monkeypatch.setattr(reading, "usable_cores", lambda: cores)
    batches = StreamedSplit(Waiting(), as_given, is_random=False).batches(8, seed=5, epoch=1)
    found = [next(batches)]
    assert ends(lambda: reader_threads() == threads)
    assert_same([*found, *batches], by_hand(Numbers(), 8))
    assert ends(lambda: not reader_threads())


def test_an_image_that_breaks_after_opening_is_named_when_its_turn_comes(images: Path) -> None:
    data = streamed_images(images)
    broken = data.train.dataset.paths[epoch_order(0, 1, 40).tolist()[25]]
    broken.write_bytes(b"no image")
    batches = data.train.batches(10, seed=0, epoch=1)
    next(batches)
    next(batches)
    with pytest.raises(DataError, match=broken.name) as caught:
        next(batches)
    assert caught.value.key == "image-not-readable"
    assert ends(lambda: not reader_threads())


def test_pillows_warnings_are_silent_in_all_threads_and_the_filters_are_then_as_before() -> None:
    before = list(warnings.filters)
    barrier = threading.Barrier(4)

    def silent(turns: int) -> None:
        for _ in range(turns):
            with no_image_warnings():
                barrier.wait()
                warnings.warn_explicit(
                    "odd metadata", UserWarning, "PIL/PngImagePlugin.py", 1, module="PIL.PngImagePlugin"
                )
                barrier.wait()

    with ThreadPoolExecutor(4) as threads:
        results = [threads.submit(silent, 50) for _ in range(4)]
        assert [result.result(30) for result in results] == [None] * 4  # a warning is an error here
    assert warnings.filters == before
    with pytest.raises(UserWarning):
        warnings.warn_explicit("odd metadata", UserWarning, "PIL/PngImagePlugin.py", 1, module="PIL.PngImagePlugin")


def test_warnings_caught_within_a_block_do_not_make_a_filter_stay() -> None:
    before = list(warnings.filters)
    with warnings.catch_warnings():
        block = no_image_warnings()
        block.__enter__()
    block.__exit__(None, None, None)
    assert warnings.filters == before


# ── workers that outlive an epoch ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def spawning() -> Iterator[None]:
    """Start worker processes anew, as Windows and macOS do."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def pids(split: StreamedSplit, epoch: int = 1) -> set[int]:
    return {int(pid) for x, _ in read(split, epoch=epoch) for pid in x}


def test_workers_are_kept_only_while_somebody_asks_for_it_and_where_starting_them_takes_long() -> None:
    split = StreamedSplit(Pids(), as_given, 2, is_random=False)
    assert not pids(split) & pids(split)
    with split.reader.keep_workers():
        kept = pids(split)
        assert pids(split, 2) == pids(split, 3) == kept
        assert os.getpid() not in kept
    assert ends(lambda: not kept & {child.pid for child in multiprocessing.active_children()})
    assert not pids(split) & kept
    split = StreamedSplit(Pids(), as_given, 2)
    with split.reader.keep_workers():
        assert not pids(split) & pids(split)  # forked in milliseconds, with the dataset as it is now


@pytest.mark.usefixtures("spawning")
def test_workers_that_are_spawned_are_kept_while_their_dataset_stays_the_same() -> None:
    def key(dataset: Any) -> bytes | None:
        return BatchReader(SeededDataset(dataset, as_given), 1).workers_key()

    dataset = Growing()
    dataset.table = np.arange(1000)  # type: ignore[attr-defined]
    first = key(dataset)
    assert first is not None
    assert key(dataset) == first
    dataset.table[3] = -1  # type: ignore[attr-defined]
    assert key(dataset) not in (None, first)
    dataset.more = lambda: 1  # type: ignore[attr-defined]
    assert key(dataset) is None


@pytest.mark.parametrize("is_random", [True, None])
def test_each_epoch_is_read_as_new_workers_read_it(is_random: bool | None) -> None:
    dataset = Together(frozenset({2, 3, 5, 7}))
    split = StreamedSplit(dataset, as_given, 2, is_random=is_random)
    with split.reader.keep_workers():
        for epoch, seed in ((1, 5), (2, 5), (2, 6), (1, 5)):
            assert_same(read(split, seed=seed, epoch=epoch), by_hand(dataset, 4, seed, epoch))


@pytest.mark.parametrize("is_random", [True, False])
def test_an_epoch_that_is_left_has_no_effect_on_the_next_one(is_random: bool) -> None:
    split = StreamedSplit(Numbers(), as_given, 2, is_random=is_random)
    with split.reader.keep_workers():
        read(split)
        left = split.batches(4, seed=5, epoch=2)
        next(left)
        both = read(split, epoch=3)  # while the other is still there
        left.close()
        assert_same(both, by_hand(Numbers(), 4, epoch=3))
        assert_same(read(split, epoch=4), by_hand(Numbers(), 4, epoch=4))


class Growing(Numbers):
    """A dataset that whoever owns the loop changes between two epochs."""

    scale = 1.0

    def read(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([index * self.scale, os.getpid()]), index


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_that_is_changed_between_epochs_is_read_as_it_is_now(workers: int) -> None:
    dataset = Growing()
    split = StreamedSplit(dataset, as_given, workers)
    with split.reader.keep_workers():
        first = read(split)
        dataset.scale = 10.0
        changed = read(split)
    assert torch.equal(torch.cat([x for x, _ in changed])[:, 0], 10 * torch.cat([x for x, _ in first])[:, 0])


@pytest.mark.slow
@pytest.mark.usefixtures("spawning")
def test_workers_that_are_started_anew_as_on_windows_read_the_same(images: Path) -> None:
    threads, workers = streamed_images(images).train, streamed_images(images, 1).train
    with workers.reader.keep_workers():
        for epoch in (1, 2):
            assert_same(read(workers, 7, epoch=epoch), read(threads, 7, epoch=epoch))


# ── read on into the next epoch ──────────────────────────────────────────────────────────────────────────────


class Noting(Numbers):
    """A dataset that notes in a file each sample that is read, whoever reads it; `fails` tells which read fails."""

    def __init__(self, folder: Path, fails: tuple[int, int] = (-1, 0)) -> None:
        super().__init__()
        self.file, self.fails = folder / "read", fails  # a sample, and how often it was read before
        self.file.touch()

    def noted(self) -> list[int]:
        return list(map(int, self.file.read_text().split()))

    def read(self, index: int) -> tuple[Tensor, int]:
        if index == self.fails[0] and self.noted().count(index) == self.fails[1]:
            raise ValueError("the disk is gone")
        with self.file.open("a") as file:
            file.write(f"{index}\n")
        return super().read(index)


def reads_on(dataset: Dataset[Any], workers: int, monkeypatch: pytest.MonkeyPatch) -> StreamedSplit:
    """Return a split of samples that never change, read by workers or by two threads."""
    monkeypatch.setattr(reading, "usable_cores", lambda: 2)
    return StreamedSplit(dataset, as_given, workers, is_random=False)


def nobody_reads() -> bool:
    return not reader_threads() and not multiprocessing.active_children()


@pytest.mark.parametrize("size", [4, 12])  # of two batches an epoch, several epochs are begun at once
@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_epoch_is_read_before_it_begins_and_none_after_the_last(
    workers: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Noting(tmp_path)
    split = reads_on(dataset, workers, monkeypatch)
    with split.reader.keep_workers(4):
        resumed = list(split.batches(size, seed=5, epoch=1, start=1))
        assert_same(resumed, by_hand(Numbers(), size)[1:])
        first = int(epoch_order(5, 2, COUNT)[0])
        times = 1 + (first in epoch_order(5, 1, COUNT)[size:].tolist())
        assert ends(lambda: dataset.noted().count(first) >= times)  # while a test would run
        for epoch in (2, 3, 4):
            assert_same(read(split, size, epoch=epoch), by_hand(Numbers(), size, epoch=epoch))
        assert len(dataset.noted()) == 4 * COUNT - size
        assert_same(list(split.in_order(size)), list(StreamedSplit(Numbers(), as_given).in_order(size)))
    assert ends(nobody_reads)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_read_for_another_epoch_than_the_one_that_comes_is_not_used(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = reads_on(Numbers(), workers, monkeypatch)
    with split.reader.keep_workers(9):
        for size, seed, epoch in ((4, 5, 1), (4, 5, 1), (4, 6, 2), (3, 6, 3)):
            assert_same(read(split, size, seed, epoch), by_hand(Numbers(), size, seed, epoch))
        read(split, 3, 6, 4)
        assert_same(list(split.in_order(4)), list(StreamedSplit(Numbers(), as_given).in_order(4)))
        shares = list(split.batches(3, seed=6, epoch=5, rank=1, processes=2))
        assert_same([shares[0]], [tuple(column[2:] for column in by_hand(Numbers(), 3, 6, 5)[0])])
    assert ends(nobody_reads)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_of_the_next_epoch_that_fails_fails_there(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = int(epoch_order(5, 2, COUNT)[0])
    dataset = Noting(tmp_path, fails=(first, 1))
    split = reads_on(dataset, workers, monkeypatch)
    with split.reader.keep_workers(4):
        assert_same(read(split), by_hand(Numbers(), 4))
        coming = split.batches(4, seed=5, epoch=2)
        with pytest.raises(DataError, match=f"sample {first} .*the disk is gone"):
            next(coming)
    assert ends(nobody_reads)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_that_is_left_after_an_epoch_leaves_nobody_who_reads_the_next(
    workers: int, images: Path, tmp_path: Path
) -> None:
    data = streamed_images(images, workers)
    iterator = rushlight.epochs(
        network(), data, epochs=9, batch_size=8, runs=tmp_path / "runs", quiet=True, device="cpu"
    )
    next(iterator)
    assert not nobody_reads()
    began = time.monotonic()
    iterator.close()
    assert ends(nobody_reads)
    assert time.monotonic() - began < 4


# ── workers that do not start, or die ────────────────────────────────────────────────────────────────────────


class Leaving(Numbers):
    """A dataset whose sample 9 ends the process that reads it."""

    def read(self, index: int) -> tuple[Tensor, int]:
        if index == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("kind", ["ours", "a DataLoader of the user's"])
def test_a_worker_that_dies_is_an_error_and_no_hang(kind: str) -> None:
    began = time.monotonic()
    loader = LoaderSplit(DataLoader(Leaving(), 4, num_workers=1), as_given)
    split = StreamedSplit(Leaving(), as_given, 1) if kind == "ours" else loader
    with pytest.raises(
        DataError,
        match=r"Leaving: a worker process that reads samples ended: (.* exited unexpectedly|its connection is closed)",
    ) as caught:
        list(split.in_order(4))
    assert caught.value.key == "worker-died"
    assert "workers=0" in caught.value.advice
    assert time.monotonic() - began < 30


@pytest.mark.usefixtures("spawning")
@pytest.mark.parametrize("kind", ["ours", "a DataLoader of the user's"])
def test_a_dataset_that_cannot_be_sent_to_a_worker_is_an_error_that_says_how_it_can(kind: str) -> None:
    dataset: Any = Numbers()
    dataset.transform = lambda x: x
    loader = LoaderSplit(DataLoader(dataset, 4, num_workers=1), as_given)
    split = StreamedSplit(dataset, as_given, 1) if kind == "ours" else loader
    with pytest.raises(DataError, match=r"Numbers: its worker processes could not be started: .*lambda") as caught:
        list(split.in_order(4))
    assert caught.value.key == "workers-not-started"
    assert "no lambda" in caught.value.advice


class Failing(Numbers):
    """A dataset whose code raises what a dead worker's connection raises."""

    def read(self, index: int) -> tuple[Tensor, int]:
        raise ConnectionResetError("the server of the user's is gone")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_users_code_is_not_taken_for_a_dead_worker(workers: int) -> None:
    with pytest.raises(DataError, match="sample 0 failed: ConnectionResetError: the server"):
        list(StreamedSplit(Failing(), as_given, workers).in_order(4))
    with pytest.raises(ConnectionResetError, match="the server"):
        list(LoaderSplit(DataLoader(Failing(), 4, num_workers=workers), as_given).in_order(4))


UNGUARDED = """
import sys, multiprocessing, torch, rushlight
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
class Noisy(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return torch.rand(3), index % 2
multiprocessing.set_start_method("spawn", force=True)
loader = DataLoader(Noisy(), 4, sampler=WeightedRandomSampler([1.0] * 8, 8), num_workers=1)
data, options = (loader, {}) if "loader" in sys.argv[1] else (Noisy(), {"workers": 1})
rushlight.train(torch.nn.Linear(3, 2), data, epochs=1, quiet=True, device="cpu", runs="runs", **options)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "a loader of the user's"])
def test_a_program_without_a_main_guard_is_told_the_lines_to_write(kind: str, tmp_path: Path) -> None:
    program = tmp_path / "user.py"
    program.write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, str(program), kind],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 1
    by_the_program = done.stderr.partition("rushlight.errors.UsageError: This program reads with")[2]
    assert '  if __name__ == "__main__":\n      rushlight.train' in by_the_program
    assert "rushlight.errors.DataError: Noisy: a worker process that reads samples ended" in by_the_program
    assert len(list(tmp_path.glob("runs/*"))) <= 1  # none of the worker's


# ── in a training ────────────────────────────────────────────────────────────────────────────────────────────


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 9 * 12, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2))


def test_threads_workers_and_memory_train_to_the_same_bits(images: Path, tmp_path: Path) -> None:
    digests = set()
    for data in (
        streamed_images(images),
        streamed_images(images, 2),
        open_image_folder(images, normalize="unit", memory_limit=2**30),
        open_image_folder(images, normalize="unit", memory_limit=0),
    ):
        run = rushlight.train(
            network(), data, epochs=2, batch_size=7, numerics="exact", runs=tmp_path / "runs", quiet=True
        )
        digests.add((data.features.normalization.name, state_digest(run.model)))
    assert len(digests) == 2  # one for each normalisation


def test_a_training_keeps_its_workers_from_epoch_to_epoch_and_leaves_none_behind(images: Path, tmp_path: Path) -> None:
    def children() -> set[int | None]:
        return {child.pid for child in multiprocessing.active_children()}

    iterator = rushlight.epochs(
        network(), streamed_images(images, 1), epochs=3, batch_size=8, runs=tmp_path / "runs", quiet=True, device="cpu"
    )
    before = children()
    seen = [children() - before for _ in iterator]
    assert len(seen[0]) == 2  # one to train, one to test
    assert seen[0] == seen[1] == seen[2]
    assert ends(lambda: not seen[0] & children())
