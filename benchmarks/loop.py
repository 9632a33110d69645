"""Time per step of three loops on the same work, interleaved: the plain DataLoader loop, by hand in memory, Rushlight.

    python -m benchmarks.loop [--rounds 5] [--steps 938] [--json]

The work is the guide's: 784-512-512-10 on Fashion-MNIST, batch 64, SGD at 1e-3, ÷255, float32. Each round trains one epoch
with each loop, in turn, in this one process; what is reported is the median over rounds and the spread, and the
ratios round by round, since the machine's speed drifts between rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import rushlight
from rushlight.data.named import open_named
from rushlight.models import build_model

BATCH, RATE = 64, 1e-3


class LikeTorchvision(Dataset[tuple[Tensor, int]]):
    """What torchvision's FashionMNIST with ToTensor does for each sample: a PIL image, to an array, to float32 in 0…1."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        import numpy as np
        from PIL import Image

        image = Image.fromarray(self.images[index, 0].numpy())
        pixels = torch.from_numpy(np.array(image, copy=True)).view(28, 28, 1).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255), int(self.labels[index])


def network() -> nn.Module:
    """The network, with the same initial weights each time."""
    return build_model("mlp", (1, 28, 28), 10, {"hidden": (512, 512)}, seed=0)


def plain(images: Tensor, labels: Tensor) -> float:
    """One epoch of the guide's loop; seconds."""
    model = network()
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), lr=RATE), nn.CrossEntropyLoss()
    loader = DataLoader(LikeTorchvision(images, labels), batch_size=BATCH, shuffle=True)
    began = time.perf_counter()
    model.train()
    for batch, (x, y) in enumerate(loader):
        loss = loss_fn(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if batch % 100 == 0:
            loss.item()
    return time.perf_counter() - began


def by_hand(images: Tensor, labels: Tensor) -> float:
    """One epoch of a careful by-hand loop on data in memory; seconds."""
    model = network()
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), lr=RATE), nn.CrossEntropyLoss()
    began = time.perf_counter()
    model.train()
    order = torch.randperm(len(images))
    for first in range(0, len(order), BATCH):
        chosen = order[first : first + BATCH]
        loss = loss_fn(model(images[chosen].float().div_(255)), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began


def ours(images: Tensor, labels: Tensor) -> float:
    """One epoch of Rushlight with everything on (history, checkpoint, screen off) less its test; seconds."""
    with tempfile.TemporaryDirectory() as runs:
        data = rushlight.open_data((images, labels), test_fraction=0.0, normalize="unit")
        training = rushlight.epochs(
            network(),
            data,
            epochs=1,
            batch_size=BATCH,
            optimizer="SGD",
            lr=RATE,
            numerics="exact",
            runs=runs,
            quiet=True,
        )
        epoch = next(iter(training))
        training.close()
        return epoch.seconds


LOOPS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "plain DataLoader loop": plain,
    "by hand, in memory": by_hand,
    "rushlight, exact": ours,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time per step: the plain loop, by hand in memory, Rushlight.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=938, help="steps per round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    arrays = open_named("fashion-mnist")
    count = min(options.steps * BATCH, len(arrays.train_inputs))
    images, labels = torch.from_numpy(arrays.train_inputs[:count]), torch.from_numpy(arrays.train_targets[:count])
    steps = -(-count // BATCH)
    by_hand(images[:6400], labels[:6400])  # warm up the allocator and the kernels
    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    for _ in range(options.rounds):
        for name, loop in LOOPS.items():
            seconds[name].append(loop(images, labels))
    reference = seconds["plain DataLoader loop"]
    rows = {
        name: {
            "microseconds_per_step": statistics.median(times) / steps * 1e6,
            "least": min(times) / steps * 1e6,
            "most": max(times) / steps * 1e6,
            "ratio_to_plain": statistics.median(mine / theirs for mine, theirs in zip(times, reference, strict=True)),
        }
        for name, times in seconds.items()
    }
    if options.json:
        print(json.dumps({"rounds": options.rounds, "steps": steps, "threads": torch.get_num_threads(), "loops": rows}))
        return
    print(f"{options.rounds} rounds of {steps} steps, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, row in rows.items():
        spread = f"{row['least']:,.0f}-{row['most']:,.0f}"
        print(
            f"{name:24} {row['microseconds_per_step']:8,.0f} µs/step  ({spread})  {row['ratio_to_plain']:.2f} of the plain loop"
        )


if __name__ == "__main__":
    main()
