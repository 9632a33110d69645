"""What a batch is: of any form, it keeps its type, its samples are counted right, and it is cut where it can be."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    WeightedRandomSampler,
)

import rushlight
from rushlight.data import DataOptions, count_samples, open_source, split_batch, tensors_in
from rushlight.data.feed.batch import note_samples, to_device
from rushlight.data.feed.loader import LoaderSplit
from rushlight.errors import DataError

META = torch.device("meta")  # a device that is everywhere
Q: dict[str, Any] = {"quiet": True, "epochs": 1, "lr": 0.0}
Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Record:
    x: Tensor
    y: Tensor
    name: str = "it"


class Graph:
    """As a batch of graphs of PyTorch Geometric: nodes in one tensor, and `to` in place."""

    def __init__(self, x: Tensor, y: Tensor, num_graphs: int) -> None:
        self.x, self.y, self.num_graphs = x, y, num_graphs

    def to(self, device: Any) -> Graph:
        self.x, self.y = self.x.to(device), self.y.to(device)
        return self


class Encoding(UserDict):  # type: ignore[type-arg]
    """As transformers' BatchEncoding: a UserDict with `to`."""

    def to(self, device: Any) -> Encoding:
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


class Bare:
    """A batch of one's own, with nothing but attributes."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


ONES = torch.ones(5, 3)
FORMS: dict[str, tuple[Any, int]] = {
    "a pair": ((ONES, torch.zeros(5)), 5),
    "a list": ([ONES, torch.zeros(5)], 5),
    "a tuple in a tuple": (((ONES, torch.ones(5, 2)), torch.zeros(5)), 5),
    "a named tuple": (Point(ONES, torch.zeros(5)), 5),
    "a dict": ({"x": ONES, "y": torch.zeros(5)}, 5),
    "an ordered dict": (OrderedDict(x=ONES, y=torch.zeros(5)), 5),
    "a default dict": (collections.defaultdict(list, {"x": ONES}), 5),
    "texts and numbers": ({"text": ["a", "b", "c"], "y": torch.zeros(3)}, 3),
    "(x, dict)": ((ONES, {"a": torch.zeros(5), "b": torch.zeros(5)}), 5),
    "a dataclass": (Record(ONES, torch.zeros(5)), 5),
    "graphs": (Graph(torch.ones(40, 3), torch.zeros(7), 7), 7),
    "an encoding": (Encoding({"input_ids": torch.ones(5, 9), "labels": torch.zeros(5)}), 5),
    "a packed sequence": (pack_sequence([torch.ones(4), torch.ones(2), torch.ones(1)]), 3),
    "a packed sequence and targets": ((pack_sequence([torch.ones(4), torch.ones(2)]), torch.zeros(2)), 2),
    "an object with a batch size": (Bare(text=torch.ones(11, 4), batch_size=4), 4),
    "an object of one's own": (Bare(x=ONES, y=torch.zeros(5)), 5),
    "nothing that tells": (object(), 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_samples_of_every_form_are_counted(form: str) -> None:
    batch, samples = FORMS[form]
    assert count_samples(batch) == samples


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_every_form_is_moved_and_keeps_its_type(form: str) -> None:
    batch, _ = FORMS[form]
    moved = to_device(batch, torch.device("cpu"))
    assert type(moved) is type(batch)
    if isinstance(batch, (Bare, PackedSequence)) or form.startswith(("nothing", "a packed")):
        return
    fresh = {"graphs": Graph(torch.ones(4, 3), torch.zeros(2), 2), "an encoding": Encoding({"x": ONES})}
    moved = to_device(fresh.get(form, batch), META)
    assert type(moved) is type(batch)
    held = (
        vars(moved).values()
        if isinstance(moved, (Record, Graph))
        else moved.values()
        if hasattr(moved, "values")
        else moved
    )
    tensors = [
        tensor
        for part in held
        for tensor in (part if isinstance(part, tuple) else [part])
        if isinstance(tensor, Tensor)
    ]
    assert tensors
    assert {tensor.device for tensor in tensors} == {META}
    assert ONES.device.type == "cpu"


# ── counted as they are collated ─────────────────────────────────────────────────────────────────────────────


X = torch.randn(104, 8, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


class Samples(Dataset[Any]):
    """104 samples: not a whole number of batches, and the last ones are unlike the others."""

    def __init__(self) -> None:
        self.x = torch.cat([X[:100], X[100:] * 30])

    def __len__(self) -> int:
        return 104

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], Y[index]


def columns(samples: list[Any]) -> tuple[Tensor, Tensor]:
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])


def time_first(samples: list[Any]) -> tuple[Tensor, Tensor]:
    x, y = columns(samples)
    return x.t().contiguous(), y  # (8, n)


def in_lists(samples: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*((x.view(2, 4), {"y": y}) for x, y in samples), strict=True))


def x_of(batch: Any) -> Tensor:
    """The inputs, (n, 8), of a batch of any of the forms below."""
    if isinstance(batch, tuple) and isinstance(batch[0], tuple):
        return torch.stack(batch[0]).flatten(1)
    if isinstance(batch, list):
        return torch.stack([x for x, _ in batch])
    if isinstance(batch, dict):
        return batch["x"]
    if isinstance(batch, tuple):
        return batch[0] if batch[0].shape[-1] == 8 else batch[0].t()
    return batch.x.view(-1, 8)


def y_of(batch: Any) -> Tensor:
    if isinstance(batch, list):
        return torch.stack([y for _, y in batch])
    if isinstance(batch, dict):
        return batch["y"]
    y = batch[1] if isinstance(batch, tuple) else batch.y
    return torch.stack([each["y"] for each in y]) if isinstance(y, tuple) else y


COLLATES: dict[str, Callable[[list[Any]], Any]] = {
    "tensors": columns,
    "a dict": lambda samples: dict(zip("xy", columns(samples), strict=True)),
    "a named tuple": lambda samples: Point(*columns(samples)),
    "a dataclass": lambda samples: Record(*columns(samples)),
    "graphs": lambda samples: Graph(columns(samples)[0].view(-1, 2), columns(samples)[1], len(samples)),
    "an object that tells nothing": lambda samples: Bare(x=columns(samples)[0].view(-1, 2), y=columns(samples)[1]),
    "lists of images": in_lists,
    "the samples themselves": lambda samples: samples,
    "time first": time_first,
}


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(x_of(batch)), y_of(batch))


@pytest.mark.parametrize("form", COLLATES)
def test_means_are_over_samples_whatever_the_form_of_a_batch(form: str, tmp_path: Path) -> None:
    dataset = Samples()
    loader = DataLoader(dataset, 50, collate_fn=COLLATES[form])
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    run = rushlight.train(model, loader, test_data=loader, objective=loss_of, runs=tmp_path, **Q)
    with torch.no_grad():
        expected = F.cross_entropy(model(dataset.x), Y).item()
    summary = run.summary()
    assert summary["test"]["n"] == 104
    assert summary["test"]["loss"] == pytest.approx(expected, rel=1e-5)
    assert summary["train_loss"] == pytest.approx(expected, rel=1e-5)
    assert not any("do not tell how many samples" in note for note in run.notes)


@pytest.mark.parametrize("form", ["time first", "lists of images", "graphs"])
def test_accumulated_gradients_weigh_micro_batches_by_their_samples(form: str, tmp_path: Path) -> None:
    dataset = Samples()
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    whole = nn.Linear(8, 2)
    whole.load_state_dict(model.state_dict())
    loader = DataLoader(dataset, 50, collate_fn=COLLATES[form])
    rushlight.train(
        model, loader, objective=loss_of, optimizer="SGD", lr=0.1, accumulate=3, epochs=1, runs=tmp_path, quiet=True
    )
    F.cross_entropy(whole(dataset.x), Y).backward()
    with torch.no_grad():
        for mine, theirs in zip(model.parameters(), whole.parameters(), strict=True):
            assert torch.allclose(mine, theirs - 0.1 * theirs.grad, atol=1e-5)  # type: ignore[operator]


def test_what_cannot_be_counted_is_said_once(tmp_path: Path) -> None:
    class Batches(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from ({"b": "text"}, {"b": "more"})

    run = rushlight.train(
        nn.Linear(1, 1), DataLoader(Batches(), batch_size=None), objective=lambda model, batch: model(torch.ones(1, 1)).mean(),
        runs=tmp_path, **Q,
    )  # fmt: skip
    assert sum("do not tell how many samples" in note for note in run.notes) == 1


def test_a_loaders_own_batches_stay_the_users(tmp_path: Path) -> None:
    class Pre(DataLoader):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[Any]:
            for x, y in super().__iter__():
                yield {"x": x, "y": y}

    loader = Pre(Samples(), 50, collate_fn=columns)
    run = rushlight.train(nn.Linear(8, 2), loader, test_data=loader, objective=loss_of, runs=tmp_path, **Q)
    assert run.summary()["test"]["n"] == 104
    assert isinstance(next(iter(DataLoader(Samples(), 50, collate_fn=columns))), tuple)


# ── cut ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pieces_of_a_batch_have_its_form_and_their_own_samples() -> None:
    for collate in (
        columns,
        COLLATES["a dict"],
        COLLATES["a named tuple"],
        COLLATES["a dataclass"],
        in_lists,
        time_first,
    ):
        batch = note_samples(collate([Samples()[index] for index in range(10)]), 10)
        pieces = split_batch(batch, 4)
        assert [count_samples(piece) for piece in pieces] == [4, 4, 2]
        assert all(type(piece) is type(batch) for piece in pieces)
        assert torch.equal(torch.cat([x_of(piece) for piece in pieces]), x_of(batch))
        assert torch.equal(torch.cat([y_of(piece) for piece in pieces]), y_of(batch))


def test_what_cannot_be_cut_stays_whole() -> None:
    for batch in (
        Graph(torch.ones(40, 3), torch.zeros(7), 7),
        (Graph(torch.ones(40, 3), torch.zeros(7), 7), torch.zeros(7)),
    ):
        assert len(split_batch(batch, 2)) == 1
        assert split_batch(batch, 2)[0] is batch
    packed = (pack_sequence([torch.ones(4), torch.ones(2)]), torch.zeros(2))
    assert split_batch(packed, 1)[0] is packed


# ── lengths ──────────────────────────────────────────────────────────────────────────────────────────────────


class Counted(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return (Samples()[index] for index in range(104))

    def __len__(self) -> int:
        return 104


class Uncounted(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return (Samples()[index] for index in range(104))


class ByThrees(BatchSampler):
    def __init__(self) -> None:
        super().__init__(SequentialSampler(Samples()), 3, False)

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([index, index + 1, index + 2] for index in range(0, 102, 3))


LOADERS: dict[str, tuple[Callable[[], Any], int | None, int | None]] = {  # batches, samples
    "collate_fn": (lambda: DataLoader(Samples(), 50, collate_fn=columns), 3, 104),
    "drop_last": (lambda: DataLoader(Samples(), 50, drop_last=True), 2, 100),
    "a sampler": (lambda: DataLoader(Samples(), 10, sampler=WeightedRandomSampler(torch.ones(104), 33)), 4, 33),
    "a batch sampler of one's own": (lambda: DataLoader(Samples(), batch_sampler=ByThrees()), 35, None),
    "torch's batch sampler": (
        lambda: DataLoader(Samples(), batch_sampler=BatchSampler(SequentialSampler(Samples()), 50, True)), 2, 100,
    ),
    "an iterable dataset with a length": (lambda: DataLoader(Counted(), 50), 3, 104),
    "an iterable dataset of batches": (lambda: DataLoader(Counted(), None), 104, None),
    "an iterable dataset without": (lambda: DataLoader(Uncounted(), 50), None, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_has_the_length_that_it_gives(kind: str) -> None:
    make, batches, samples = LOADERS[kind]
    split = LoaderSplit(make(), lambda batch: batch)
    assert (split.count_batches(64), split.samples) == (batches, samples)
    if samples is not None:
        read = list(split.batches(64, seed=0, epoch=1))
        assert (len(read), sum(map(count_samples, read))) == (batches, samples)


@pytest.mark.parametrize("kind", [kind for kind in LOADERS if kind not in ("an iterable dataset of batches",)])
def test_a_loader_of_known_length_has_the_default_schedule_and_cosine(kind: str, tmp_path: Path) -> None:
    make, batches, _ = LOADERS[kind]
    run = rushlight.train(nn.Linear(8, 2), make(), epochs=2, runs=tmp_path, quiet=True)
    assert run.recipe.schedule["name"] == ("constant" if batches is None else "cosine")
    assert run.history[0]["steps_per_epoch"] == batches
    if batches is not None:
        assert rushlight.train(nn.Linear(8, 2), make(), epochs=1, lr=0.1, schedule="cosine", runs=tmp_path, quiet=True)


def test_a_loader_that_gives_more_batches_than_it_promised_stays_at_the_last_rate(tmp_path: Path) -> None:
    class Modest(Counted):
        def __len__(self) -> int:
            return 60

    seen: list[float] = []
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.register_step_pre_hook(lambda *_: seen.append(optimizer.param_groups[0]["lr"]))
    rushlight.train(
        model, DataLoader(Modest(), 10), optimizer=optimizer, schedule="cosine", epochs=1, runs=tmp_path, quiet=True
    )
    assert len(seen) == 11
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen[5:])) == 1


# ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────


class Pids(Dataset[Any]):
    """Samples that say which process read them, and whether it was begun as its loader says."""

    began = -1

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        # its own generator: data that is not kept in memory
        return torch.tensor(
            [os.getpid(), Pids.began, torch.rand((), generator=self.generator).item()], dtype=torch.float64
        ), index % 2


def begin(worker: int) -> None:
    Pids.began = worker


@pytest.mark.parametrize(("own", "option", "expected"), [(2, 0, 2), (0, 0, 0), (2, 1, 1), (0, 1, 1)])
def test_an_ordinary_loaders_workers_read_its_data(own: int, option: int, expected: int) -> None:
    loader = DataLoader(Pids(), 2, num_workers=own)
    opened = open_source(loader, loader, DataOptions(workers=option))
    assert opened.train.workers == expected  # type: ignore[attr-defined]
    assert opened.test is not None
    assert opened.test.workers == expected  # type: ignore[attr-defined]


def test_workers_begin_as_their_loader_says() -> None:
    loader = DataLoader(Pids(), 2, num_workers=2, worker_init_fn=begin)
    opened = open_source(loader, None, DataOptions())
    batches = [batch[0] for batch in opened.train.batches(2, seed=0, epoch=1)]
    read = torch.cat(batches)
    assert set(read[:, 1].tolist()) == {0.0, 1.0}
    assert os.getpid() not in read[:, 0].long().tolist()


# ── padded sequences ─────────────────────────────────────────────────────────────────────────────────────────


class Mean(nn.Module):
    """Classifies token sequences of any length; 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, 2, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x).sum(1)


def padded(samples: list[Any]) -> tuple[Tensor, Tensor]:
    return pad_sequence([x for x, _ in samples], batch_first=True), torch.tensor([y for _, y in samples])


def test_padded_batches_of_any_width_are_trained_on_tested_and_predicted(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    samples = [(torch.randint(1, 9, (3 + index % 5,), generator=generator), index % 2) for index in range(40)]

    def loader(first: int, last: int, size: int) -> DataLoader[Any]:
        return DataLoader(samples[first:last], size, collate_fn=padded)  # type: ignore[arg-type]

    model = Mean()
    run = rushlight.train(model, loader(0, 32, 16), test_data=loader(32, 40, 1), runs=tmp_path, **Q)
    with torch.no_grad():
        x, y = padded(samples[32:])
        outputs = model(x)
    right = (outputs.argmax(1) == y).float().mean().item()
    for size in (1, 3, 8):  # of widths 3 to 7
        report = run.test(loader(32, 40, size))
        assert (report.n, report.accuracy) == (8, pytest.approx(right))
        assert report.loss == pytest.approx(F.cross_entropy(outputs, y).item(), rel=1e-5)
    reopened = rushlight.open_run(run.name, Mean(), runs=tmp_path)
    for tokens, _ in samples[:3]:
        expected = model(tokens[None]).softmax(1).detach().numpy()
        assert run.predict(tokens[None]).probabilities == pytest.approx(expected)
        assert reopened.predict(tokens).probabilities == pytest.approx(expected)
    assert reopened.test(loader(32, 40, 3)).accuracy == pytest.approx(right)


def test_features_that_are_no_sequences_keep_their_width(tmp_path: Path) -> None:
    loader = DataLoader(Samples(), 50, collate_fn=columns)
    run = rushlight.train(nn.Linear(8, 2), loader, runs=tmp_path, **Q)
    with pytest.raises(DataError):
        run.predict(torch.zeros(2, 7))


def test_a_class_that_a_batch_holds_is_no_nest() -> None:
    @dataclasses.dataclass
    class Names:
        edge: str

    class Graph:
        def __init__(self) -> None:
            self.kind, self.x = Names, torch.zeros(3, 2)

    assert [tuple(each.shape) for each in tensors_in(Graph())] == [(3, 2)]
    assert count_samples(Graph()) == 3
