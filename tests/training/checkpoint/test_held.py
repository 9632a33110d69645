"""State that a user's objects hold: a resumed run has it again, or says that it has not."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler, WeightedRandomSampler

import rushlight
from rushlight.data import Held
from rushlight.events import Event
from rushlight.runs.sessions import list_sessions
from rushlight.training.record import ledger
from rushlight.training.step import runner

COUNT, SIZE = 48, 8
INPUTS = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()
Given = dict[str, Any]  # what is given to `train`
GLOBAL = np.random.default_rng(0)


class Points(Dataset[tuple[Tensor, int]]):
    """Points; what is added to each when it is read is up to a subclass."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return INPUTS[index] + self.noise(), int(LABELS[index])

    def noise(self) -> Any:
        """Return what is added to a sample."""
        return 0.3 * torch.randn(4)


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2))


# ── kinds of state ───────────────────────────────────────────────────────────────────────────────────────────


def persistent_workers() -> Given:
    return {"data": DataLoader(Points(), SIZE, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)}


def nested_generator() -> Given:
    sampler = WeightedRandomSampler([1.0] * COUNT, COUNT, generator=torch.Generator().manual_seed(5))
    return {"data": DataLoader(Points(), batch_sampler=BatchSampler(sampler, SIZE, False))}


def sampler_that_counts_epochs() -> Given:
    class ByEpoch(Sampler[int]):
        epoch = 0

        def __len__(self) -> int:
            return COUNT

        def __iter__(self) -> Iterator[int]:
            self.epoch += 1
            return iter(torch.randperm(COUNT, generator=torch.Generator().manual_seed(self.epoch)).tolist())

    return {"data": DataLoader(Points(), SIZE, sampler=ByEpoch())}


def sampler_with_a_state_dict() -> Given:
    class Stateful(Sampler[int]):
        def __init__(self) -> None:
            self.hidden = iter([np.array([3])]), deque([1])

        def __len__(self) -> int:
            return COUNT

        def __iter__(self) -> Iterator[int]:
            self.hidden[1].append(self.hidden[1][-1] * 3 % 1009)
            return iter(torch.randperm(COUNT, generator=torch.Generator().manual_seed(self.hidden[1][-1])).tolist())

        def state_dict(self) -> dict[str, Any]:
            return {"last": self.hidden[1][-1]}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.hidden[1].append(state["last"])

    return {"data": DataLoader(Points(), SIZE, sampler=Stateful())}


def stream_that_counts_passes() -> Given:
    class Passes(IterableDataset[tuple[Tensor, int]]):
        passes = 0

        def __iter__(self) -> Iterator[tuple[Tensor, int]]:
            self.passes += 1
            for index in torch.randperm(COUNT, generator=torch.Generator().manual_seed(self.passes)).tolist():
                yield INPUTS[index], int(LABELS[index])

    return {"data": DataLoader(Passes(), SIZE)}


def stream_with_an_extra_state() -> Given:
    class Stream(IterableDataset[tuple[Tensor, int]]):
        def __init__(self) -> None:
            self.numbers = (number for number in range(1000))  # an iterator, which nothing can set back
            self.skipped = 0

        def __iter__(self) -> Iterator[tuple[Tensor, int]]:
            shift = next(self.numbers)
            yield from ((INPUTS[index] + 0.05 * shift, int(LABELS[index])) for index in range(COUNT))
            self.skipped = shift + 1

        def get_extra_state(self) -> dict[str, int]:
            return {"next": self.skipped}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.numbers, self.skipped = iter(range(state["next"], 1000)), state["next"]

    return {"data": DataLoader(Stream(), SIZE)}


def generator_of_the_dataset() -> Given:
    class Own(Points):
        rng = np.random.default_rng(0)

        def noise(self) -> Any:
            return torch.from_numpy(0.3 * self.rng.normal(size=4).astype(np.float32))

    return {"data": Own()}


def generator_of_the_dataset_in_workers() -> Given:
    return {**generator_of_the_dataset(), "workers": 2}


def generator_of_a_transform_in_a_loader() -> Given:
    class Transformed(Points):
        def __init__(self) -> None:
            rng = random.Random(3)
            self.transforms = [lambda: 0.2 * rng.random()]

        def noise(self) -> Any:
            return self.transforms[0]()

    return {"data": DataLoader(Transformed(), SIZE, drop_last=True, shuffle=True)}


def generator_in_workers_of_a_loader() -> Given:
    class Own(Points):
        def __init__(self) -> None:
            self.rng = np.random.RandomState(3)

        def noise(self) -> Any:
            return self.rng.rand()

    return {"data": DataLoader(Own(), SIZE, drop_last=True, shuffle=True, num_workers=2)}


def generator_among_the_globals() -> Given:
    global GLOBAL
    GLOBAL = np.random.default_rng(0)

    class Own(Points):
        def noise(self) -> Any:
            return GLOBAL.normal()

    return {"data": Own()}


def dataset_that_counts_reads() -> Given:
    class Reads(Points):
        seen: ClassVar[Counter[str]]

        def noise(self) -> Any:
            self.seen["reads"] += 1
            return 0.01 * self.seen["reads"]

    Reads.seen = Counter()
    return {"data": Reads()}


def attribute_of_the_model() -> Given:
    class Annealed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = net(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            return self.net(x) * (1 + 1 / (1 + 0.1 * self.calls))

    return {"model": Annealed()}


def tensor_and_history_of_the_model() -> Given:
    class Averaging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.mean, self.means = net(), None, [torch.zeros(4)]

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.mean = x.mean(0) if self.mean is None else 0.9 * self.mean + 0.1 * x.mean(0)
                self.means = [*self.means[-3:], self.mean]
            return self.net(x + 0.1 * torch.stack(self.means).sum(0))

    return {"model": Averaging()}


def generator_of_the_model() -> Given:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.rngs = net(), {"one": torch.Generator().manual_seed(2)}

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + 0.3 * torch.randn(4, generator=self.rngs["one"]))

    return {"model": Noisy()}


def closure_of_a_hook() -> Given:
    model, state = net(), {"calls": 0}

    def swing(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        state["calls"] += module.training
        return output * (1 + 0.1 * (state["calls"] % 7))

    model[3].register_forward_hook(swing)  # type: ignore[index]
    return {"model": model}


def attribute_of_the_loss() -> Given:
    class Warming(nn.CrossEntropyLoss):
        calls = 0

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.calls += torch.is_grad_enabled()
            return super().forward(outputs, targets) * min(1.0, 0.05 * self.calls)

    return {"loss": Warming()}


def method_as_objective() -> Given:
    class Trainer:
        def __init__(self) -> None:
            self.rng, self.calls = np.random.default_rng(4), 0

        def objective(self, model: nn.Module, batch: Any) -> Tensor:
            self.calls += 1
            inputs = batch[0] + 0.1 * self.rng.random()
            return nn.functional.cross_entropy(model(inputs), batch[1]) / self.calls**0.2

    return {"objective": Trainer().objective}


KINDS: list[Any] = [
    pytest.param(persistent_workers, marks=pytest.mark.slow), nested_generator, sampler_that_counts_epochs, sampler_with_a_state_dict, stream_that_counts_passes,
    stream_with_an_extra_state, generator_of_the_dataset, pytest.param(generator_of_the_dataset_in_workers, marks=pytest.mark.slow),
    generator_of_a_transform_in_a_loader, pytest.param(generator_in_workers_of_a_loader, marks=pytest.mark.slow), generator_among_the_globals,
    dataset_that_counts_reads, attribute_of_the_model, tensor_and_history_of_the_model, generator_of_the_model,
    closure_of_a_hook, attribute_of_the_loss, method_as_objective,
]  # fmt: skip


class Stopped(Exception):
    """Raised by a test's function when its moment has come."""


def stopping_at(kind: str, count: int) -> Callable[[Event], None]:
    """Return a function of events that ends the run at the count-th of a kind."""
    left = [count]

    def stop(event: Event) -> None:
        left[0] -= event.kind == kind
        if event.kind == kind and not left[0]:
            raise Stopped

    return stop


def options_of(make: Callable[[], Given]) -> Given:
    given = {"model": net(), "data": (INPUTS, LABELS), "test_data": (INPUTS, LABELS), **make()}
    sized = isinstance(given["data"], DataLoader)
    return {"batch_size": None if sized else SIZE, "optimizer": "Adam", "lr": 0.02, "epochs": 3, "quiet": True, **given}


@pytest.mark.parametrize("make", KINDS)
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    make: Callable[[], Given], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "READ_EVERY", 0.0)
    monkeypatch.setattr(runner, "MOST_IN_A_ROW", 1)
    numerics = {"numerics": "exact"}
    whole = rushlight.train(runs=tmp_path, name="whole", **options_of(make), **numerics)
    for name, moment in (("in mid-epoch", ("progress", 9)), ("at an end", ("epoch", 2))):
        with pytest.raises(Stopped):
            rushlight.train(runs=tmp_path, name=name, on_event=stopping_at(*moment), **options_of(make), **numerics)
        given = options_of(make)
        again = {key: given[key] for key in ("model", "data", "test_data", "loss", "objective") if key in given}
        run = rushlight.resume(name, runs=tmp_path, quiet=True, **again)
        assert run.losses.tolist() == whole.losses.tolist(), name
        assert run.summary()["state_sha256"] == whole.summary()["state_sha256"], name
        assert run.summary()["inexact"] == []


# ── state that cannot be kept ────────────────────────────────────────────────────────────────────────────────


def reads_counted_by_workers() -> Given:
    return {**dataset_that_counts_reads(), "workers": 2}


def source_without_a_seed() -> Given:
    class System(Points):
        def noise(self) -> Any:
            return random.SystemRandom().random()

    return {"data": System()}


def iterator_of_the_sampler() -> Given:
    class Endless(Sampler[int]):
        def __init__(self) -> None:
            self.seeds = iter(range(1000))

        def __len__(self) -> int:
            return COUNT

        def __iter__(self) -> Iterator[int]:
            return iter(torch.randperm(COUNT, generator=torch.Generator().manual_seed(next(self.seeds))).tolist())

    return {"data": DataLoader(Points(), SIZE, sampler=Endless())}


def object_made_in_training() -> Given:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.counter = net(), None

        def forward(self, x: Tensor) -> Tensor:
            if self.counter is None and torch.is_grad_enabled() and len(x) == SIZE:
                self.counter = Counted()
            if self.counter is not None:
                self.counter.calls += 1
            return self.net(x)

    return {"model": Late()}


class Counted:
    """Counts."""

    calls = 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (reads_counted_by_workers, "it changes itself when it is read"),
        (source_without_a_seed, "no seed governs it"),
        (iterator_of_the_sampler, "train.sampler.seeds may change"),
        (object_made_in_training, "model.counter.calls may change"),
    ],
)
def test_state_that_cannot_be_kept_is_told_and_its_resume_is_recorded_as_inexact(
    make: Callable[[], Given], words: str, tmp_path: Path
) -> None:
    told: list[str] = []
    stop = stopping_at("epoch", 2)

    def follow(event: Event) -> None:
        told.append(str(event.data.get("text")) if event.kind == "warning" else "")
        stop(event)

    with pytest.raises(Stopped):
        rushlight.train(runs=tmp_path, name="a", on_event=follow, numerics="exact", **options_of(make))
    assert [text for text in told if words in text and "may end with other bits" in text]
    assert list_sessions(tmp_path / "a")[0]["differences"] == []
    given = options_of(make)
    again = {key: given[key] for key in ("model", "data", "test_data") if key in given}
    run = rushlight.resume("a", runs=tmp_path, quiet=True, **again)
    assert any(words in difference for difference in run.summary()["inexact"])


# ── what is found ────────────────────────────────────────────────────────────────────────────────────────────


def test_what_has_not_changed_is_not_kept() -> None:
    model = net()
    held = Held({"model": model, "train": Points()})
    assert held.changes() == {}
    model[2].p = 0.5  # type: ignore[index]
    assert held.changes() == {"model.2.p": 0.5}
    assert held.changes("train") == {}
    held.restore({})
    assert model[2].p == 0.2  # type: ignore[index]


def test_lists_and_tensors_are_restored_in_place() -> None:
    owner = nn.Module()
    owner.queue, owner.mean = deque([1, 2], maxlen=3), torch.zeros(2)
    queue, mean, held = owner.queue, owner.mean, Held({"model": owner})
    owner.queue.append(7)
    owner.mean += 1
    kept = held.changes()
    other = nn.Module()
    other.queue, other.mean = deque([1, 2], maxlen=3), torch.zeros(2)
    Held({"model": other}).restore(kept)
    assert (list(other.queue), other.mean.tolist()) == ([1, 2, 7], [1.0, 1.0])
    held.restore({})
    assert (owner.queue, owner.mean) == (queue, mean)
    assert (list(queue), mean.tolist()) == ([1, 2], [0.0, 0.0])


def test_an_object_that_holds_itself_and_large_data_take_no_time() -> None:
    owner: Any = Points()
    owner.itself, owner.files = owner, [(f"{number}.png", number) for number in range(100_000)]
    owner.pixels = np.zeros((1000, 2000))
    held = Held({"train": owner})
    owner.files[5] = ("other", 5)
    assert held.changes() == {}
    assert held.unkept == []
