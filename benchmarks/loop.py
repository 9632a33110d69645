"""Time per step of three loops on the same work, interleaved: the plain DataLoader loop, by hand in memory, Rushlight.

    python -m benchmarks.loop [--rounds 5] [--steps 938] [--json]

The work is the guide's: 784-512-512-10 on Fashion-MNIST, batch 64, SGD at 1e-3, ÷255, float32, and a test on the 10,000 test
images after the epoch. In each round every loop trains and tests one epoch, in turn, in a process of its own (what one
does to the allocator must not help the others). Reported is seconds / training steps: the median over rounds, the spread,
and the ratio round by round, since the machine's speed drifts between rounds. The test accuracies stand beside the
times, so that nobody wins by doing less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import rushlight
from rushlight.data.named import open_named
from rushlight.models import build_model

BATCH, RATE = 64, 1e-3


def guide_dataset(images: Tensor, labels: Tensor) -> Dataset[tuple[Tensor, int]]:
    """The guide's `datasets.FashionMNIST(…, transform=ToTensor())` on these samples: torchvision's own, where it is installed."""
    try:
        from torchvision.datasets import FashionMNIST
        from torchvision.transforms import ToTensor
    except ImportError:
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
        pixels = torch.from_numpy(np.array(image, copy=True)).view(28, 28, 1).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255), int(self.labels[index])


def network() -> nn.Module:
    """The network, with the same initial weights each time."""
    return build_model("mlp", (1, 28, 28), 10, {"hidden": (512, 512)}, seed=0)


@dataclass(frozen=True)
class Work:
    """Images uint8 (n, 1, 28, 28) and labels int64 (n,) to train and to test on."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def plain(work: Work) -> tuple[float, float]:
    """One epoch of the guide's loop and its test; seconds and test accuracy."""
    model = network()
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), lr=RATE), nn.CrossEntropyLoss()
    loader = DataLoader(guide_dataset(work.images, work.labels), batch_size=BATCH, shuffle=True)
    test_loader = DataLoader(guide_dataset(work.test_images, work.test_labels), batch_size=BATCH)
    began = time.perf_counter()
    model.train()
    for batch, (x, y) in enumerate(loader):
        loss = loss_fn(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if batch % 100 == 0:
            loss.item()
    model.eval()
    test_loss, correct = 0.0, 0.0
    with torch.no_grad():
        for x, y in test_loader:
            outputs = model(x)
            test_loss += loss_fn(outputs, y).item()
            correct += (outputs.argmax(1) == y).type(torch.float).sum().item()
    return time.perf_counter() - began, correct / len(work.test_labels)


def by_hand(work: Work) -> tuple[float, float]:
    """One epoch of a careful by-hand loop on data in memory, and its test; seconds and test accuracy."""
    model = network()
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), lr=RATE), nn.CrossEntropyLoss()
    began = time.perf_counter()
    model.train()
    order = torch.randperm(len(work.images))
    for first in range(0, len(order), BATCH):
        chosen = order[first : first + BATCH]
        loss = loss_fn(model(work.images[chosen].float().div_(255)), work.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    correct = 0.0
    with torch.no_grad():
        for first in range(0, len(work.test_images), 256):
            outputs = model(work.test_images[first : first + 256].float().div_(255))
            correct += (outputs.argmax(1) == work.test_labels[first : first + 256]).sum().item()
    return time.perf_counter() - began, correct / len(work.test_labels)


def ours(work: Work) -> tuple[float, float]:
    """One epoch of Rushlight and its test, with history and checkpoints, the screen silent; seconds and test accuracy."""
    with tempfile.TemporaryDirectory() as runs:
        pairs = ((work.images, work.labels), (work.test_images, work.test_labels))
        data = rushlight.open_data(pairs, normalize="unit")
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
        epoch = next(training)
        training.close()
        assert epoch.test is not None
        assert epoch.test.accuracy is not None
        return epoch.seconds, epoch.test.accuracy


LOOPS: dict[str, Callable[[Work], tuple[float, float]]] = {
    "plain DataLoader loop": plain,
    "by hand, in memory": by_hand,
    "rushlight, exact": ours,
}


def summary(result: list[tuple[float, float]], reference: list[float], steps: int) -> dict[str, float]:
    """Return median and spread of one loop's rounds, and its ratio to the plain loop, round by round."""
    seconds = [taken for taken, _ in result]
    return {
        "microseconds_per_step": statistics.median(seconds) / steps * 1e6,
        "least": min(seconds) / steps * 1e6,
        "most": max(seconds) / steps * 1e6,
        "ratio_to_plain": statistics.median(mine / theirs for mine, theirs in zip(seconds, reference, strict=True)),
        "accuracy": statistics.median(accuracy for _, accuracy in result),
    }


def measure(name: str, steps: int) -> tuple[float, float]:
    """Run one loop in this process; seconds and test accuracy."""
    arrays = open_named("fashion-mnist")
    count = steps * BATCH
    train = torch.from_numpy(arrays.train_inputs[:count]), torch.from_numpy(arrays.train_targets[:count])
    work = Work(*train, torch.from_numpy(arrays.test_inputs), torch.from_numpy(arrays.test_targets))
    warm_up = Work(*(part[: 20 * BATCH] for part in (work.images, work.labels, work.test_images, work.test_labels)))
    LOOPS[name](warm_up)
    return LOOPS[name](work)


def measure_apart(name: str, steps: int) -> tuple[float, float]:
    """Run one loop in a process of its own; seconds and test accuracy."""
    command = [sys.executable, "-m", "benchmarks.loop", "--only", name, "--steps", str(steps)]
    seconds, accuracy = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return seconds, accuracy


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time per step: the plain loop, by hand in memory, Rushlight.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=938, help="steps per round, 938 (one epoch) at the most")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=LOOPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    steps = min(options.steps, 938)
    if options.only:
        print(json.dumps(measure(options.only, steps)))
        return
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in LOOPS}
    for _ in range(options.rounds):
        for name in LOOPS:
            results[name].append(measure_apart(name, steps))
    reference = [seconds for seconds, _ in results["plain DataLoader loop"]]
    rows = {name: summary(result, reference, steps) for name, result in results.items()}
    if options.json:
        print(json.dumps({"rounds": options.rounds, "steps": steps, "threads": torch.get_num_threads(), "loops": rows}))
        return
    data = type(guide_dataset(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.zeros(1))).__module__
    is_real = data.startswith("torchvision")
    print(
        f"{options.rounds} rounds of {steps} steps, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"the plain loop's data {'by torchvision' if is_real else 'as torchvision reads it'}"
    )
    for name, row in rows.items():
        spread = f"{row['least']:,.0f}-{row['most']:,.0f}"
        print(
            f"{name:24} {row['microseconds_per_step']:8,.0f} µs/step  ({spread})  {row['ratio_to_plain']:.2f} of the plain loop"
        )


if __name__ == "__main__":
    main()
