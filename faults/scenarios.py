"""The runs whose every write is logged for the power cuts."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.log import LoggedDisk, Operation
from faults.outcome import case_random
from faults.replay import SimulatedDisk, write_state
from faults.small import disk_in_place, replaced, result_of, resume, telling_of_checkpoints, train
from rushlight import files
from rushlight.runs.checkpoint_files import MID_EPOCH, list_checkpoints
from rushlight.training.state import Training

SCENARIOS = ("mid-epoch", "early-stopping", "interrupted", "killed", "killed-unpublished", "longer", "going-back")
EARLY: dict[str, Any] = {
    "epochs": 6, "early_stopping": 1, "optimizer": "SGD", "lr": 0.9, "optimizer_arguments": {"momentum": 0.9},
}  # fmt: skip  # steps so large that the best epoch is not the last


@dataclass(frozen=True)
class Recorded:
    """A run's log, with what the run must end with however often the power goes.

    `training` is one whose objects a checkpoint fits; `options` are those to resume it with.
    """

    name: str
    operations: tuple[Operation, ...]
    options: dict[str, Any]
    expected: tuple[str, bytes, list[str]]
    training: Training


def record(name: str, folder: Path, disk_type: type[LoggedDisk], seed: int, epochs: int) -> Recorded:
    """Train as the scenario says, and return the log; its last run must have ended as one that nothing disturbed."""
    options: dict[str, Any] = (
        {**EARLY} if name == "early-stopping" else {"epochs": epochs, "keep_epochs": name == "going-back"}
    )
    whole = train(folder / "whole", **options)
    expected = result_of(whole)
    (folder / "runs").mkdir()
    disk = SCENES[name](folder, disk_type, options, seed)
    if result_of_last(folder) != expected:
        raise AssertionError(f"{name}: the recorded run did not end as the one that nothing disturbed")
    if not any(operation.kind == "mark" and operation.path == "checkpoint" for operation in disk.operations):
        raise AssertionError(f"{name}: no checkpoint was reported as written")
    assert whole._training is not None  # its own objects: no other way leads to what `restore` takes
    again = {"epochs": options["epochs"]} if name == "longer" else {}
    return Recorded(name, tuple(disk.operations), again, expected, whole._training)


def result_of_last(folder: Path) -> tuple[str, bytes, list[str]]:
    """Return the result of the newest run that was logged in the folder."""
    import rushlight

    newest = folder / "again" if (folder / "again").is_dir() else folder / "runs"
    return result_of(rushlight.open_run("run", runs=newest))


@contextlib.contextmanager
def logged(disk: LoggedDisk) -> Any:
    """Log what the block does, with a mark where it has started and for each checkpoint reported as written."""
    from rushlight.training.setup import prepare

    def begin_marked(training: Training) -> None:
        disk.mark("started")
        announce(training)

    announce = prepare.announce
    telling = telling_of_checkpoints(lambda name: disk.mark("checkpoint", name))
    with disk_in_place(disk), replaced(prepare, "announce", begin_marked), telling:
        yield


def straight(folder: Path, disk_type: type[LoggedDisk], options: dict[str, Any], seed: int) -> LoggedDisk:
    """Train to the end."""
    disk = disk_type(folder / "runs")
    with logged(disk):
        train(disk.root, **options)
    disk.mark("finished")
    return disk


def interrupted(folder: Path, disk_type: type[LoggedDisk], options: dict[str, Any], seed: int) -> LoggedDisk:
    """Train, with a Ctrl-C right after the third checkpoint, and resume."""
    disk = disk_type(folder / "runs")
    published: list[str] = []

    def interrupt(operation: Operation) -> None:
        if is_publication(operation):
            published.append(operation.target)
            if len(published) == 3:
                signal.raise_signal(signal.SIGINT)

    with logged(disk):
        disk.after = interrupt
        with contextlib.suppress(KeyboardInterrupt):
            train(disk.root, **options)
            raise AssertionError("the run was not interrupted")
        disk.after = None
        resume(disk.root)
    disk.mark("finished")
    return disk


def killed(folder: Path, disk_type: type[LoggedDisk], options: dict[str, Any], seed: int) -> LoggedDisk:
    """Train, kill in the middle of it (the page cache survives that), and resume."""
    operations = straight(folder, disk_type, options, seed).operations
    random = case_random("power/killed", seed, 0)
    return resumed_from(
        folder, disk_type, operations[: random.randrange(len(operations) // 3, len(operations) * 2 // 3)]
    )


def killed_unpublished(folder: Path, disk_type: type[LoggedDisk], options: dict[str, Any], seed: int) -> LoggedDisk:
    """Train, kill right after a checkpoint got its name, before that is durable, and resume."""
    operations = straight(folder, disk_type, options, seed).operations
    publications = [number for number, operation in enumerate(operations) if is_publication(operation)]
    return resumed_from(folder, disk_type, operations[: publications[len(publications) // 2] + 1])


def resumed_from(folder: Path, disk_type: type[LoggedDisk], operations: list[Operation]) -> LoggedDisk:
    """Resume what a killed process has left, and go on with its log."""
    killed = SimulatedDisk()
    for operation in operations:
        killed.apply(operation)
    disk = disk_type(folder / "again", operations)
    disk.root.mkdir()
    write_state(disk.root, killed.view())
    with logged(disk):
        resume(disk.root)
    disk.mark("finished")
    return disk


def longer(folder: Path, disk_type: type[LoggedDisk], options: dict[str, Any], seed: int) -> LoggedDisk:
    """Train to the end, and then for more epochs."""
    disk = disk_type(folder / "runs")
    with logged(disk):
        train(disk.root, epochs=1)
        disk.mark("finished")
        disk.mark("goes-on")
        resume(disk.root, epochs=options["epochs"])
    disk.mark("finished")
    return disk


def going_back(folder: Path, disk_type: type[LoggedDisk], options: dict[str, Any], seed: int) -> LoggedDisk:
    """Train to the end, and once more from the first epoch's end on."""
    disk = disk_type(folder / "runs")
    with logged(disk):
        run = train(disk.root, **options)
        disk.mark("finished")
        first = next(path.name for path in list_checkpoints(run.folder) if not path.name.endswith(MID_EPOCH))
        disk.mark("goes-back", first)
        resume(disk.root, checkpoint=first)
    disk.mark("finished")
    return disk


def is_publication(operation: Operation) -> bool:
    """Tell whether an operation gives a checkpoint its name."""
    return (
        operation.kind == "rename"
        and "/checkpoints/" in operation.target
        and not operation.target.endswith(files.TEMPORARY)
    )


SCENES: dict[str, Callable[[Path, type[LoggedDisk], dict[str, Any], int], LoggedDisk]] = {
    "mid-epoch": straight,
    "early-stopping": straight,
    "interrupted": interrupted,
    "killed": killed,
    "killed-unpublished": killed_unpublished,
    "longer": longer,
    "going-back": going_back,
}
