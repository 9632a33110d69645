"""Runs that nobody kills, for the others to be compared with; and how a configuration is trained and resumed."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch

import rushlight
from faults import configurations, odd
from faults.compare import differences
from faults.configurations import Configuration, write_data
from faults.moments import ALWAYS, Interval, Reference
from faults.outcome import Say
from faults.points import Watch, set_interval
from faults.processes import run_fork, tail
from rushlight.training.engine import fast, modes
from rushlight.training.engine.modes import RECORD, read_modes

CONFIGURATIONS = (*configurations.CONFIGURATIONS, *odd.CONFIGURATIONS)
NAME = "run"  # of every run; each is in a folder of its own
IMPORTED = ("torch._dynamo", "matplotlib.pyplot", "rich.live", "rushlight.api", "rushlight.report.plots", "polars")


class References:
    """Owns the data and the runs that were never killed, one for each configuration and number of threads."""

    def __init__(self, work: Path, say: Say) -> None:
        torch.set_num_threads(1)  # before anything runs in parallel: a fork has none of its parent's threads
        for name in IMPORTED:
            try:
                importlib.import_module(name)
            except ImportError:
                say(f"{name} is not installed")
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.say = work, say
        self.data = work / "data" if (work / "data").exists() else write_data(work / "data")
        os.environ["RUSHLIGHT_COMPILED"] = str(work / "compiled")
        self.made: dict[tuple[str, int], Reference] = {}
        self.problems: list[str] = []
        self.skipped = {one.name: why for one in CONFIGURATIONS if (why := one.needs())}
        for name, why in self.skipped.items():
            say(f"{name} is left out: {why}.")
        self.configurations = [one for one in CONFIGURATIONS if one.name not in self.skipped]

    def get(self, configuration: Configuration, threads: int = 1) -> Reference:
        """Return the run never killed; it is trained when it is first asked for."""
        key = configuration.name, threads
        if key not in self.made:
            self.say(f"training without a kill: {configuration.name}")
            self.made[key] = self.train(configuration, threads)
        return self.made[key]

    def train(self, configuration: Configuration, threads: int) -> Reference:
        """Train once unwatched, and once watched to count what comes by: watching must not change a bit."""
        number = CONFIGURATIONS.index(configuration)
        folders = [self.work / f"reference-{number:02d}-{threads}{ending}" for ending in ("", "-watched")]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        work = partial(begin, configuration, self.data, folders[0], None)
        plain = run_fork(work, folders[0] / NAME, folders[0] / "log", threads, None, is_watched=False)
        work = partial(begin, configuration, self.data, folders[1], ALWAYS, follows=folders[0] / NAME)
        watched = run_fork(work, folders[1] / NAME, folders[1] / "log", threads, None, is_watched=True)
        for ended, folder in zip((plain, watched), folders, strict=True):
            if ended.code:
                raise RuntimeError(f"{configuration.name} cannot be trained: {tail(folder / 'log')}")
        lines = [json.loads(line) for line in (folders[0] / NAME / "history.jsonl").read_text().splitlines()]
        boundaries = tuple(line["step"] for line in lines if line["kind"] == "epoch")
        counts = Counter[str](watched.told[-1]["counts"])
        reference = Reference(configuration, threads, folders[0] / NAME, boundaries, counts, watched.seconds)
        for problem in differences(reference.folder, folders[1] / NAME)[:1]:
            self.problems.append(f"{configuration.name}, never killed, with a checkpoint at every step: {problem}.")
        return reference

    def like(self, reference: Reference, run: Path) -> Path:
        """Return the run never killed that executes its steps in the modes that `run` did; trained where they differ.

        When a faster way begins is a matter of time. From there on a run that is resumed follows what was recorded.
        """
        if read_modes(run / RECORD) == read_modes(reference.folder / RECORD):
            return reference.folder
        folder = run.parent / "reference"
        folder.mkdir()
        work = partial(begin, reference.configuration, self.data, folder, None, follows=run)
        ended = run_fork(work, folder / NAME, folder / "log", reference.threads, None, is_watched=False)
        if ended.code:
            raise RuntimeError(f"its execution modes cannot be followed: {tail(folder / 'log')}")
        return folder / NAME


# ── what the processes do ────────────────────────────────────────────────────────────────────────────────


def begin(
    configuration: Configuration, data: Path, runs: Path, interval: Interval | None, watch: Watch | None,
    follows: Path | None = None, **more: Any,
) -> None:  # fmt: skip
    """Train from the start, as a program would; with `follows`, in the modes that run has recorded, and in no others.

    `more` are options besides the configuration's.
    """
    if follows is not None:
        recorded = read_modes(follows / RECORD)
        modes.read_modes = lambda path: read_modes(path) or recorded
        fast.FastEngine.next_candidate = fast.FastEngine.share_processors = lambda self, step: None
    if interval is not None:
        set_interval(*interval)
    given = configuration.give(data)
    rushlight.train(given.model, given.data, runs=runs, name=NAME, quiet=True, **given.options, **more)
    if watch is not None:
        watch.tell({"counts": dict(watch.counts)})


def again(
    configuration: Configuration, data: Path, runs: Path, interval: Interval, watch: Watch | None, **more: Any
) -> None:
    """Resume, with what was live made again."""
    set_interval(*interval)
    given = configuration.give(data)
    live: dict[str, Any] = {name: given.options[name] for name in given.live if name in given.options}
    model, source = (getattr(given, name) if name in given.live else None for name in ("model", "data"))
    rushlight.resume(NAME, model, source, runs=runs, quiet=True, **live, **more)
