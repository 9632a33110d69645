"""Odd ways to train that resume to the same bits all the same: state in attributes, closures, samplers, generators, workers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedules
from torch.utils.checkpoint import checkpoint
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from faults.configurations import Configuration, Given, needs_bfloat16
from rushlight.training.engine.compiler import why_not_here

Sample = tuple[Tensor, int]


def points(count: int = 640, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return points (count, 16) of four classes, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 16, generator=generator)
    return inputs, (inputs @ torch.randn(16, 4, generator=generator)).argmax(1)


def mlp(norm: bool = True, dropout: float = 0.2) -> nn.Sequential:
    """Return a small network for the points."""
    middle = nn.BatchNorm1d(24) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(16, 24), middle, nn.GELU(), nn.Dropout(dropout), nn.Linear(24, 4))


def given(model: nn.Module, data: Any, **options: Any) -> Given:
    """Return what is given to train; a model, data and objects are needed again to resume."""
    live = ("optimizer", "schedule", "loss", "objective", "test_data")
    again = [name for name in live if name in options and not isinstance(options[name], str)]
    return Given(model, data, options, ("model", *(() if isinstance(data, str) else ("data",)), *again))


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Points(Dataset[Sample]):
    """Points that change when they are read, by the generators of the process, by one of its own, or by each read."""

    def __init__(self, change: str = "noise", count: int = 640, seed: int = 0) -> None:
        self.inputs, self.labels = points(count, seed)
        self.change, self.reads = change, 0
        self.own = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        inputs = self.inputs[index]
        if self.change == "noise":
            inputs = inputs + 0.1 * torch.randn(16) + 0.05 * random.random() + 0.05 * float(np.random.normal())
        elif self.change == "own generator":
            inputs = inputs + 0.1 * torch.from_numpy(self.own.normal(size=16).astype(np.float32))
        elif self.change == "reads":
            self.reads += 1
            inputs = inputs * (1 + 0.0005 * self.reads)
        return inputs, int(self.labels[index])


class EpochSampler(Sampler[int]):
    """Counts its own epochs, and shuffles by that number."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter(torch.randperm(self.count, generator=torch.Generator().manual_seed(self.epoch)).tolist())


class Shards(IterableDataset[Sample]):
    """A stream that its workers share out, shuffled and made noisy by the generators of each."""

    def __iter__(self) -> Iterator[Sample]:
        inputs, labels = points(600)
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in torch.randperm(len(labels)).tolist()[first::step]:
            yield inputs[index] + 0.1 * torch.rand(16) + 0.1 * np.random.rand(), int(labels[index])


class Passes(IterableDataset[Sample]):
    """A stream that counts its passes, and shuffles by that number."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Sample]:
        self.passes += 1
        inputs, labels = points(600)
        generator = torch.Generator().manual_seed(self.passes)
        for index in torch.randperm(len(labels), generator=generator).tolist():
            yield inputs[index], int(labels[index])


class Words(Dataset[Sample]):
    """Sequences of different lengths."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(3, 12, (480,), generator=generator).tolist()
        self.words = [torch.randint(1, 30, (length,), generator=generator) for length in lengths]

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> Sample:
        return self.words[index], int(self.words[index].float().mean() > 15)


def padded(samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """Return a batch of sequences, padded with 0."""
    words = nn.utils.rnn.pad_sequence([word for word, _ in samples], batch_first=True)
    return words, torch.tensor([label for _, label in samples])


def test_points() -> TensorDataset:
    """Return points to test on."""
    return TensorDataset(*points(160, seed=1))


# ── models, losses and objectives ────────────────────────────────────────────────────────────────────────────


class Annealed(nn.Module):
    """Divides its outputs by a temperature that falls with the calls; counted in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = mlp(), 0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, 4)."""
        self.calls += self.training
        logits: Tensor = self.net(x) * (1 + 1 / (1 + 0.01 * self.calls))
        return logits


class WithExtraState(Annealed):
    """The same, counted in a state that torch saves by itself."""

    def get_extra_state(self) -> dict[str, Any]:
        """Return the count, and other kinds of values."""
        return {"calls": self.calls, "list": [1, 2.5, None, "x"], "tensor": torch.tensor([self.calls])}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the count."""
        self.calls = state["calls"]


class RunningLoss(nn.Module):
    """A cross-entropy that is pulled to its running mean, and not finite now and then."""

    mean: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss."""
        loss = nn.functional.cross_entropy(outputs, targets)
        if torch.is_grad_enabled():
            self.count += 1
            self.mean.mul_(0.9).add_(0.1 * loss.detach())
        return loss + 0.1 * (loss - self.mean) + (math.nan if int(self.count) % 97 == 96 else 0.0)


class Reader(nn.Module):
    """Reads sequences with two layers of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 10, batch_first=True, num_layers=2, dropout=0.2)
        self.head = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, 2)."""
        logits: Tensor = self.head(self.lstm(self.words(x))[0][:, -1])
        return logits


class Tied(nn.Module):
    """Two layers with one weight, a head in float64, and a buffer that grows in the first 50 steps."""

    grown: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4).double()
        self.other.weight = self.one.weight
        self.register_buffer("grown", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, 4)."""
        if self.training and len(self.grown) < 50:
            self.grown = torch.cat([self.grown, x.mean().detach().reshape(1)])
        hidden = torch.relu(self.one(x)) + torch.tanh(self.other(x)) + self.grown.sum() * 0.01
        logits: Tensor = self.head(hidden.double()).float()
        return logits


class Frozen(nn.Module):
    """A body that is not trained and is computed again in the pass backward, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16)), nn.Linear(16, 4)
        self.body.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, 4)."""
        hidden = checkpoint(self.encode, x, use_reentrant=False)
        if self.training:
            hidden = hidden * torch.bernoulli(torch.full_like(hidden, 0.9))
        logits: Tensor = self.head(hidden)
        return logits

    def encode(self, x: Tensor) -> Tensor:
        """Return features, (batch, 16)."""
        return nn.functional.dropout(self.body(x), 0.3, self.training)


class Lazy(nn.Module):
    """Makes a buffer in its first call."""

    cosines: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(norm=False)
        self.register_buffer("cosines", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, 4)."""
        if self.cosines is None:
            self.cosines = torch.cos(torch.arange(16.0))
        logits: Tensor = self.net(x + 0.1 * self.cosines)
        return logits


class WithAverage(nn.Module):
    """Averages its own weights in each call, and computes with the average too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
        self.average = torch.optim.swa_utils.AveragedModel(self.net, multi_avg_fn=averaging)
        self.average.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, 4)."""
        if self.training:
            self.average.update_parameters(self.net)
        logits: Tensor = self.net(x) + 0.1 * self.average(x)
        return logits


class Complex(nn.Module):
    """A complex weight, and a head in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 8, dtype=torch.complex64) * 0.2)
        self.head = nn.Linear(8, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, 4)."""
        logits: Tensor = self.head((x.to(torch.complex64) @ self.weight).abs().double()).float()
        return logits


def mixed_up(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of mixed samples, by NumPy's, torch's and Python's random numbers."""
    inputs, labels = batch
    share, order = np.random.beta(0.4, 0.4) if model.training else 1.0, torch.randperm(len(inputs))
    outputs = model(share * inputs + (1 - share) * inputs[order])
    norms = torch.stack([parameter.pow(2).sum() for parameter in model.parameters()])
    one, other = (nn.functional.cross_entropy(outputs, each) for each in (labels, labels[order]))
    return share * one + (1 - share) * other + 1e-4 * random.random() * norms.sum()


def blown_up(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return a loss that is not finite where it is large."""
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    return loss * math.nan if model.training and loss > 4.5 else loss


def first_column(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the squared error of the first output, of a batch that is a dict."""
    return nn.functional.mse_loss(model(batch["inputs"])[:, 0], batch["label"])


# ── configurations ───────────────────────────────────────────────────────────────────────────────────────────


def streamed_by_workers() -> Given:
    """Everything at once: workers, lower precision, accumulated gradients, a plateau."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, amsgrad=True)
    schedule = schedules.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.05)
    return given(
        model, Points(), epochs=7, batch_size=8, accumulate=3, workers=2, precision="bfloat16", early_stopping=2,
        optimizer=optimizer, schedule=schedule, test_data=test_points(), clip_norm=0.7,
    )  # fmt: skip


def weighted_persistent() -> Given:
    """Workers that persist, and a sampler's own generator."""
    model, data = mlp(), Points()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    schedule = schedules.CosineAnnealingWarmRestarts(optimizer, T_0=37, T_mult=2)
    sampler = weighted(data.labels, 500, 5)
    loader = DataLoader(data, batch_size=10, sampler=sampler, num_workers=2, persistent_workers=True)
    return given(model, loader, epochs=4, optimizer=optimizer, schedule=schedule, test_data=test_points())


def weighted(labels: Tensor, count: int, seed: int) -> WeightedRandomSampler:
    """Return a sampler with a generator of its own."""
    return WeightedRandomSampler((1.0 + labels).tolist(), count, generator=torch.Generator().manual_seed(seed))


def nested_generator() -> Given:
    """A generator two samplers deep."""
    data = Points("nothing")
    loader = DataLoader(data, batch_sampler=BatchSampler(weighted(data.labels, 400, 7), 16, False))
    return given(mlp(), loader, epochs=5, optimizer="Adam", lr=0.01, test_data=test_points())


def sampler_counts_epochs() -> Given:
    """A sampler with a count of its own."""
    data = Points("nothing")
    loader = DataLoader(data, batch_size=16, sampler=EpochSampler(len(data)))
    return given(mlp(), loader, epochs=5, optimizer="Adam", lr=0.01, test_data=test_points())


def shards() -> Given:
    """A stream read by two workers."""
    model = mlp()
    optimizer = torch.optim.NAdam(model.parameters(), lr=0.01)
    schedule = schedules.LambdaLR(optimizer, lambda epoch: 0.99**epoch)
    loader = DataLoader(Shards(), batch_size=12, num_workers=2)
    return given(model, loader, epochs=4, accumulate=2, optimizer=optimizer, schedule=schedule, test_data=test_points())


def passes() -> Given:
    """A stream with a count of its own."""
    return given(mlp(), Passes(), epochs=4, optimizer="Adam", lr=0.01, test_data=test_points())


def mix_up() -> Given:
    """An objective that draws from all generators, and a schedule of two."""
    model = mlp()
    optimizer = torch.optim.RAdam(model.parameters(), lr=0.01)
    parts = [schedules.ExponentialLR(optimizer, 0.98), schedules.StepLR(optimizer, 2, 0.7)]
    schedule = schedules.ChainedScheduler(parts)
    return given(
        model, points(2400), epochs=8, batch_size=8, objective=mixed_up, optimizer=optimizer, schedule=schedule
    )


def of_points(make: Callable[[], nn.Module], **options: Any) -> Given:
    """Return a model for the points in memory."""
    return given(make(), points(2400), **{"epochs": 6, "batch_size": 8, "optimizer": "Adam", "lr": 0.003, **options})


def normed() -> Given:
    """Parametrized weights, whose buffers move, in lower precision."""
    spectral, weight = nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm
    model = nn.Sequential(
        spectral(nn.Conv2d(1, 6, 3)), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), weight(nn.Conv2d(6, 8, 2)),
        nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 10),
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fmt: skip
    return given(model, "digits", epochs=3, batch_size=16, precision="bfloat16", optimizer="Adamax", lr=0.01)


def rolled_back() -> Given:
    """A rate so high that epochs are rolled back."""
    model = mlp(norm=False, dropout=0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.5, momentum=0.9)
    return given(
        model, points(1600), epochs=6, batch_size=8, objective=blown_up, optimizer=optimizer, on_nan="rollback"
    )


def words() -> Given:
    """Batches of different widths, and a schedule that goes by steps."""
    model, loader = Reader(), DataLoader(Words(), batch_size=16, shuffle=True, collate_fn=padded)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
    schedule = schedules.OneCycleLR(optimizer, max_lr=0.1, total_steps=4 * 30, cycle_momentum=False)
    return given(model, loader, epochs=4, optimizer=optimizer, schedule=schedule)


def tied() -> Given:
    """Parameter groups, and a schedule of two phases."""
    model = Tied()
    others = [parameter for name, parameter in model.named_parameters() if name != "one.weight"]
    groups = [{"params": [model.one.weight], "lr": 0.01}, {"params": others, "lr": 0.003, "weight_decay": 0.1}]
    optimizer = torch.optim.Adam(groups)
    parts = [schedules.LinearLR(optimizer, 0.1, total_iters=3), schedules.CosineAnnealingLR(optimizer, 5)]
    schedule = schedules.SequentialLR(optimizer, parts, milestones=[3])
    return given(model, points(2400), epochs=8, batch_size=8, optimizer=optimizer, schedule=schedule)


def changing(change: str) -> Given:
    """Return a dataset that changes when it is read."""
    options = {"epochs": 4, "batch_size": 16, "optimizer": "Adam", "lr": 0.01}
    return given(mlp(), Points(change), test_data=test_points(), **options)


def compiled() -> Given:
    """Steps compiled before the second."""
    model = mlp(norm=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    return given(model, points(2400), epochs=12, batch_size=8, optimizer=optimizer, compile="first")


def concatenated() -> Given:
    """A dataset made of others, read by one worker."""
    data = ConcatDataset([Subset(Points(count=400), range(50, 390)), Points(count=200, seed=3)])
    return given(
        mlp(), data, epochs=4, batch_size=12, optimizer="RMSprop", lr=0.003, workers=1, keep_epochs=True,
        test_data=test_points(), on_nan="rollback",
    )  # fmt: skip


def frozen() -> Given:
    """A part that is not trained, and early stopping."""
    model = Frozen()
    optimizer = torch.optim.ASGD(model.head.parameters(), lr=0.05)
    return given(model, points(2400), epochs=6, batch_size=8, optimizer=optimizer, early_stopping=3)


def hooked() -> Given:
    """A hook whose closure counts."""
    model, state = mlp(norm=False), {"calls": 0}

    def swing(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        state["calls"] += module.training
        return output * (1 + 0.5 * math.sin(0.01 * state["calls"]))

    model[4].register_forward_hook(swing)
    return given(model, points(2400), epochs=6, batch_size=8, optimizer="Adam", lr=0.003)


def persistent() -> Given:
    """Workers that persist, and random transforms."""
    loader = DataLoader(Points(), batch_size=16, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)
    return given(mlp(), loader, epochs=5, optimizer="Adam", lr=0.01, test_data=test_points())


def rate_in_a_tensor() -> Given:
    """A learning rate that is changed in place."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.01), foreach=False, betas=(0.8, 0.95))
    schedule = schedules.CyclicLR(optimizer, 0.001, 0.02, step_size_up=50, cycle_momentum=False)
    return given(model, points(2400), epochs=6, batch_size=8, optimizer=optimizer, schedule=schedule)


def muon() -> Given:
    """An optimizer for matrices."""
    model = nn.Sequential(nn.Linear(16, 24, bias=False), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 4, bias=False))
    optimizer = torch.optim.Muon(model.parameters(), lr=0.01)
    return given(model, points(2400), epochs=4, batch_size=8, optimizer=optimizer)


def needs_muon() -> str | None:
    """Say what Muon needs."""
    return None if hasattr(torch.optim, "Muon") else "this torch has no Muon"


def averaged() -> Given:
    """A model within the model."""
    model = WithAverage()
    optimizer = torch.optim.Adam(model.net.parameters(), lr=0.005)
    return given(model, points(1600), epochs=4, batch_size=8, optimizer=optimizer)


def dicts() -> Given:
    """Batches that are no pairs."""
    data = [{"inputs": inputs, "label": label.float()} for inputs, label in zip(*points(800), strict=True)]
    loader: DataLoader[Any] = DataLoader(data, batch_size=16, shuffle=True)  # type: ignore[arg-type]
    return given(mlp(), loader, epochs=4, objective=first_column, optimizer="Adam", lr=0.01)


def odd(name: str, make: Callable[[], Given], **more: Any) -> Configuration:
    """Return a configuration whose model is made from a seed of its own."""

    def give(data: Path) -> Given:
        torch.manual_seed(len(name))
        return make()

    return Configuration(name, give, **more)


CONFIGURATIONS: Sequence[Configuration] = (
    odd("points streamed by 2 workers, bfloat16, accumulate 3, early stopping, live AdamW, live ReduceLROnPlateau",
        streamed_by_workers, accumulate=3, workers=2, needs=needs_bfloat16),
    odd("DataLoader, weighted sampler with a generator, persistent workers, live SGD", weighted_persistent),
    odd("DataLoader, batch sampler around a sampler with a generator", nested_generator),
    odd("DataLoader, sampler that counts its epochs", sampler_counts_epochs),
    odd("IterableDataset shared out to 2 workers, accumulate 2, live NAdam, live LambdaLR", shards, accumulate=2),
    odd("IterableDataset that counts its passes", passes),
    odd("mix-up objective, live RAdam, live ChainedScheduler", mix_up),
    odd("model that counts its calls in an attribute", partial(of_points, Annealed)),
    odd("model with an extra state that is a dict", partial(of_points, WithExtraState)),
    odd("spectral and weight norm, channels last, bfloat16, Adamax", normed, needs=needs_bfloat16),
    odd("loss with buffers, steps left out", lambda: of_points(mlp, loss=RunningLoss(), on_nan="skip")),
    odd("objective that blows up, rolled back, live SGD", rolled_back),
    odd("LSTM, DataLoader with a collate function, live Adagrad, live OneCycleLR", words),
    odd("tied weights, float64, a buffer that grows, live Adam with groups, live SequentialLR", tied),
    odd("dataset with a generator of its own", partial(changing, "own generator"), workers=0),
    odd("mlp, live AdamW, compiled first", compiled, needs=why_not_here),
    odd("datasets joined and cut, 1 worker, every epoch kept, rollback", concatenated, workers=1),
    odd("frozen body computed twice, live ASGD, early stopping", frozen),
    odd("dataset that counts its reads", partial(changing, "reads"), workers=0),
    odd("forward hook that counts in its closure", hooked),
    odd("DataLoader, shuffled, last batch dropped, persistent workers, random transforms", persistent),
    odd("buffer made in the first call", partial(of_points, Lazy, epochs=8)),
    odd("learning rate in a tensor, live Adam, live CyclicLR", rate_in_a_tensor),
    odd("live Muon", muon, needs=needs_muon),
    odd("average of its weights in forward, live Adam", averaged),
    odd("complex and float64 weights", partial(of_points, Complex, lr=0.01)),
    odd("DataLoader of dicts, objective", dicts),
)  # fmt: skip
