"""Which samples in which order: promise 2, that it depends on seed, epoch and index alone."""

from __future__ import annotations

import random
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.feed.streamed import StreamedSplit
from rushlight.data.order import epoch_order, sample_seed, split_seed, step_seed

SEEDS = st.integers(-(2**63), 2**63 - 1)


class Augmented(Dataset[Any]):
    """Samples that draw from all three generators that an augmentation may draw from."""

    def __init__(self, count: int = 23) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        drawn = torch.tensor([random.random(), float(np.random.rand())], dtype=torch.float64)
        return torch.cat([torch.tensor([float(index)], dtype=torch.float64), drawn, torch.rand(2).double()]), index % 3


def as_given(batch: Any) -> Any:
    return batch


def streamed(workers: int = 0, count: int = 23) -> StreamedSplit:
    return StreamedSplit(Augmented(count), as_given, workers)


def read(split: Any, epoch: int = 1, seed: int = 5, start: int = 0, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    return list(split.batches(size, seed=seed, epoch=epoch, start=start))


def assert_same(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> None:
    assert len(one) == len(other)
    for (x, y), (other_x, other_y) in zip(one, other, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


# ── the formulas ─────────────────────────────────────────────────────────────────────────────────────────────


@given(n=st.integers(1, 300), seed=SEEDS, epoch=st.integers(1, 10_000))
@settings(max_examples=50, deadline=None)
def test_an_epochs_order_is_the_documented_line_and_a_permutation(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(seed, epoch, n)
    assert torch.equal(order, torch.randperm(n, generator=torch.Generator().manual_seed(seed + 1_000_003 * epoch)))
    assert order.sort().values.tolist() == list(range(n))


@given(seed=st.integers(0, 2**31), other=st.integers(0, 2**31), epoch=st.integers(1, 1000))
@settings(max_examples=50, deadline=None)
def test_other_epochs_and_other_seeds_have_other_orders(seed: int, other: int, epoch: int) -> None:
    order = epoch_order(seed, epoch, 100)
    assert not torch.equal(order, epoch_order(seed, epoch + 1, 100))
    if other != seed:
        assert not torch.equal(order, epoch_order(other, epoch, 100))


def test_drawing_an_order_leaves_torchs_own_stream_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    epoch_order(0, 1, 1000)
    assert torch.equal(torch.rand(3), expected)


@given(seed=SEEDS, epoch=st.integers(0, 10_000), number=st.integers(-5, 10**9))
@settings(max_examples=50)
def test_seeds_of_steps_samples_and_splits_are_the_documented_checksums(seed: int, epoch: int, number: int) -> None:
    assert step_seed(seed, epoch, number) == zlib.crc32(f"step/{seed}/{epoch}/{number}".encode("ascii"))
    assert sample_seed(seed, epoch, number) == zlib.crc32(f"sample/{seed}/{epoch}/{number}".encode("ascii"))
    assert split_seed(seed) == zlib.crc32(f"split/{seed}".encode("ascii"))


# ── batches follow the order ─────────────────────────────────────────────────────────────────────────────────


@given(n=st.integers(1, 60), size=st.integers(1, 70), seed=st.integers(0, 1000), epoch=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_batches_cover_every_sample_once_in_the_order(n: int, size: int, seed: int, epoch: int) -> None:
    split = ResidentSplit(torch.arange(n).unsqueeze(1), torch.arange(n) * 2, lambda x: x)
    batches = read(split, epoch, seed, size=size)
    assert [len(x) for x, _ in batches[:-1]] == [size] * (len(batches) - 1)
    assert torch.cat([x for x, _ in batches]).flatten().tolist() == epoch_order(seed, epoch, n).tolist()
    assert all(torch.equal(x.flatten() * 2, y) for x, y in batches)


@given(start=st.integers(0, 8))
@settings(max_examples=9, deadline=None)
def test_a_start_in_mid_epoch_gives_the_rest_of_the_same_batches(start: int) -> None:
    resident = ResidentSplit(torch.rand(23, 2), torch.arange(23), lambda x: x)
    assert_same(read(resident, start=start), read(resident)[start:])
    assert_same(read(streamed(), start=start), read(streamed())[start:])


def test_resident_and_streamed_data_visit_the_same_samples_in_the_same_order() -> None:
    resident = ResidentSplit(torch.arange(23.0).double().unsqueeze(1), torch.arange(23) % 3, lambda x: x)
    for epoch in (1, 2):
        kept, streams = read(resident, epoch), read(streamed(), epoch)
        assert [x[:, 0].tolist() for x, _ in kept] == [x[:, 0].tolist() for x, _ in streams]
        assert [y.tolist() for _, y in kept] == [y.tolist() for _, y in streams]


# ── augmentation ─────────────────────────────────────────────────────────────────────────────────────────────


def test_augmentation_does_not_depend_on_the_workers_nor_on_a_restart_in_mid_epoch() -> None:
    alone, helped = read(streamed(0)), read(streamed(2))
    assert_same(alone, helped)
    assert_same(alone[3:], read(streamed(2), start=3))


def test_augmentation_differs_between_epochs_seeds_and_samples() -> None:
    def drawn(epoch: int, seed: int) -> list[list[float]]:
        batches = read(streamed(), epoch, seed, size=23)
        return sorted(batches[0][0][:, 1:].tolist())

    values = drawn(1, 5)
    assert len({tuple(row) for row in values}) == 23
    assert not {tuple(row) for row in values} & {tuple(row) for row in drawn(2, 5)}
    assert not {tuple(row) for row in values} & {tuple(row) for row in drawn(1, 6)}


def test_testing_reads_every_sample_in_its_own_order_and_always_the_same() -> None:
    first = list(streamed().in_order(5))
    assert torch.cat([x for x, _ in first])[:, 0].tolist() == list(range(23))
    assert_same(first, list(streamed(2).in_order(5)))


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_streamed_data_disturbs_no_generator(workers: int) -> None:
    """Dropout draws from torch's global stream, between two reads."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(3).tolist()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    batches = streamed(workers).batches(4, seed=0, epoch=1)
    next(batches)
    assert torch.rand(3).tolist() == expected[2]
    assert len(list(batches)) == 5
    assert (random.random(), np.random.rand()) == expected[:2]
