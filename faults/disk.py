"""Disk errors: no space, no permission, an I/O error at every single operation; and surroundings that are out of order."""

from __future__ import annotations

import contextlib
import errno
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults.outcome import Outcome, case_random
from faults.refusing import RefusingDisk
from faults.small import (
    disk_in_place,
    fast_pace,
    interrupting,
    result_of,
    resume,
    scratch_folder,
    telling_of_checkpoints,
    train,
)
from faults.surroundings import SURROUNDINGS
from rushlight import load, open_run
from rushlight.errors import StorageError
from rushlight.runs.checkpoint_files import age, list_checkpoints
from rushlight.runs.folder import is_run
from rushlight.training.checkpoint.checkpoint import latest_checkpoint

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
RUN = {"epochs": 1, "batch_size": 480}  # three steps
HISTORY_FILES = ("history.jsonl", "losses.f32")
SHOWN = 20  # failures that are told in full
Surrounding = Callable[[Path], list[str]]
Result = tuple[str, bytes, list[str]]


@dataclass(frozen=True)
class Case:
    """One disk error: in which scene, at which operation, which, once or for ever, on all files or the history's."""

    scene: str
    at: int
    error: int
    for_ever: bool
    of_history: bool = False

    def __str__(self) -> str:
        duration = "for ever" if self.for_ever else "once"
        which = "of the history's files" if self.of_history else ""
        return f"{self.scene}: {errno.errorcode[self.error]} at operation {self.at} {which} {duration}"

    def disk(self) -> RefusingDisk:
        """Return the disk that behaves so."""
        concerns = (lambda path: path.name in HISTORY_FILES) if self.of_history else (lambda path: True)
        return RefusingDisk(self.at, self.error, for_ever=self.for_ever, concerns=concerns)


def campaign(count: int, seed: int, work: Path, say: Callable[[str], None], *, surroundings: bool = True) -> Outcome:
    """Try `count` of all the disk errors that there are in a small run, its resume and its saving; or all of them."""
    figures: Counter[str] = Counter(
        cases=0, refused=0, explained=0, went_on=0, resumed=0, lost=0, raised=0, different=0
    )
    failures: list[str] = []
    with scratch_folder("disk", work) as scratch, fast_pace():
        scenes = Scenes(scratch, figures)
        cases = scenes.cases()
        chosen = case_random("disk", seed, 0).sample(cases, min(count, len(cases)))
        for number, case in enumerate(chosen, start=1):
            failures += [f"{case}: {text}" for text in scenes.attempt(case)]
            if number % 100 == 0 or number == len(chosen):
                say(f"disk: {number:,} of {len(chosen):,} errors, {len(failures)} failures")
        for surrounding in SURROUNDINGS if surroundings else ():
            failures += surrounding(scratch / surrounding.__name__)
            figures["surroundings"] += 1
            say(f"disk: {surrounding.__name__.replace('_', ' ')}, {len(failures)} failures")
    figures["possible"] = len(cases)
    return Outcome("disk", figures["cases"] + figures["surroundings"], tuple(failures[:SHOWN]), dict(figures))


class Scenes:
    """What is done while the disk refuses: training, resuming an interrupted run, saving a finished one."""

    def __init__(self, scratch: Path, figures: Counter[str]) -> None:
        self.scratch, self.figures = scratch, figures
        self.expected: Result = result_of(train(scratch / "whole", **RUN))
        self.interrupted = scratch / "interrupted"
        with contextlib.suppress(KeyboardInterrupt), interrupting(2):
            train(self.interrupted, **RUN)

    def cases(self) -> list[Case]:
        """Return every disk error that there can be."""
        cases = []
        for scene in ("train", "resume", "save"):
            for of_history in (False, True) if scene != "save" else (False,):
                counting = Case(scene, 0, errno.EIO, False, of_history)
                operations = self.count(counting)
                cases += [
                    Case(scene, at, error, for_ever, of_history)
                    for at in range(1, operations + 1) for error in ERRORS for for_ever in (False, True)
                ]  # fmt: skip
        return cases

    def count(self, case: Case) -> int:
        """Return how many operations the scene does on a disk that refuses none."""
        disk, runs = case.disk(), self.begin(case)
        with disk_in_place(disk):
            self.act(case, runs)
        return disk.asked

    def begin(self, case: Case) -> Path:
        """Return a folder of runs as it is before the scene."""
        runs = self.scratch / "runs"
        shutil.rmtree(runs, ignore_errors=True)
        before = {"train": None, "resume": self.interrupted, "save": self.scratch / "whole"}[case.scene]
        if before is None:
            runs.mkdir()
        else:
            shutil.copytree(before, runs)
        return runs

    def act(self, case: Case, runs: Path) -> None:
        """Do what the scene is about."""
        if case.scene == "train":
            train(runs, **RUN)
        elif case.scene == "resume":
            resume(runs)
        else:
            run = open_run("run", runs=runs)
            run.test()
            for name in ("model.pth", "model.safetensors", "bundle"):
                run.save(runs / name)

    def attempt(self, case: Case) -> list[str]:
        """Let the disk refuse, and then work again; return what is wrong."""
        runs, disk = self.begin(case), case.disk()
        reported = list_checkpoints(runs / "run")[-1:] if case.scene == "resume" else []
        self.figures["cases"] += 1
        try:
            with (
                warnings.catch_warnings(action="ignore"),  # a report that cannot be kept is given all the same
                disk_in_place(disk),
                telling_of_checkpoints(lambda name: reported.append(runs / "run" / "checkpoints" / name)),
            ):
                self.act(case, runs)
            self.figures["went_on"] += 1
        except StorageError:
            self.figures["explained"] += 1
        except Exception as error:
            self.figures["raised"] += 1
            return [f"{type(error).__name__} instead of a StorageError: {error}"]
        finally:
            self.figures["refused"] += disk.refused
        return self.check_saved(runs) if case.scene == "save" else self.check_run(runs, reported)

    def check_run(self, runs: Path, reported: list[Path]) -> list[str]:
        """Check that no checkpoint is lost, and that the run ends as one that nothing disturbed."""
        folder = runs / "run"
        try:
            if reported and age(latest_checkpoint(folder)) < max(map(age, reported)):
                self.figures["lost"] += 1
                return [
                    f"{max(reported, key=age).name} was reported as written, the newest whole one is {latest_checkpoint(folder).name}"
                ]
            if not is_run(folder) or not (folder / "environment.json").is_file():
                return [] if not reported else ["the run is gone"]  # it had not begun
            run = resume(runs)
        except Exception as error:
            self.figures["raised"] += 1
            return [f"the disk works again, and resume raised {type(error).__name__}: {error}"]
        self.figures["resumed"] += 1
        parts = zip(("weights", "losses", "history"), result_of(run), self.expected, strict=True)
        different = [
            f"the run has other {name} than one that nothing disturbed"
            for name, found, expected in parts
            if found != expected
        ]
        self.figures["different"] += bool(different)
        return different

    def check_saved(self, runs: Path) -> list[str]:
        """Check that everything that is there can be read, and that saving works again."""
        try:
            run = open_run("run", runs=runs)
            for path in (runs / "model.pth", runs / "model.safetensors"):
                if path.exists():
                    load(path, run.model)
            if (runs / "bundle").exists():
                load(runs / "bundle")
            assert run.report is not None
            self.act(Case("save", 0, errno.EIO, False), runs)
        except Exception as error:
            self.figures["raised"] += 1
            return [f"afterwards {type(error).__name__}: {error}"]
        return []
