"""What a user might bring: models, datasets, a loader and an objective that make resuming hard."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

Sample = tuple[Tensor, int]


class RowReader(nn.Module):
    """Reads an image row by row with a GRU, noisily.

    What it keeps between steps stands in a buffer that its state_dict leaves out; its noise is drawn from Python's,
    NumPy's and torch's generators.
    """

    running: Tensor

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.gru = nn.GRU(width, 12, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, classes))
        self.register_buffer("running", torch.zeros(12), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, classes), of images (batch, height, width)."""
        _, hidden = self.gru(x)
        hidden = hidden[0]  # (batch, 12)
        if self.training:
            self.running.mul_(0.9).add_(hidden.detach().mean(0), alpha=0.1)
            hidden = hidden * (1 + 0.1 * random.random() + 0.1 * float(np.random.random()))
        logits: Tensor = self.head(hidden - 0.5 * self.running)
        return logits


class Coder(nn.Module):
    """A small autoencoder; what it is trained for is `rebuild`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the inputs rebuilt, (batch, 64)."""
        rebuilt: Tensor = self.net(x.flatten(1))
        return rebuilt


def rebuild(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return how badly the model rebuilds inputs from noisy ones."""
    inputs = batch[0].flatten(1)
    noise = 0.1 * torch.rand_like(inputs) if model.training else 0.0
    return nn.functional.mse_loss(model(inputs + noise), inputs)


class AugmentedImages(Dataset[Sample]):
    """A folder of images, `root/<class>/*.png`, each flipped, shifted and brightened at random when it is read."""

    def __init__(self, root: Path) -> None:
        self.classes = sorted(folder.name for folder in root.iterdir())
        self.files = [
            (file, self.classes.index(file.parent.name))
            for name in self.classes
            for file in sorted((root / name).iterdir())
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        file, label = self.files[index]
        with Image.open(file) as image:
            pixels = torch.from_numpy(np.array(image, np.float32)) / 255
        if random.random() < 0.5:
            pixels = pixels.flip(-1)
        pixels = pixels.roll(int(np.random.randint(-1, 2)), -1)
        return (pixels * (0.8 + 0.4 * torch.rand(()))).unsqueeze(0), label


class Stream(IterableDataset[Sample]):
    """Samples that come one after the other, shuffled anew at every pass, their number unknown beforehand."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(count, 8, generator=generator)
        self.labels = (self.inputs[:, :4].sum(1) > self.inputs[:, 4:].sum(1)).long().tolist()

    def __iter__(self) -> Iterator[Sample]:
        for index in torch.randperm(len(self.labels)).tolist():
            yield self.inputs[index] + 0.1 * torch.rand(8), self.labels[index]


def weighted_loader(inputs: Tensor, labels: Tensor, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
    """Return a loader that draws the second half of the classes twice as often as the first."""
    weights = 1.0 + (labels >= 5).double()
    sampler = WeightedRandomSampler(weights.tolist(), len(labels), replacement=True)
    return DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=batch_size, sampler=sampler)
