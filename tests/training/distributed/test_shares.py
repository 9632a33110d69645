"""Which samples and which dropout each process has: together those of one process."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rushlight.data import ResidentSplit, share_of
from rushlight.data.feed import EMPTY
from rushlight.data.order import shared_order, step_seed
from rushlight.training.distributed import WholeDropout
from rushlight.training.distributed.dropout import CHANNELS


@pytest.mark.parametrize("samples", [0, 1, 2, 5, 64])
@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_the_shares_of_a_batch_follow_one_another_and_are_as_equal_as_can_be(samples: int, processes: int) -> None:
    shares = [share_of(samples, rank, processes) for rank in range(processes)]
    assert [place for share in shares for place in share] == list(range(samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert len(shares[0]) or not samples


@pytest.mark.parametrize(("samples", "size", "processes"), [(61, 8, 3), (61, 8, 5), (64, 8, 2), (5, 8, 3), (9, 8, 8)])
def test_the_batches_of_all_processes_are_those_of_one(samples: int, size: int, processes: int) -> None:
    inputs = torch.arange(float(samples))[:, None]
    split = ResidentSplit(inputs, inputs[:, 0].long(), lambda raw: raw)
    for start in (0, 1):
        whole = [batch[1].tolist() for batch in split.batches(size, seed=3, epoch=2, start=start)]
        shares = [
            list(split.batches(size, seed=3, epoch=2, start=start, rank=rank, processes=processes))
            for rank in range(processes)
        ]
        assert {len(batches) for batches in shares} == {len(whole)}, "all take part in every step"
        found = [
            [int(index) for share in step if share is not EMPTY for index in share[1]]
            for step in zip(*shares, strict=True)
        ]
        assert found == whole


def test_a_process_s_order_has_its_share_of_every_batch() -> None:
    order = torch.tensor([10, 11, 12, 13, 14, 15, 16])
    assert shared_order(order, 3, 0, 2)[0].tolist() == [10, 11, 13, 14, 16]
    assert shared_order(order, 3, 1, 2)[0].tolist() == [12, 15]


def test_each_process_draws_its_own_numbers_in_a_step_and_the_first_one_those_of_one_process() -> None:
    seeds = [step_seed(1, 2, 3, rank) for rank in range(4)]
    assert seeds[0] == step_seed(1, 2, 3)
    assert len(set(seeds)) == 4


@pytest.mark.parametrize(
    ("drop", "shape"),
    [
        (F.dropout, (6, 5)), (F.dropout, (12, 3, 4)), (F.dropout1d, (6, 4, 3)), (F.dropout2d, (6, 4, 3, 3)),
        (F.dropout3d, (6, 2, 3, 3, 3)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_of_the_shares_is_that_of_the_whole_batch(
    drop: object, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    assert callable(drop)
    inputs = torch.rand(shape, dtype=dtype) + 1
    torch.manual_seed(7)
    whole = [drop(inputs, 0.4), drop(inputs, 0.1)]
    for rank in range(4):
        own, rows = share_of(6, rank, 4), shape[0] // 6
        with WholeDropout(torch.Generator().manual_seed(7), own, 6):
            part = inputs[own.start * rows : own.stop * rows]
            found = [drop(part, 0.4), drop(part, 0.1)]
        for one, other in zip(found, whole, strict=True):
            assert torch.equal(one, other[own.start * rows : own.stop * rows])


def test_a_cards_generator_is_put_back_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernels:
        state: object = "the step's own"

        def graphsafe_get_state(self) -> object:
            return self.state

        def graphsafe_set_state(self, state: object) -> None:
            self.state = state

    def drop(mask: torch.Tensor, p: float, training: bool) -> torch.Tensor:
        assert kernels.state is whole
        raise torch.OutOfMemoryError

    kernels, whole = Kernels(), torch.Generator()
    monkeypatch.setitem(CHANNELS, drop, None)
    with pytest.raises(torch.OutOfMemoryError):
        WholeDropout(whole, range(0, 3), 6, kernels).dropout(drop, torch.ones(3, 2))  # type: ignore[arg-type]
    assert kernels.state == "the step's own"


def test_dropout_that_drops_nothing_is_left_to_torch() -> None:
    layer, inputs = nn.Dropout(0.5).eval(), torch.rand(3, 2)
    with WholeDropout(torch.Generator(), range(0, 3), 6):
        assert layer(inputs) is inputs
        assert F.dropout(torch.rand(7, 2), 0.5).shape == (7, 2), "no number of samples divides it: drawn by torch"
