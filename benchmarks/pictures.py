"""Whether reading keeps up with a card: ResNet-18 on 224 × 224 pictures from a folder.

    python -m benchmarks.pictures [--device cuda] [--pictures 4096] [--workers 0,12]

The same training is measured with the pictures in the card's memory, where nothing is read, and with JPEG files that are read and
decoded in every epoch: by threads (0 workers) or by worker processes. The share of the first rate that the second reaches is the share
of the time in which the card is busy. A plain DataLoader loop over the same files stands beside it. The first epoch is left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import rushlight
from benchmarks.measure import say, this_machine
from benchmarks.output import markdown, standard_options, write_results
from rushlight.data.sources.images.folder import open_image_folder
from rushlight.device import usable_cores, wait_for

SIDE, CLASSES, TESTED = 224, 10, 64


def make_pictures(folder: Path, count: int, side: int) -> None:
    """Write JPEG files of smooth random patterns: `train/` and a small `test/`, by class."""

    def write(number: int) -> None:
        random = np.random.default_rng(number)
        split = "train" if number < count else "test"
        path = folder / split / f"class-{number % CLASSES}" / f"{number}.jpg"
        coarse = Image.fromarray(random.integers(0, 256, (14, 14, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)

    for split in ("train", "test"):
        for number in range(CLASSES):
            (folder / split / f"class-{number}").mkdir(parents=True)
    with ThreadPoolExecutor(usable_cores()) as threads:
        list(threads.map(write, range(count + TESTED)))


def network(is_quick: bool) -> nn.Module:
    """Return torchvision's ResNet-18; to be quick, one convolution."""
    torch.manual_seed(0)
    if is_quick:
        return nn.Sequential(nn.Conv2d(3, 4, 7, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    from torchvision.models import resnet18

    made: nn.Module = resnet18(num_classes=CLASSES)
    return made


def by_rushlight(data: Any, options: argparse.Namespace) -> list[float]:
    """Train with Rushlight; return the seconds of each epoch, with its small test."""
    with tempfile.TemporaryDirectory() as runs:
        return [
            epoch.seconds
            for epoch in rushlight.epochs(
                network(options.quick), data, epochs=options.epochs, batch_size=options.batch, optimizer="SGD", lr=0.01,
                optimizer_arguments={"momentum": 0.9}, precision=options.precision, device=options.device, runs=runs,
                quiet=True,
            )
        ]  # fmt: skip


class Pictures(Dataset[tuple[Tensor, int]]):
    """The files as a tutorial reads them: opened, made a tensor, scaled."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*/*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        return pixels, int(self.paths[index].parent.name.removeprefix("class-"))


def by_hand(folder: Path, workers: int, options: argparse.Namespace) -> Iterator[float]:
    """Train by a plain loop over a DataLoader, under autocast where Rushlight has that; give the seconds of each epoch."""
    device, model = torch.device(options.device), network(options.quick).to(options.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loader = DataLoader(
        Pictures(folder / "train"), options.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )  # fmt: skip
    is_half = options.precision == "bfloat16"
    for _ in range(options.epochs):
        began = time.perf_counter()
        for x, y in loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
                loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        wait_for(device)
        yield time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = standard_options("pictures", "Whether reading pictures keeps up with a card.", rounds=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="bfloat16" if torch.cuda.is_available() else "float32")
    parser.add_argument("--pictures", type=int, default=4096, help="to train on (4096)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--workers", default=f"0,{max(1, usable_cores() - 2)}", help="numbers of workers, with commas")
    options = parser.parse_args(arguments)
    machine = this_machine()
    if options.quick:
        options.pictures, options.batch, options.epochs, options.workers = 64, 16, 2, "0"
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "pictures"
        make_pictures(folder, options.pictures, 64 if options.quick else SIDE)
        measured: dict[str, Callable[[], Any]] = {"in memory": lambda: by_rushlight(folder, options)}
        for workers in map(int, options.workers.split(",")):
            data = open_image_folder(folder, workers=workers, memory_limit=0)
            measured[f"from files, {workers} workers"] = lambda data=data: by_rushlight(data, options)
            measured[f"plain loop, {workers} workers"] = lambda workers=workers: by_hand(folder, workers, options)
        for name, measure in measured.items():
            rows[name] = list(measure())
            say(f"  {name}: {options.pictures / min(rows[name][1:]):,.0f} pictures/s")
    rates = {name: options.pictures / float(np.median(seconds[1:])) for name, seconds in rows.items()}
    table = markdown(
        ["", "pictures/s", "of in memory"],
        [[name, f"{rate:,.0f}", f"{rate / rates['in memory']:.2f}"] for name, rate in rates.items()],
    )
    command = f"python -m benchmarks.pictures --device {options.device} --precision {options.precision}"
    text = f"ResNet-18, {options.pictures} pictures, batch {options.batch}, {options.epochs} epochs.\n\n{table}"
    write_results(options.out, "pictures", command, machine, text, {"epochs": rows})


if __name__ == "__main__":
    main()
