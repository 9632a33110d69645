"""What several processes cannot train together is refused before the first step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rushlight
from rushlight.data import CPU, LoaderSplit, ResidentSplit
from rushlight.errors import UsageError
from rushlight.options import check_options
from rushlight.training.distributed import ALONE, World
from rushlight.training.objective import make_objective
from rushlight.training.setup import shared
from rushlight.training.setup.shared import check_options_shared, check_parts_shared

TWO = World(0, 2)


class Sized:
    """A recipe of which only the batch size matters."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size


def split(samples: int) -> ResidentSplit:
    return ResidentSplit(torch.zeros(samples, 2), torch.zeros(samples, dtype=torch.long), lambda raw: raw)


def key_of(refused: pytest.ExceptionInfo[UsageError]) -> str:
    return refused.value.key


@pytest.mark.parametrize(
    "given",
    [
        {"mixup": 0.2}, {"profile": True}, {"precision": "float16"}, {"precision": "tf32"}, {"on_nan": "rollback"},
        {"keep": [torch.Generator()]}, {"step": lambda batch: batch},
    ],
)  # fmt: skip
def test_an_option_that_is_not_right_with_several_processes_is_refused(given: dict[str, Any]) -> None:
    options = check_options(given)
    check_options_shared(options, ALONE)
    with pytest.raises(UsageError) as refused:
        check_options_shared(options, TWO)
    assert key_of(refused) == "not-with-processes"
    assert next(iter(given)) in refused.value.problem


@pytest.mark.parametrize("given", ["2", 2.0, True, 0])
def test_a_number_of_processes_that_is_no_count_is_refused(given: Any) -> None:
    with pytest.raises(UsageError) as refused:
        rushlight.train("linear", "digits", processes=given)
    assert (key_of(refused), refused.value.values["option"]) == ("not-a-count", "processes")


def test_more_processes_than_cores_are_told_what_that_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "usable_cores", lambda: 2)
    model, objective = nn.Linear(2, 1), make_objective(nn.MSELoss())
    told = {size: shared.notes_shared(model, objective, World(0, size), is_divided=False) for size in (2, 3)}
    assert told[3][1] == "3 processes share 2 cores, which takes longer than 2 processes."
    assert len(told[2]) == 1


@pytest.mark.parametrize(("others", "count"), [(["one", "one"], 1), (["two", "one"], 2), (["two", "three"], 3)])
def test_processes_know_how_many_cards_they_have_whatever_each_of_them_sees(
    others: list[str], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher may show each process its own card alone: then all of them see one, of the number 0."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="one"))
    world = World(0, 3)
    monkeypatch.setattr(world, "gather", lambda own: [own, *([other, False] for other in others)])
    assert world.meet_on_cards(torch.device("cuda")) == count
    assert world.cards is None  # one of them has no NCCL


def test_another_number_than_the_launched_one_is_refused() -> None:
    check_options_shared(check_options({"processes": 2}), TWO)
    with pytest.raises(UsageError) as refused:
        check_options_shared(check_options({"processes": 3}), TWO)
    assert key_of(refused) == "processes-launched"


@pytest.mark.parametrize(
    ("model", "samples", "size", "device", "key"),
    [
        (nn.Linear(2, 2), 20, 1, CPU, "batch-below-processes"),
        (nn.Linear(2, 2), 20, 4, torch.device("mps"), "processes-on-device"),
        (nn.Sequential(nn.EmbeddingBag(3, 2, sparse=True)), 20, 4, CPU, "sparse-with-processes"),
        (nn.Sequential(nn.BatchNorm1d(2)), 20, 3, CPU, "lone-sample"),
        (nn.Sequential(nn.BatchNorm1d(2)), 22, 4, CPU, "lone-sample"),
    ],
)
def test_a_model_or_a_batch_that_cannot_be_divided_is_refused(
    model: nn.Module, samples: int, size: int, device: torch.device, key: str
) -> None:
    recipe: Any = Sized(size)
    check_parts_shared(model, split(samples), recipe, device, ALONE)
    with pytest.raises(UsageError) as refused:
        check_parts_shared(model, split(samples), recipe, device, TWO)
    assert key_of(refused) == key


def test_a_loader_of_the_user_s_own_is_refused() -> None:
    recipe: Any = Sized(4)
    loader = LoaderSplit(DataLoader(TensorDataset(torch.zeros(8, 2)), batch_size=4), lambda batch: batch)
    with pytest.raises(UsageError) as refused:
        check_parts_shared(nn.Linear(2, 2), loader, recipe, CPU, TWO)
    assert key_of(refused) == "loader-with-processes"


def test_what_can_be_divided_is_not_refused() -> None:
    recipe: Any = Sized(4)
    check_parts_shared(nn.Sequential(nn.BatchNorm1d(2)), split(24), recipe, CPU, TWO)
    check_parts_shared(nn.Linear(2, 2), split(21), recipe, CPU, TWO)
