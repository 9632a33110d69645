"""The small training that faults are tried on: a second of work that writes all that a long one does."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import rushlight
from rushlight import files
from rushlight.run import Run
from rushlight.runs.history import read_history
from rushlight.training.checkpoint import saver

OPTIONS: dict[str, Any] = {
    "model_arguments": {"hidden": (8,), "dropout": 0.1}, "batch_size": 240, "schedule": "constant", "seed": 3, "epochs": 2,
    "quiet": True,
}  # fmt: skip
PACE = {  # a checkpoint at nearly every step, the history written line by line
    ("rushlight.training.checkpoint.saver", "CHECKPOINT_SECONDS"): 0.0,
    ("rushlight.training.checkpoint.saver", "CHECKPOINT_SHARE"): 1e9,
    ("rushlight.training.record.ledger", "READ_EVERY"): 0.0,
    ("rushlight.training.record.ledger", "SHORTEST_LINE"): 2,
    ("rushlight.runs.history", "FLUSH_SECONDS"): 0.0,
}


def train(runs: Path, name: str | None = "run", **options: Any) -> Run:
    """Train the small network."""
    return rushlight.train("mlp", "digits", runs=runs, name=name, **{**OPTIONS, **options})


def resume(runs: Path, name: str = "run", **options: Any) -> Run:
    """Go on with it."""
    return rushlight.resume(name, runs=runs, quiet=True, **options)


def result_of(run: Run) -> tuple[str, bytes, list[str]]:
    """Return what must not differ: the digest of the weights, every loss, and the lines of history less their times."""
    return run.summary()["state_sha256"], (run.folder / "losses.f32").read_bytes(), timeless_lines(run.folder)


def timeless_lines(folder: Path) -> list[str]:
    """Return the lines of history that tell of training, without what a clock has put into them."""
    timeless = (
        {key: value for key, value in line.items() if key not in ("time", "seconds")} for line in read_history(folder)
    )
    return [json.dumps(line, sort_keys=True) for line in timeless if line["kind"] in ("steps", "epoch")]


@contextlib.contextmanager
def scratch_folder(name: str, work: Path) -> Iterator[Path]:
    """Give a folder for the block that every account may enter, in memory where there is such a place."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix=f"rushlight-{name}-", dir=memory if memory.is_dir() else work))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def disk_in_place(disk: files.Disk) -> Iterator[None]:
    """Let Rushlight use another disk for the block."""
    with replaced(files, "disk", disk):
        yield


@contextlib.contextmanager
def fast_pace(checkpoints: bool = True) -> Iterator[None]:
    """One thread, a checkpoint and a line of history as often as can be, and pictures that cost no time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            replaced(importlib.import_module("rushlight.training.finish"), "write_plots", write_small_pictures)
        )
        for (module, name), value in PACE.items() if checkpoints else ():
            stack.enter_context(replaced(importlib.import_module(module), name, value))
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def write_small_pictures(folder: Path, report: object) -> None:
    """Write what stands for the plots: drawing them takes most of a short run's time."""
    for name in ("loss.png", "confusion.png"):
        files.write_bytes(folder / name, name.encode() * 400)


@contextlib.contextmanager
def telling_of_checkpoints(tell: Callable[[str], None]) -> Iterator[None]:
    """Call `tell` with the name of each checkpoint as soon as its write function has returned: it is promised then."""
    with replaced(saver, "write_snapshot", told(saver.write_snapshot, tell)):
        yield


def told(write: Callable[..., Path], tell: Callable[[str], None]) -> Callable[..., Path]:
    """Return a function that writes a checkpoint and tells of it."""

    def write_and_tell(*arguments: Any, **options: Any) -> Path:
        folder = write(*arguments, **options)
        tell(folder.name)
        return folder

    return write_and_tell


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute another value for the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def interrupting(checkpoint: int) -> Iterator[None]:
    """Send this process a Ctrl-C as soon as so many checkpoints are written."""
    written: list[str] = []

    def count(name: str) -> None:
        written.append(name)
        if len(written) == checkpoint:
            signal.raise_signal(signal.SIGINT)

    with telling_of_checkpoints(count):
        yield


@contextlib.contextmanager
def clock_moved(move: Callable[[], float]) -> Iterator[None]:
    """Add what `move` returns, in seconds, to what time.time tells in this process."""
    clock = time.time
    with replaced(time, "time", lambda: clock() + move()):
        yield
