"""Noticing that the data is what limits: steps that wait for their batches more than they compute, said once.

Two looks at the clock for each batch of streamed data; what is in memory is never waited for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from rushlight.data import Batch, Feed, ImageFolderDataset, Split, memory_limit
from rushlight.device import usable_cores
from rushlight.runs import write_notice
from rushlight.training.state import Training

WINDOW_SECONDS = 5.0  # looked at together: one slow read says nothing
FEWEST_BATCHES = 3
MOST_WAITING = 0.5  # of the time
SMALLEST_SIDE = 16  # pixels; below that a picture shows little
TRAIN_SHARE = 0.7  # of the memory for samples is for these; the rest for those to test on, and for what else comes


def telling_of_waiting(training: Training) -> Training:
    """Return the training with a train split that tells, once, when the steps wait for the data most of the time."""
    data = training.data
    if data.train.kind != "streamed":
        return training

    def tell(share: float) -> None:
        message = sentence(share, reading_of(data.train))
        training.events.warning(message)
        write_notice(training.folder, training.state["step"], message)

    return replace(training, data=replace(data, train=TimedSplit(data.train, tell)))


class TimedSplit:
    """A split that calls `tell` with the share of the time that goes into waiting for its batches, once that is most of it."""

    def __init__(
        self, split: Split, tell: Callable[[float], None], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.split, self.tell, self.clock = split, tell, clock
        self.is_told = False
        self.waited = self.lasted = 0.0  # seconds of this window
        self.count = 0  # batches of this window

    def __getattr__(self, name: str) -> Any:
        return getattr(self.split, name)  # `workers`, `loader`, …: what only some splits have

    @property
    def kind(self) -> str:
        """That of the split."""
        return self.split.kind

    @property
    def samples(self) -> int | None:
        """How many samples an epoch has, as far as the split can tell."""
        return self.split.samples

    def batches(self, size: int, *, seed: int, epoch: int, start: int = 0) -> Feed:
        """Open the split's batches of a training epoch, timed until there is something to tell."""
        feed = self.split.batches(size, seed=seed, epoch=epoch, start=start)
        return feed if self.is_told else Feed(self.timed(feed))

    def in_order(self, size: int) -> Iterator[Batch]:
        """Give the split's batches for testing."""
        return self.split.in_order(size)

    def to(self, device: torch.device) -> Split:
        """Return the split itself, not timed, with its batches on `device`."""
        return self.split.to(device)

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Give the batches, and add up how long each takes to come, and until the next is asked for."""
        asked = self.clock()
        for batch in batches:
            came = self.clock()
            yield batch
            del batch  # the next one may need its memory
            now = self.clock()
            self.add(came - asked, now - asked)
            asked = now

    def add(self, waited: float, lasted: float) -> None:
        """Add what one batch took; at the end of a window, tell what was found, or begin another."""
        self.waited, self.lasted, self.count = self.waited + waited, self.lasted + lasted, self.count + 1
        if self.lasted < WINDOW_SECONDS or self.count < FEWEST_BATCHES:
            return
        share = self.waited / self.lasted
        if share > MOST_WAITING and not self.is_told:
            self.is_told = True
            self.tell(share)
        self.waited, self.lasted, self.count = 0.0, 0.0, 0


# ── what to do about it ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Reading:
    """How the samples of a streamed split are read, as far as that can be chosen otherwise."""

    workers: int
    cores: int
    is_loader: bool = False  # a DataLoader of the user's
    is_image_folder: bool = False
    fitting: tuple[int, int] | None = None  # these images would fit into memory at this height and width


def sentence(share: float, reading: Reading) -> str:
    """Return what was found, and what to do about it."""
    more = more_workers(share, reading)
    option = f"num_workers={more} in the DataLoader" if reading.is_loader else f"--workers {more}"
    if reading.workers:
        advice = f"try letting more processes read ({option}), or " if more else ""
    else:
        advice = f"try letting other processes read while this one computes ({option}), or " if more else ""
    if reading.fitting is not None:
        height, width = reading.fitting
        advice += f"make the images small enough to be kept in memory (--image-size {height},{width})"
    elif reading.is_image_folder:
        advice += "make the image files smaller once, beforehand"
    else:
        advice += "make a sample cheaper to read: simpler transforms, smaller inputs, or all that done once, beforehand"
    found = f"The data limits the speed: {share:.0%} of the time goes into waiting for it."
    return f"{found} {advice[0].upper()}{advice[1:]}."


def more_workers(share: float, reading: Reading) -> int | None:
    """Return with how many workers reading would keep up, one for each core at the most; None where more would not help."""
    if reading.workers >= reading.cores or reading.cores == 1:
        return None
    if reading.workers:
        return reading.cores
    wanted = math.ceil(share / max(1 - share, 1e-9))  # how often a step would fit into reading its batch
    return max(2, min(reading.cores, wanted))


def reading_of(split: Any) -> Reading:
    """Return how a split is read."""
    loader = getattr(split, "loader", None)
    if loader is not None:
        return Reading(loader.num_workers, usable_cores(), is_loader=True)
    is_image_folder = isinstance(split.dataset, ImageFolderDataset)
    fitting = fitting_size(split.dataset) if is_image_folder else None
    return Reading(split.workers, usable_cores(), is_image_folder=is_image_folder, fitting=fitting)


def fitting_size(dataset: ImageFolderDataset) -> tuple[int, int] | None:
    """Return the height and width at which all images would fit into memory; None if little would be left of them."""
    channels, height, width = dataset.shape
    scale = math.sqrt(memory_limit() * TRAIN_SHARE / (len(dataset) * channels * height * width))
    side = math.floor(height * scale), math.floor(width * scale)
    return side if scale < 1 and min(side) >= SMALLEST_SIDE else None
