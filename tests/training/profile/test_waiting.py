"""A training that waits for its data most of the time says so once, with what to do about it, and trains to the same bits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

import rushlight
from rushlight.data.feed.loader import LoaderSplit
from rushlight.data.feed.streamed import StreamedSplit
from rushlight.data.sources.images.folder import open_image_folder
from rushlight.runs.history import read_history
from rushlight.runs.sessions import list_sessions, read_sessions
from rushlight.runs.summary import summarize
from rushlight.training.checkpoint.checkpoint import state_digest
from rushlight.training.profile import waiting
from rushlight.training.profile.waiting import Reading, TimedSplit, fitting_size, more_workers, reading_of, sentence


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A split whose batches take `reading` seconds each, and `given` of them an epoch."""

    kind, samples = "streamed", None

    def __init__(self, clock: Clock, reading: float, given: int) -> None:
        self.clock, self.reading, self.given = clock, reading, given

    def batches(self, size: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[int]:
        for number in range(start, self.given):
            self.clock.now += self.reading
            yield number

    def in_order(self, size: int) -> Iterator[int]:
        return self.batches(size, seed=0, epoch=0)


def told(reading: float, computing: float, batches: int = 1000, epochs: int = 1) -> list[tuple[float, float]]:
    """Train by the clock; return the share of each time it was told of waiting, and when."""
    clock, found = Clock(), []
    split = TimedSplit(Timed(clock, reading, batches), lambda share: found.append((share, clock.now - 100)), clock)  # type: ignore[arg-type]
    for epoch in range(epochs):
        seen = []
        for batch in split.batches(1, seed=0, epoch=epoch):
            clock.now += computing
            seen.append(batch)
        assert seen == list(range(batches))
    return [(round(share, 3), round(when, 1)) for share, when in found]


# ── when ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_told_once_when_more_than_half_of_five_seconds_went_into_waiting() -> None:
    assert told(0.03, 0.01) == [(0.75, 5.0)]
    assert told(0.011, 0.009) == [(0.55, 5.0)]


def test_it_is_not_told_where_steps_take_longer_than_their_data() -> None:
    assert told(0.009, 0.011) == []
    assert told(0.0, 0.02) == []


def test_what_takes_less_than_five_seconds_in_all_is_not_judged() -> None:
    assert told(0.03, 0.01, batches=120) == []


def test_short_epochs_are_judged_together() -> None:
    assert told(0.03, 0.01, batches=10, epochs=40) == [(0.75, 5.0)]


def test_one_slow_read_alone_is_no_reason() -> None:
    clock, found = Clock(), []
    split = TimedSplit(Timed(clock, 0.0, 2), found.append, clock)  # type: ignore[arg-type]
    batches = split.batches(1, seed=0, epoch=1)
    next(batches)
    clock.now += 60  # nothing but a look at the clock is between asking and getting
    assert len(list(batches)) == 1
    split = TimedSplit(Timed(clock, 60.0, 2), found.append, clock)  # type: ignore[arg-type]
    assert len(list(split.batches(1, seed=0, epoch=1))) == 2
    assert found == []


def test_all_else_is_the_splits_own() -> None:
    data = TensorDataset(torch.arange(6.0), torch.arange(6))
    split = StreamedSplit(data, lambda batch: batch, 0, is_shuffled=False)
    timed = TimedSplit(split, lambda share: None)
    assert (timed.kind, timed.samples, timed.workers, timed.is_shuffled) == ("streamed", 6, 0, False)
    assert [x.tolist() for x, _ in timed.batches(4, seed=0, epoch=1, start=1)] == [[4.0, 5.0]]
    assert [x.tolist() for x, _ in timed.in_order(3)] == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert timed.to(torch.device("meta")).device.type == "meta"  # type: ignore[attr-defined]


# ── what to do about it ──────────────────────────────────────────────────────────────────────────────────────

LIMITS = "The data limits the speed: 75% of the time goes into waiting for it. "
CHEAPER = "ake a sample cheaper to read: simpler transforms, smaller inputs, or all that done once, beforehand."


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (Reading(0, 4), f"Try letting other processes read while this one computes (--workers 3), or m{CHEAPER}"),
        (Reading(0, 2), f"Try letting other processes read while this one computes (--workers 2), or m{CHEAPER}"),
        (Reading(0, 1), f"M{CHEAPER}"),
        (Reading(2, 8), f"Try letting more processes read (--workers 8), or m{CHEAPER}"),
        (Reading(8, 8), f"M{CHEAPER}"),
        (
            Reading(0, 4, is_loader=True),
            f"Try letting other processes read while this one computes (num_workers=3 in the DataLoader), or m{CHEAPER}",
        ),
        (
            Reading(4, 4, is_image_folder=True, fitting=(96, 128)),
            "Make the images small enough to be kept in memory (--image-size 96,128).",
        ),
        (
            Reading(0, 2, is_image_folder=True),
            "Try letting other processes read while this one computes (--workers 2), or make the image files smaller once, beforehand.",
        ),
    ],
)
def test_the_sentence_says_what_can_be_done_here(reading: Reading, said: str) -> None:
    assert sentence(0.75, reading) == LIMITS + said


def test_as_many_workers_are_named_as_reading_takes_longer_than_a_step() -> None:
    assert [more_workers(share, Reading(0, 16)) for share in (0.51, 0.75, 0.9, 0.99, 1.0)] == [2, 3, 10, 16, 16]


def test_how_a_split_is_read_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "usable_cores", lambda: 4)
    data = TensorDataset(torch.arange(6.0), torch.arange(6))
    assert reading_of(TimedSplit(StreamedSplit(data, lambda x: x, 3), lambda share: None)) == Reading(3, 4)
    loader = LoaderSplit(DataLoader(data, num_workers=2), lambda x: x)
    assert reading_of(loader) == Reading(2, 4, is_loader=True)
    for number in range(8):
        path = tmp_path / "train" / f"class-{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(path)
    images = open_image_folder(tmp_path, memory_limit=0, workers=1, test_fraction=0.25).train
    monkeypatch.setattr(waiting, "memory_limit", lambda: 2**40)
    assert reading_of(images) == Reading(1, 4, is_image_folder=True)  # they would fit as they are: no size is named
    room = len(images.dataset) * 3 * 30 * 40 / waiting.TRAIN_SHARE  # type: ignore[attr-defined]
    monkeypatch.setattr(waiting, "memory_limit", lambda: room + 1)
    assert reading_of(images).fitting == fitting_size(images.dataset) == (30, 40)  # type: ignore[attr-defined]
    monkeypatch.setattr(waiting, "memory_limit", lambda: room / 16)
    assert reading_of(images).fitting is None  # nothing could be seen on it


# ── in a training ────────────────────────────────────────────────────────────────────────────────────────────


class Slow(Dataset[Any]):
    """Samples that take their time and draw, so that they are streamed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(self.seconds)
        return torch.rand(4) + index % 3, index % 3


def train(tmp_path: Path, seconds: float, **options: Any) -> rushlight.Run:
    torch.manual_seed(0)
    return rushlight.train(
        nn.Linear(4, 3), Slow(seconds), test_data=TensorDataset(torch.rand(6, 4), torch.arange(6) % 3), epochs=2,
        batch_size=10, numerics="exact", runs=tmp_path / f"runs-{seconds}", device="cpu", **options,
    )  # fmt: skip


def test_a_training_says_it_once_and_notes_it_beside_a_history_that_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "WINDOW_SECONDS", 0.05)
    monkeypatch.setattr(waiting, "usable_cores", lambda: 4)
    slow = train(tmp_path, 0.002)
    shown = " ".join(capfd.readouterr().out.split())
    assert shown.count("warning: The data limits the speed: ") == 1
    assert "Try letting other processes read while this one computes (--workers 4)" in shown
    (notice,) = (line for line in read_sessions(slow.folder) if line["event"] == "notice")
    assert notice["message"] in shown
    assert 0 < notice["step"] < 12
    assert [len(session["notices"]) for session in list_sessions(slow.folder)] == [1]
    assert summarize(slow.folder).status == "finished"
    quick = train(tmp_path, 0.0)
    monkeypatch.setattr(waiting, "MOST_WAITING", 1.0)
    quiet = train(tmp_path / "more", 0.002, quiet=True)
    assert state_digest(slow.model) == state_digest(quick.model) == state_digest(quiet.model)
    assert kinds(slow.folder) == kinds(quiet.folder)
    assert list_sessions(quiet.folder)[0]["notices"] == []


def kinds(folder: Path) -> list[tuple[str, Any]]:
    return [(line["kind"], line.get("event")) for line in read_history(folder)]


def test_what_is_in_memory_is_not_timed(tmp_path: Path) -> None:
    iterator = rushlight.epochs("linear", "digits", epochs=1, runs=tmp_path, quiet=True)
    training = iterator._training
    assert waiting.telling_of_waiting(training) is training
    iterator.close()


def test_a_loader_that_draws_its_own_order_is_timed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WINDOW_SECONDS", 0.05)
    loader = DataLoader(Slow(0.002), 10, sampler=WeightedRandomSampler([1.0] * 60, 60))
    run = rushlight.train(nn.Linear(4, 3), loader, epochs=1, runs=tmp_path, quiet=True, device="cpu")
    (notice,) = (line for line in read_sessions(run.folder) if line["event"] == "notice")
    assert ("num_workers=" in notice["message"]) == (waiting.usable_cores() > 1)


def test_a_disk_that_refuses_the_notice_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from rushlight.errors import StorageError
    from rushlight.runs import sessions

    def refuse(folder: Path, event: str, *_: Any, **more: Any) -> None:
        raise StorageError("disk-full", path=folder, operation="write")

    monkeypatch.setattr(waiting, "WINDOW_SECONDS", 0.05)
    monkeypatch.setattr(sessions, "write_session", refuse)
    run = train(tmp_path, 0.002)
    assert "The data limits the speed" in capfd.readouterr().out
    assert json.loads((run.folder / "report.json").read_text())["n"] == 6
