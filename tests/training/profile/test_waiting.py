"""A training that waits for its data most of the time says so once, with what to do about it, and trains to the same bits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
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
from rushlight.runs.summary import summarize_run
from rushlight.training.checkpoint.checkpoint import state_digest
from rushlight.training.profile import waiting
from rushlight.training.profile.waiting import advice, telling_of_waiting


class Clock:
    """A clock that goes on when it is told to."""

    now = 100.0


class Timed:
    """A split whose batches take `reading` seconds each, and `given` of them an epoch."""

    kind, samples, workers, dataset = "streamed", None, 0, None

    def __init__(self, clock: Clock, reading: float, given: int) -> None:
        self.clock, self.reading, self.given = clock, reading, given

    def batches(self, size: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[int]:
        for number in range(start, self.given):
            self.clock.now += self.reading
            yield number


@dataclass(frozen=True)
class Data:
    train: Any


@dataclass
class Events:
    """What stands for a training: all that is asked of it here."""

    data: Data
    clock: Clock
    found: list[tuple[float, float]] = field(default_factory=list)
    folder = Path("no such folder")
    state = {"step": 3}  # noqa: RUF012

    @property
    def events(self) -> Any:
        return self

    def warning(self, message: Any) -> None:
        self.found.append((round(message.values["share"], 3), round(self.clock.now - 100, 1)))


def told(
    monkeypatch: pytest.MonkeyPatch, reading: float, computing: float, batches: int = 1000, epochs: int = 1
) -> list[tuple[float, float]]:
    """Train by the clock; return the share of each time it was told of waiting, and when."""
    clock = Clock()
    monkeypatch.setattr(waiting.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(waiting, "write_notice", lambda *_: None)
    training = Events(Data(Timed(clock, reading, batches)), clock)
    split = telling_of_waiting(training).data.train  # type: ignore[arg-type]
    for epoch in range(epochs):
        seen = []
        for batch in split.batches(1, seed=0, epoch=epoch):
            clock.now += computing
            seen.append(batch)
        assert seen == list(range(batches))
    return training.found


# ── when ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_told_once_when_more_than_half_of_five_seconds_went_into_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, 0.03, 0.01) == [(0.75, 5.0)]
    assert told(monkeypatch, 0.011, 0.009) == [(0.55, 5.0)]


def test_it_is_not_told_where_steps_take_longer_than_their_data(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, 0.009, 0.011) == []
    assert told(monkeypatch, 0.0, 0.02) == []


def test_what_takes_less_than_five_seconds_in_all_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, 0.03, 0.01, batches=120) == []


def test_short_epochs_are_judged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, 0.03, 0.01, batches=10, epochs=40) == [(0.75, 5.0)]


def test_one_slow_read_alone_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, 60.0, 0.0, batches=2) == []


def test_all_else_is_the_splits_own() -> None:
    data = TensorDataset(torch.arange(6.0), torch.arange(6))
    split = StreamedSplit(data, lambda batch: batch, 0, is_shuffled=False)
    timed = telling_of_waiting(Events(Data(split), Clock())).data.train  # type: ignore[arg-type]
    assert (timed.kind, timed.samples, timed.workers, timed.is_shuffled) == ("streamed", 6, 0, False)
    assert [x.tolist() for x, _ in timed.batches(4, seed=0, epoch=1, start=1)] == [[4.0, 5.0]]
    assert [x.tolist() for x, _ in timed.in_order(3)] == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert timed.to(torch.device("meta")).device.type == "meta"


# ── what to do about it ──────────────────────────────────────────────────────────────────────────────────────

LIMITS = "The data limits the speed: 75% of the time goes into waiting for it. To mend it, "
CHEAPER = "make a sample cheaper to read: simpler transforms, smaller inputs, or all that done once, beforehand."
SMALLER = "make the images smaller: their files once, beforehand, or by --image-size, so that they fit into memory."


@pytest.mark.parametrize(
    ("kind", "workers", "cores", "said"),
    [
        ("dataset", 0, 4, f"let other processes read while this one computes (--workers 4), or {CHEAPER}"),
        ("dataset", 0, 1, CHEAPER),
        ("dataset", 2, 8, f"let more processes read (--workers 8), or {CHEAPER}"),
        ("dataset", 8, 8, CHEAPER),
        (
            "loader",
            0,
            4,
            f"let other processes read while this one computes (num_workers=4 in the DataLoader), or {CHEAPER}",
        ),
        ("folder", 4, 4, SMALLER),
        ("folder", 0, 2, f"let other processes read while this one computes (--workers 2), or {SMALLER}"),
    ],
)
def test_the_sentence_says_what_can_be_done_here(
    kind: str, workers: int, cores: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "usable_cores", lambda: cores)
    data = TensorDataset(torch.arange(6.0), torch.arange(6))
    split: Any = StreamedSplit(data, lambda x: x, workers)
    if kind == "loader":
        split = LoaderSplit(DataLoader(data, num_workers=workers), lambda x: x)
    if kind == "folder":
        for number in range(8):
            path = tmp_path / "train" / f"class-{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(path)
        split = open_image_folder(tmp_path, memory_limit=0, workers=workers, test_fraction=0.25).train
    assert advice(0.75, split) == LIMITS + said


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
    monkeypatch.setattr(waiting, "PERIOD", 0.05)
    monkeypatch.setattr(waiting, "usable_cores", lambda: 4)
    slow = train(tmp_path, 0.002)
    shown = " ".join(capfd.readouterr().out.split())
    assert shown.count("warning: The data limits the speed: ") == 1
    assert "let other processes read while this one computes (--workers 4)" in shown
    (notice,) = (line for line in read_sessions(slow.folder) if line["event"] == "notice")
    assert notice["message"] in shown
    assert 0 < notice["step"] < 12
    assert [len(session["notices"]) for session in list_sessions(slow.folder)] == [1]
    assert summarize_run(slow.folder).status == "finished"
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
    monkeypatch.setattr(waiting, "PERIOD", 0.05)
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

    monkeypatch.setattr(waiting, "PERIOD", 0.05)
    monkeypatch.setattr(sessions, "write_session", refuse)
    run = train(tmp_path, 0.002)
    assert "The data limits the speed" in capfd.readouterr().out
    assert json.loads((run.folder / "report.json").read_text())["n"] == 6
