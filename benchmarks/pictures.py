"""Whether reading keeps up with a card: ResNet-18 on 224 × 224 pictures from a folder.

    python -m benchmarks.pictures [--device cuda] [--pictures 4096] [--repeat 4] [--workers 14,0]

The same training is measured with the pictures in the card's memory, where nothing is read, and with JPEG files that are read and
decoded in every epoch: by worker processes or, with 0 workers, by threads. The share of the first rate that the second reaches is the
share of the time in which the card is busy. A plain DataLoader loop over the same files stands beside it. Each file is found under
several names (hard links), so that an epoch is long and is made quickly. An epoch lasts until the next one begins, with its small test
and what is saved. The first one is left out, and the last, whose end has nothing to read ahead.
"""

from __future__ import annotations

import argparse
import os
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


def make_pictures(folder: Path, count: int, side: int, repeat: int) -> None:
    """Write JPEG files of smooth random patterns: `train/`, each under `repeat` names, and a small `test/`, by class."""

    def write(number: int) -> None:
        random = np.random.default_rng(number)
        split = "train" if number < count else "test"
        path = folder / split / f"class-{number % CLASSES}" / f"{number}.jpg"
        coarse = Image.fromarray(random.integers(0, 256, (14, 14, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
        for name in range(1, repeat if number < count else 1):
            os.link(path, path.with_stem(f"{number}-{name}"))

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


def by_rushlight(data: Any, options: argparse.Namespace) -> Iterator[float]:
    """Train with Rushlight; give the seconds from the end of each epoch to the end of the next one."""
    with tempfile.TemporaryDirectory() as runs:
        began = time.perf_counter()
        for _ in rushlight.epochs(
            network(options.quick), data, epochs=options.epochs, batch_size=options.batch, optimizer="SGD", lr=0.01,
            optimizer_arguments={"momentum": 0.9}, precision=options.precision, device=options.device, runs=runs,
            quiet=True,
        ):  # fmt: skip
            ended = time.perf_counter()
            yield ended - began
            began = ended


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
    parser.add_argument("--pictures", type=int, default=4096, help="files to train on (4096)")
    parser.add_argument("--repeat", type=int, default=4, help="names of each file: an epoch has so many times more (4)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4, help="at least 3 (4)")
    parser.add_argument(
        "--workers", default=f"{max(1, usable_cores() - 2)}", help="numbers of workers, with commas; 0: threads"
    )
    options = parser.parse_args(arguments)
    machine = this_machine()
    if options.quick:
        options.pictures, options.repeat, options.batch, options.epochs, options.workers = 64, 2, 16, 3, "0"
    count = options.pictures * options.repeat
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "pictures"
        make_pictures(folder, options.pictures, 64 if options.quick else SIDE, options.repeat)
        measured: dict[str, Callable[[], Any]] = {"in memory": lambda: by_rushlight(folder, options)}
        for workers in map(int, options.workers.split(",")):
            data = open_image_folder(folder, workers=workers, memory_limit=0)
            measured[f"from files, {workers} workers"] = lambda data=data: by_rushlight(data, options)
            measured[f"plain loop, {workers} workers"] = lambda workers=workers: by_hand(folder, workers, options)
        for name, measure in measured.items():
            rows[name] = list(measure())
            say(f"  {name}: {count / min(rows[name][1:-1]):,.0f} pictures/s")
    rates = {name: count / float(np.median(seconds[1:-1])) for name, seconds in rows.items()}
    table = markdown(
        ["", "pictures/s", "the card is busy"],
        [[name, f"{rate:,.0f}", f"{rate / rates['in memory']:.2f}"] for name, rate in rates.items()],
    )
    command = f"python -m benchmarks.pictures --device {options.device} --precision {options.precision}"
    text = f"ResNet-18, {count} pictures ({count // options.batch} steps an epoch), batch {options.batch}, {options.epochs} epochs.\n\n{table}"
    write_results(options.out, "pictures", command, machine, text, {"epochs": rows})


if __name__ == "__main__":
    main()
