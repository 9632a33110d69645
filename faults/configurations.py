"""What the kill campaign trains: model × data × optimizer × schedule × execution, each small enough to train often."""

from __future__ import annotations

import csv
import importlib.util
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from faults import own
from rushlight.device import precision_refusal
from rushlight.training.engine.compiler import why_not_here


@dataclass(frozen=True)
class Given:
    """What is given to `rushlight.train`; `live` names what `rushlight.resume` needs again."""

    model: Any
    data: Any
    options: dict[str, Any]
    live: tuple[str, ...] = ()


@dataclass(frozen=True)
class Configuration:
    """One way to train. `give` makes everything anew in each process, from the folder of the data."""

    name: str
    give: Callable[[Path], Given]
    command: tuple[
        str, ...
    ] = ()  # the same as arguments of `rushlight train`, where these can say it; {data}: the folder
    accumulate: int = 1
    workers: int | None = None  # of data that is streamed; None: it is kept in memory
    needs: Callable[[], str | None] = lambda: None  # why this machine cannot train it


# ── models and data by name ──────────────────────────────────────────────────────────────────────────────────


def mlp_digits(data: Path) -> Given:
    """The defaults: AdamW and a cosine; with dropout."""
    return Given(
        "mlp", "digits", {"epochs": 3, "batch_size": 32, "numerics": "exact", "seed": 5,
                          "model_arguments": {"hidden": (16,), "dropout": 0.2}},
    )  # fmt: skip


def linear_digits(data: Path) -> Given:
    """The plainest, by whatever faster step there is; epochs long enough for lines of history in their middle."""
    options = {"epochs": 2, "batch_size": 6, "lr": 0.01, "optimizer": "SGD", "optimizer_arguments": {"momentum": 0.9}}
    return Given("linear", "digits", {**options, "numerics": "fast"})


def compiled_digits(data: Path) -> Given:
    """Steps compiled into one piece, several in a call; dropout, and a last batch that is smaller."""
    options = {"epochs": 3, "batch_size": 16, "lr": 0.05, "optimizer": "SGD", "schedule": "cosine", "compile": "first"}
    return Given("mlp", "digits", {**options, "model_arguments": {"hidden": (12,), "dropout": 0.2}})


def compiled_cnn(data: Path) -> Given:
    """Convolutions, BatchNorm's buffers, dropout and pooling compiled into one piece; momentum to be kept."""
    options = {"epochs": 3, "batch_size": 32, "lr": 0.05, "optimizer": "SGD", "optimizer_arguments": {"momentum": 0.9}}
    arguments = {"channels": (4, 8), "dropout": 0.1}
    return Given("cnn", "digits", {**options, "compile": "first", "model_arguments": arguments})


def cnn_digits(data: Path) -> Given:
    """BatchNorm's buffers, dropout, Adam and one cycle."""
    return Given(
        "cnn", "digits", {"epochs": 2, "batch_size": 64, "optimizer": "Adam", "lr": 0.01, "schedule": "onecycle",
                          "model_arguments": {"channels": (4, 8), "dropout": 0.1}},
    )  # fmt: skip


def cnn_bfloat16(data: Path) -> Given:
    """Lower precision."""
    return Given(
        "cnn", "digits", {"epochs": 2, "batch_size": 64, "lr": 0.01, "precision": "bfloat16", "clip_norm": 1.0,
                          "model_arguments": {"channels": (4,)}},
    )  # fmt: skip


def table(data: Path) -> Given:
    """A CSV table with classes to tell, RMSprop, a warm-up, and the gradient clipped."""
    return Given(
        "mlp", data / "flowers.csv",
        {"target": "species", "epochs": 3, "batch_size": 16, "optimizer": "RMSprop", "lr": 0.01, "warmup": 20, "clip_norm": 0.5,
         "optimizer_arguments": {"momentum": 0.5, "centered": True}, "model_arguments": {"hidden": (12,)}},
    )  # fmt: skip


def regression(data: Path) -> Given:
    """A number to predict, Adagrad, accumulated gradients, and a rate that early stopping ends."""
    return Given(
        "mlp", data / "prices.csv",
        {"target": "price", "epochs": 8, "batch_size": 8, "accumulate": 3, "optimizer": "Adagrad", "lr": 0.5, "early_stopping": 2,
         "model_arguments": {"hidden": (8,)}},
    )  # fmt: skip


def image_folder(data: Path) -> Given:
    """A folder of images kept in memory, accumulated gradients, Nesterov's momentum."""
    return Given(
        "cnn", data / "images",
        {"epochs": 2, "batch_size": 8, "accumulate": 3, "optimizer": "SGD", "lr": 0.05, "schedule": "cosine", "clip_norm": 1.0,
         "optimizer_arguments": {"momentum": 0.9, "nesterov": True}, "model_arguments": {"channels": (4,)}},
    )  # fmt: skip


# ── live models, data, optimizers and schedulers ─────────────────────────────────────────────────────────────


def plain_cnn(channels: int = 4) -> nn.Module:
    """Return a small network for 12×12 images of three classes, with BatchNorm and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1),
        nn.Linear(channels * 100, 3),
    )  # fmt: skip


def streamed(workers: int) -> Callable[[Path], Given]:
    """Return what trains on images that are augmented at random while they are read."""

    def give(data: Path) -> Given:
        torch.manual_seed(1)
        images = own.AugmentedImages(data / "images")
        test = own.AugmentedImages(data / "more-images")
        options = {"epochs": 2, "batch_size": 8, "optimizer": "AdamW", "lr": 0.01, "schedule": "cosine", "seed": 3}
        return Given(
            plain_cnn(), images, {**options, "workers": workers, "test_data": test}, ("model", "data", "test_data")
        )

    return give


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return 600 made-up images (600, 8, 8) of ten classes, and the classes."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 600)
    patterns = generator.normal(size=(10, 8, 8))
    return (patterns[labels] + generator.normal(size=(600, 8, 8))).astype(np.float32), labels


def row_reader(data: Path) -> Given:
    """A model with hidden state of its own, a live optimizer, and a live scheduler that waits for a plateau."""
    torch.manual_seed(2)
    model = own.RowReader()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.8, weight_decay=1e-3)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.3, patience=0)
    options = {"epochs": 3, "batch_size": 4, "optimizer": optimizer, "schedule": scheduler, "numerics": "exact"}
    return Given(model, digits(), options, ("model", "data", "optimizer", "schedule"))


def weighted(data: Path) -> Given:
    """A DataLoader with a sampler that only it understands, and a live scheduler that goes by steps."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
    scheduler = OneCycleLR(optimizer, max_lr=0.02, total_steps=3 * 24)
    inputs, labels = map(torch.from_numpy, digits())
    test = torch.utils.data.TensorDataset(inputs[:200], labels[:200])
    options = {"epochs": 3, "optimizer": optimizer, "schedule": scheduler, "test_data": test}
    live = ("model", "data", "optimizer", "schedule", "test_data")
    return Given(model, own.weighted_loader(inputs, labels, 25), options, live)


def iterable(data: Path) -> Given:
    """An IterableDataset of unknown length, and accumulated gradients; the last window of an epoch is a smaller one."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 2))
    options = {"epochs": 3, "accumulate": 3, "optimizer": "Adam", "lr": 0.01, "clip_norm": 1.0}
    options |= {"test_data": own.Stream(200, 1)}
    return Given(model, own.Stream(1500, 0), options, ("model", "data", "test_data"))


def autoencoder(data: Path) -> Given:
    """An objective of the user's own that draws random numbers."""
    torch.manual_seed(5)
    inputs, labels = digits()
    options = {
        "epochs": 3,
        "batch_size": 24,
        "optimizer": "Adagrad",
        "lr": 0.05,
        "schedule": "cosine",
        "objective": own.rebuild,
    }
    return Given(own.Coder(), (inputs, labels), options, ("model", "data", "objective"))


def needs_polars() -> str | None:
    """Say what tables need."""
    return None if importlib.util.find_spec("polars") else "tables need polars"


def needs_bfloat16() -> str | None:
    """Say what lower precision needs."""
    return precision_refusal("bfloat16", torch.device("cpu"))


CONFIGURATIONS: Sequence[Configuration] = (
    Configuration("mlp, digits, AdamW, cosine, exact", mlp_digits, (
        "mlp", "digits", "--epochs", "3", "--batch-size", "32", "--numerics", "exact", "--seed", "5", "--hidden", "16",
        "--model-arg", "dropout=0.2")),
    Configuration("linear, digits, SGD with momentum, constant, fast", linear_digits, (
        "linear", "digits", "--epochs", "2", "--batch-size", "6", "--optimizer", "SGD", "--lr", "0.01", "--momentum", "0.9")),
    Configuration("mlp with dropout, digits, SGD, cosine, compiled", compiled_digits, (
        "mlp", "digits", "--epochs", "3", "--batch-size", "16", "--optimizer", "SGD", "--lr", "0.05", "--schedule", "cosine",
        "--compile", "first", "--hidden", "12", "--model-arg", "dropout=0.2"), needs=why_not_here),
    Configuration("cnn with BatchNorm and dropout, digits, SGD with momentum, compiled", compiled_cnn, (
        "cnn", "digits", "--epochs", "3", "--batch-size", "32", "--optimizer", "SGD", "--lr", "0.05", "--momentum", "0.9",
        "--compile", "first", "--model-arg", "channels=4,8", "--model-arg", "dropout=0.1"), needs=why_not_here),
    Configuration("cnn with BatchNorm and dropout, digits, Adam, onecycle", cnn_digits, (
        "cnn", "digits", "--epochs", "2", "--batch-size", "64", "--optimizer", "Adam", "--lr", "0.01", "--schedule", "onecycle",
        "--model-arg", "channels=4,8", "--model-arg", "dropout=0.1")),
    Configuration("cnn, digits, AdamW, bfloat16, clipped", cnn_bfloat16, needs=needs_bfloat16),
    Configuration("mlp, CSV table, RMSprop, warm-up, clipped", table, (
        "mlp", "{data}/flowers.csv", "--target", "species", "--epochs", "3", "--batch-size", "16", "--optimizer", "RMSprop", "--lr", "0.01",
        "--warmup", "20", "--clip-norm", "0.5", "--momentum", "0.5", "--optimizer-arg", "centered=True", "--hidden", "12"),
        needs=needs_polars),
    Configuration("mlp, CSV regression, Adagrad, accumulate 3, early stopping", regression, accumulate=3, needs=needs_polars),
    Configuration("cnn, folder of images, SGD with Nesterov, cosine, accumulate 3, clipped", image_folder, accumulate=3),
    Configuration("own network, augmented images streamed, AdamW, cosine", streamed(0), workers=0),
    Configuration("own network, augmented images streamed by 2 workers, AdamW, cosine", streamed(2), workers=2),
    Configuration("own GRU with a buffer not saved, arrays, live SGD, live ReduceLROnPlateau, exact", row_reader),
    Configuration("own network, DataLoader with a weighted sampler, live RMSprop, live OneCycleLR", weighted, workers=0),
    Configuration("own network, IterableDataset, Adam, accumulate 3, clipped", iterable, accumulate=3, workers=0),
    Configuration("own objective, arrays, Adagrad, cosine", autoencoder),
)  # fmt: skip


# ── files to train on ────────────────────────────────────────────────────────────────────────────────────────


def write_data(folder: Path) -> Path:
    """Write the tables and images that the configurations train on; the same ones each time."""
    generator = random.Random(0)
    folder.mkdir(parents=True)
    flowers = [flower(generator) for _ in range(360)]
    write_csv(folder / "flowers.csv", ("petal", "sepal", "stem", "colour", "species"), flowers)
    prices = [price(generator) for _ in range(300)]
    write_csv(folder / "prices.csv", ("rooms", "area", "age", "price"), prices)
    for name, count in (("images", 40), ("more-images", 12)):
        write_images(folder / name, count, generator)
    return folder


def flower(generator: random.Random) -> tuple[Any, ...]:
    """Return one row of a table to classify; some values are missing."""
    species = generator.choice(("iris", "rose", "tulip"))
    petal = generator.gauss(len(species), 1.0)
    sepal = "" if generator.random() < 0.05 else round(generator.gauss(ord(species[0]) / 40, 0.5), 3)
    return round(petal, 3), sepal, round(generator.random(), 3), generator.choice(("red", "white", "yellow")), species


def price(generator: random.Random) -> tuple[Any, ...]:
    """Return one row of a table with a number to predict."""
    rooms, area, age = generator.randint(1, 7), generator.uniform(20, 200), generator.randint(0, 90)
    return (
        rooms,
        round(area, 1),
        age,
        round(50 * rooms + 3 * area - age + 30 * math.sin(area) + generator.gauss(0, 20), 1),
    )


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_images(folder: Path, count: int, generator: random.Random) -> None:
    """Write `count` noisy 12×12 images of each of three classes."""
    for number, name in enumerate(("bars", "dots", "waves")):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = [
                min(255, max(0, round(128 + 80 * math.sin(x * (number + 1) + y * number) + generator.gauss(0, 30))))
                for y in range(12) for x in range(12)
            ]  # fmt: skip
            image = Image.new("L", (12, 12))
            image.putdata(pixels)
            image.save(folder / name / f"{index:03d}.png")
