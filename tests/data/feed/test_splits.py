"""How samples become batches: what workers send back, devices, and a DataLoader that is used as it is."""

from __future__ import annotations

import itertools
import os
import signal
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from rushlight.data.feed.batch import ALIGNMENT, to_device
from rushlight.data.feed.loader import LoaderSplit
from rushlight.data.feed.reading import seeded
from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.feed.streamed import StreamedSplit
from rushlight.data.order import epoch_order
from rushlight.errors import DataError

CPU = torch.device("cpu")


class Failing(Dataset[Any]):
    """Samples of which number 7 fails in the way that `how` says."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        if index != 7:
            return torch.zeros(3), 0
        if self.how == "raises":
            raise KeyError("no such thing")
        if self.how == "explained":
            raise DataError("image-not-readable", path="cat.png", reason="it is a dog")
        if self.how == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
            return torch.zeros(3), 0
        return (torch.zeros(4), 0) if self.how == "unequal" else (object(), 0)


def as_given(batch: Any) -> Any:
    return batch


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("how", "key", "said"),
    [
        ("raises", "sample-failed", "Failing: reading sample 7 failed: KeyError: 'no such thing'"),
        ("explained", "image-not-readable", "cat.png: this image cannot be read: it is a dog"),
        ("unequal", "unequal-samples", "found ((3,), 'int') and ((4,), 'int')"),
        ("object", "unequal-samples", "found ((3,), 'int') and ('object', 'int')"),
    ],
)
def test_a_sample_that_fails_is_named_with_and_without_workers(how: str, key: str, said: str, workers: int) -> None:
    split = StreamedSplit(Failing(how), as_given, workers)
    with pytest.raises(DataError) as caught:
        list(split.in_order(4))
    assert caught.value.key == key
    assert said in caught.value.problem
    shown = "".join(traceback.format_exception(caught.value))
    assert ("in __getitem__" if how in ("raises", "explained") else "in default_collate") in shown


def test_a_worker_outlives_the_ctrl_c_that_reaches_every_process_of_a_terminal() -> None:
    batches = list(StreamedSplit(Failing("interrupted"), as_given, 1).in_order(4))
    assert [len(x) for x, _ in batches] == [4, 4, 4]


def test_every_tensor_of_a_nested_batch_moves_and_all_else_stays() -> None:
    batch = {"x": torch.zeros(2), "more": [torch.ones(1), ("name", torch.ones(2))]}
    moved = to_device(batch, torch.device("meta"))
    assert moved["x"].device.type == moved["more"][0].device.type == moved["more"][1][1].device.type == "meta"
    assert moved["more"][1][0] == "name"


def test_every_kind_of_split_can_move_to_a_device() -> None:
    splits = (
        ResidentSplit(torch.arange(5.0).unsqueeze(1), torch.arange(5), lambda x: x * 2, is_shuffled=False),
        StreamedSplit(TensorDataset(torch.arange(5.0).unsqueeze(1) * 2, torch.arange(5)), as_given, is_shuffled=False),
        LoaderSplit(DataLoader(TensorDataset(torch.arange(5.0).unsqueeze(1) * 2, torch.arange(5)), 2), as_given),
    )
    for split in splits:
        assert [x.flatten().tolist() for x, _ in split.to(CPU).batches(2, seed=0, epoch=1)] == [[0, 2], [4, 6], [8]]


def test_a_feed_gives_each_batch_once_in_the_order_of_its_split_and_then_none() -> None:
    data = TensorDataset(torch.arange(5.0).unsqueeze(1), torch.arange(5))
    splits = (
        ResidentSplit(torch.arange(5.0).unsqueeze(1), torch.arange(5), as_given),
        StreamedSplit(data, as_given),
        LoaderSplit(DataLoader(data, 2), as_given),
    )
    for split in splits:
        feed, found = split.batches(2, seed=0, epoch=1), []
        assert (feed.joins, feed.ahead) == (2 if isinstance(split, ResidentSplit) else 1, 1)
        while (batch := feed.take()) is not None:
            found += batch[1].tolist()
        order = split.order(0, 1)
        assert found == (list(range(5)) if order is None else order.tolist())
        assert feed.take() is None
        feed.close()


def test_seeding_a_block_puts_all_generators_back() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with pytest.raises(IndexError), seeded(1):
        torch.rand(100)[100]
    assert torch.equal(torch.rand(2), expected)


# ── a DataLoader as it is ────────────────────────────────────────────────────────────────────────────────────


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for index in range(7):
            yield torch.tensor([float(index), torch.rand(()).item()]), index % 2


def loaders() -> dict[str, DataLoader[Any]]:
    data = TensorDataset(torch.arange(10.0).unsqueeze(1), torch.arange(10) % 2)
    weights = torch.ones(10).tolist()
    own = torch.Generator().manual_seed(9)
    return {
        "weighted": DataLoader(data, 3, sampler=WeightedRandomSampler(weights, 10)),
        "weighted by a generator of its own": DataLoader(
            data, 3, sampler=WeightedRandomSampler(weights, 10, generator=own)
        ),
        "shuffled by a generator of its own": DataLoader(
            data, 3, shuffle=True, generator=torch.Generator(), drop_last=True
        ),
        "iterable": DataLoader(Stream(), 3),
    }


@pytest.mark.parametrize("kind", loaders())
def test_an_epoch_of_a_loader_repeats_and_can_begin_in_its_middle(kind: str) -> None:
    split = LoaderSplit(loaders()[kind], as_given)

    def read(epoch: int, start: int = 0) -> list[list[Any]]:
        return [x.tolist() for x, _ in split.batches(3, seed=4, epoch=epoch, start=start)]

    first = read(1)
    assert read(2) != first
    assert read(1) == first
    assert read(1, start=2) == first[2:]
    assert split.samples == {"iterable": None, "shuffled by a generator of its own": 9}.get(kind, 10)


def test_a_loader_that_draws_in_this_process_leaves_dropouts_stream_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(6)
    torch.manual_seed(1)
    seen = []
    for _ in LoaderSplit(loaders()["iterable"], as_given).batches(3, seed=0, epoch=1):
        seen.append(torch.rand(2))
    assert torch.equal(torch.cat(seen), expected)


@given(
    n=st.integers(0, 90), size=st.integers(1, 9), width=st.sampled_from([1, 3, 8, 16]), start=st.integers(0, 4),
    counts=st.lists(st.integers(1, 5), min_size=1), dtype=st.sampled_from([torch.float32, torch.uint8]),
)  # fmt: skip
def test_gathering_ahead_gives_each_sample_in_its_turn_where_memory_of_its_own_would_lie(
    n: int, size: int, width: int, start: int, counts: list[int], dtype: torch.dtype
) -> None:
    inputs = torch.arange(n * width).remainder(251).to(dtype).reshape(n, width)
    targets = torch.arange(n)
    split = ResidentSplit(inputs, targets, lambda raw: raw.float() / 3)
    asked = itertools.cycle(counts)
    order = epoch_order(5, 2, n)[start * size :]
    at = 0
    feed = split.batches(size, seed=5, epoch=2, start=start)
    while (batch := feed.take(next(asked))) is not None:
        x, y = batch
        expected = order[at : at + len(y)]
        assert torch.equal(y, targets[expected])
        assert torch.equal(x, inputs[expected].float() / 3)
        assert len(y) % size == 0 or at + len(y) == len(order)
        assert x.is_contiguous()
        assert y.is_contiguous()
        assert x.data_ptr() % ALIGNMENT == y.data_ptr() % ALIGNMENT == 0
        at += len(y)
    assert at == len(order)
    assert feed.take() is None


def test_a_model_may_write_into_its_batches() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.layer = nn.Parameter(torch.ones(16)), nn.Linear(16, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            inputs += self.shift
            return self.layer(inputs)

    torch.manual_seed(0)
    model, kept = Writing(), torch.rand(64, 16)
    split = ResidentSplit(kept.clone(), torch.zeros(64, 1), as_given)
    for x, _ in split.batches(8, seed=0, epoch=1):
        model(x).sum().backward()
    with torch.no_grad():
        first, second = ([model(x) for x, _ in split.in_order(8)] for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert torch.equal(split.inputs, kept)


def test_batches_to_test_on_are_laid_out_as_a_loader_lays_them_out() -> None:
    gray = torch.arange(6 * 4 * 4, dtype=torch.uint8).reshape(6, 4, 4)[:, None]
    assert gray.stride() == (16, 16, 4, 1)
    as_numpy_leaves_them = gray.as_strided(gray.shape, (16, 1, 4, 1))
    split = ResidentSplit(as_numpy_leaves_them, torch.arange(6), lambda inputs: inputs.float())
    expected = torch.stack([image.float() for image in gray[:4]])
    batches = [next(split.in_order(4)), next(split.batches(4, seed=0, epoch=1))]
    assert [inputs.stride() for inputs, _ in batches] == [expected.stride()] * 2
    assert torch.equal(batches[0][0], expected)
