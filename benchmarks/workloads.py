"""The five workloads: what is trained on what, and how. Every contender gets the same arrays and the same first weights.

The network is the same object for all of them, made by `Workload.model()`; so are batch size, optimizer, learning rate
and epochs. What each does with it stands in `benchmarks/peers/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

Kind = Literal["image", "array", "tokens"]
Arrays = dict[str, np.ndarray]  # train_inputs, train_targets, test_inputs, test_targets


@dataclass(frozen=True)
class Workload:
    """What is trained on what, and how."""

    name: str
    title: str
    kind: Kind
    network: Callable[[], nn.Module]
    arrays: Callable[[bool], Arrays]  # is_quick -> the data
    batch_size: int
    optimizer: str  # a class of torch.optim
    lr: float
    optimizer_arguments: Mapping[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        """Return the network, with the same initial weights each time."""
        torch.manual_seed(0)
        return self.network()

    def torch_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer as a plain loop makes it."""
        made: torch.optim.Optimizer = getattr(torch.optim, self.optimizer)(
            model.parameters(), lr=self.lr, **self.optimizer_arguments
        )
        return made


@dataclass(frozen=True)
class Work:
    """A workload with its data in the machine's memory, and the device to train on. Images are uint8 (n, 1, h, w), targets int64 (n,)."""

    workload: Workload
    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    device: torch.device

    @property
    def steps(self) -> int:
        """The steps of an epoch."""
        return math.ceil(len(self.inputs) / self.workload.batch_size)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.targets.max()) + 1

    def on_device(self) -> Work:
        """Return the work with its data on the device."""
        names = ("inputs", "targets", "test_inputs", "test_targets")
        return replace(self, **{name: getattr(self, name).to(self.device) for name in names})

    def prepared(self, inputs: Tensor) -> Tensor:
        """Return inputs as the network takes them: images as floats from 0 to 1."""
        return inputs.float().div_(255) if self.workload.kind == "image" else inputs

    def loaders(self, workers: int = 0) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Return the loaders of a tutorial: shuffled to train, in order to test."""
        size = self.workload.batch_size
        train, test = self.datasets()
        return (
            DataLoader(train, batch_size=size, shuffle=True, num_workers=workers),
            DataLoader(test, batch_size=size, num_workers=workers),
        )

    def datasets(self) -> tuple[Dataset[Any], Dataset[Any]]:
        """Return the datasets of a tutorial: torchvision's with `ToTensor` for images, a TensorDataset for the rest."""
        make: Any = torchvision_dataset if self.workload.kind == "image" else TensorDataset
        return make(self.inputs, self.targets), make(self.test_inputs, self.test_targets)


def open_work(workload: Workload, path: Path, device: str = "cpu") -> Work:
    """Read a workload's data from the file that `save_arrays` wrote."""
    with np.load(path) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return Work(
        workload, *(tensors[f"{split}{part}"] for split in ("train_", "test_") for part in ("inputs", "targets")),
        torch.device(device),
    )  # fmt: skip


def save_arrays(path: Path, arrays: Arrays, samples: int | None = None) -> None:
    """Write a workload's data, uncompressed; with `samples` that many to train on, and as large a share to test on."""
    count = len(arrays["train_inputs"])
    share = 1.0 if samples is None else min(samples / count, 1.0)
    np.savez(path, **{name: array[: math.ceil(share * len(array))] for name, array in arrays.items()})


# ── data as a tutorial reads it ──────────────────────────────────────────────────────────────────────────────


def torchvision_dataset(images: Tensor, labels: Tensor) -> Dataset[tuple[Tensor, int]]:
    """The guide's `datasets.FashionMNIST(…, transform=ToTensor())` on these samples: torchvision's own, where it is installed."""
    try:
        from torchvision.datasets import FashionMNIST
        from torchvision.transforms import ToTensor
    except (ImportError, RuntimeError):  # a torchvision of another torch fails with a RuntimeError
        return LikeTorchvision(images, labels)
    dataset = FashionMNIST.__new__(FashionMNIST)  # its files are not read: the samples are at hand
    dataset.data, dataset.targets = images[:, 0], labels
    dataset.transform, dataset.target_transform = ToTensor(), None
    return dataset


class LikeTorchvision(Dataset[tuple[Tensor, int]]):
    """The conversions that torchvision's FashionMNIST with ToTensor does for each sample, without its checks.

    A PIL image, to an array, to float32 in 0…1. It takes 21 µs a sample where torchvision 0.29 takes 24.5 (2026-11-23, AMD EPYC).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images[index, 0].numpy())
        pixels = torch.from_numpy(np.array(image, copy=True)).unsqueeze(0)
        return pixels.to(torch.float32).div(255), int(self.labels[index])


# ── networks ─────────────────────────────────────────────────────────────────────────────────────────────────


def guide_network() -> nn.Module:
    """784-512-512-10."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def small_network() -> nn.Module:
    """6-8-5."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))


def convolutional_network() -> nn.Module:
    """Three 3×3 convolutions with BatchNorm, 32, 64 and 128 channels; then average and one linear layer."""
    layers: list[nn.Module] = []
    for channels, width in ((1, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def tabular_network() -> nn.Module:
    """32-256-256-8 with dropout."""
    layers: list[nn.Module] = []
    for inputs in (32, 256):
        layers += [nn.Linear(inputs, 256), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(256, 8))


VOCABULARY, LENGTH = 32, 64


class SmallTransformer(nn.Module):
    """Two layers of four heads, 64 wide, on sequences of 64 tokens; the mean over the sequence is classified."""

    def __init__(self, classes: int = 8, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 128, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits (batch, classes) of tokens (batch, 64)."""
        return self.head(self.encoder(self.embedding(tokens) + self.positions).mean(1))


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────


def pictures(is_quick: bool) -> Arrays:
    """Fashion-MNIST as uint8 (n, 1, 28, 28); to be quick, the digits in the middle of such pictures."""
    from rushlight.data.sources.named.named import open_named

    found = open_named("digits" if is_quick else "fashion-mnist")
    inputs = {"train_inputs": found.train_inputs, "test_inputs": found.test_inputs}
    if is_quick:
        wide = {name: np.repeat(np.repeat(images, 3, axis=2), 3, axis=3) for name, images in inputs.items()}
        inputs = {name: np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2))) for name, images in wide.items()}
    return {**inputs, "train_targets": found.train_targets, "test_targets": found.test_targets}


def table(train: int, test: int, features: int, classes: int) -> Callable[[bool], Arrays]:
    """Return how to make a table of normally distributed features; a fixed random network with noise says the classes."""

    def make(is_quick: bool) -> Arrays:
        rows = (train // 16, test // 16) if is_quick else (train, test)
        random = np.random.default_rng(1)
        first = random.normal(size=(features, 32)) / math.sqrt(features)
        second = random.normal(size=(32, classes))
        inputs = random.normal(size=(sum(rows), features))
        scores = np.tanh(2 * inputs @ first) @ second
        targets = (scores + random.normal(size=scores.shape)).argmax(1)
        return cut({"inputs": inputs.astype(np.float32), "targets": targets}, rows[0])

    return make


def sequences(train: int, test: int, classes: int = 8) -> Callable[[bool], Arrays]:
    """Return how to make sequences of tokens; which token follows which differs a little from class to class."""

    def make(is_quick: bool) -> Arrays:
        rows = (train // 16, test // 16) if is_quick else (train, test)
        random = np.random.default_rng(1)
        common = random.dirichlet(np.full(VOCABULARY, 0.5), size=VOCABULARY)
        own = random.dirichlet(np.full(VOCABULARY, 0.5), size=(classes, VOCABULARY))
        reach = (0.4 * common + 0.6 * own).cumsum(2)  # (classes, this token, next token)
        targets = random.integers(classes, size=sum(rows))
        tokens = np.empty((sum(rows), LENGTH), dtype=np.int64)
        tokens[:, 0] = random.integers(VOCABULARY, size=sum(rows))
        for place in range(1, LENGTH):
            drawn = random.random((sum(rows), 1))
            following = (reach[targets, tokens[:, place - 1]] < drawn).sum(1)
            tokens[:, place] = following.clip(max=VOCABULARY - 1)
        return cut({"inputs": tokens, "targets": targets}, rows[0])

    return make


def cut(arrays: Arrays, train: int) -> Arrays:
    """Cut arrays into the rows to train on and those to test on."""
    parts = {"train": slice(None, train), "test": slice(train, None)}
    return {f"{split}_{name}": array[rows] for split, rows in parts.items() for name, array in arrays.items()}


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "mlp", "784-512-512-10 on Fashion-MNIST, batch 64, SGD", "image", guide_network, pictures, 64, "SGD", 1e-3
        ),
        Workload(
            "small", "6-8-5 on 16,000 rows, batch 64, SGD", "array", small_network, table(16_000, 4_000, 6, 5), 64, "SGD", 0.1
        ),
        Workload(
            "cnn", "CNN with BatchNorm on Fashion-MNIST, batch 128, SGD with momentum", "image", convolutional_network,
            pictures, 128, "SGD", 0.02, {"momentum": 0.9},
        ),
        Workload(
            "tabular", "32-256-256-8 with dropout on 51,200 rows, batch 256, Adam", "array", tabular_network,
            table(51_200, 6_400, 32, 8), 256, "Adam", 1e-3,
        ),
        Workload(
            "transformer", "Transformer on 12,800 sequences of 64 tokens, batch 64, AdamW", "tokens", SmallTransformer,
            sequences(12_800, 2_560), 64, "AdamW", 1e-3,
        ),
    )
}  # fmt: skip
