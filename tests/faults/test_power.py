"""The power cuts find nothing, and would find something: each way of not syncing is caught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import pytest
from faults.log import LoggedDisk, Operation
from faults.outcome import Outcome
from faults.recovery import Judge, Recovery
from faults.replay import SimulatedDisk, fixed_choices
from faults.scenarios import record
from faults.small import fast_pace, replaced, scratch_folder

from faults import power
from rushlight.training.checkpoint import checkpoint

pytestmark = pytest.mark.slow


class WithoutSync(LoggedDisk):
    """Forgets to sync files."""

    def sync(self, file: IO[bytes]) -> None:
        file.flush()


class WithoutFolderSync(LoggedDisk):
    """Forgets to sync folders."""

    def sync_folder(self, path: Path) -> None:
        pass


class WithoutHistorySync(LoggedDisk):
    """Forgets to sync the history."""

    def sync(self, file: IO[bytes]) -> None:
        if not str(file.name).endswith("history.jsonl"):
            super().sync(file)


class WithoutPublicationSync(LoggedDisk):
    """Forgets to sync the folder that a checkpoint was renamed in."""

    def sync_folder(self, path: Path) -> None:
        if path.name != "checkpoints":
            super().sync_folder(path)


def run(tmp_path: Path, count: int, **options: Any) -> Outcome:
    return power.campaign(count, 1, tmp_path, lambda line: None, **options)


def test_no_power_cut_loses_a_checkpoint_or_lets_a_bad_one_in(tmp_path: Path) -> None:
    outcome = run(tmp_path, 700, resumed=60)
    assert outcome.failures == ()
    assert outcome.tried == outcome.figures["states"] == 700
    assert outcome.figures["distinct"] > 300
    assert outcome.figures["resumed"] >= 5


@pytest.mark.parametrize("disk", [WithoutSync, WithoutFolderSync, WithoutHistorySync, WithoutPublicationSync])
def test_a_sync_left_out_is_reported_as_lost_checkpoints(tmp_path: Path, disk: type[LoggedDisk]) -> None:
    outcome = run(tmp_path, 250, disk=disk, scenarios=("mid-epoch",))
    assert outcome.figures["lost"] > 20
    assert any(failure.startswith("lost: ") for failure in outcome.failures)


def test_a_reader_that_checks_no_checksum_is_reported_as_accepting_bad_ones(tmp_path: Path) -> None:
    def careless(folder: Path) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((folder / "state.json").read_bytes())
        return content

    with scratch_folder("careless", tmp_path) as scratch, fast_pace():
        run = record("mid-epoch", scratch / "recorded", LoggedDisk, 1, 2)
        disk, judge, recovery = SimulatedDisk(), Judge(run), Recovery(run, scratch / "replayed")
        for operation in run.operations:
            disk.apply(operation)
            judge.follow(operation, disk)
        state = disk.view()
        assert judge.judge(state, recovery.recover(state)) == []
        path = f"run/checkpoints/{judge.reported}/state.safetensors"
        state[path] = (state[path] or b"")[:-1] + b"?"
        careful = judge.judge(state, recovery.recover(state))
        with replaced(checkpoint, "is_whole", Path.is_dir), replaced(checkpoint, "read_content", careless):
            accepted = judge.judge(state, recovery.recover(state))
    assert {kind for kind, _ in careful} == {"lost"}
    assert ("accepted_bad", f"run/checkpoints/{judge.reported} is not as it was written") in accepted


def replayed(*operations: Operation) -> dict[str, dict[str, bytes | None]]:
    """Return the fixed states after a log, by their names."""
    disk = SimulatedDisk()
    for operation in operations:
        disk.apply(operation)
    return {choice.name: disk.state(choice) for choice in fixed_choices()}


WRITTEN = (Operation("open", "a.part", "wb", 1), Operation("write", file=1, data=b"content"))
SYNCED = (*WRITTEN, Operation("sync", file=1), Operation("rename", "a.part", "a"))


def test_the_simulated_disk_keeps_what_was_synced_and_nothing_else() -> None:
    states = replayed(*WRITTEN, Operation("rename", "a.part", "a"))
    assert states["all that is not synced lost"] == {}
    assert states["everything kept"] == {"a": b"content"}
    assert states["names kept, data lost"] == {"a": b""}
    assert states["names kept, data zeros"] == {"a": bytes(7)}
    assert replayed(*SYNCED)["all that is not synced lost"] == {}
    assert replayed(*SYNCED)["names kept, data lost"] == {"a": b"content"}
    assert set(map(str, replayed(*SYNCED, Operation("sync-folder")).values())) == {"{'a': b'content'}"}


def test_a_deletion_may_not_have_happened_until_its_folder_is_synced() -> None:
    deleted = (*SYNCED, Operation("sync-folder"), Operation("delete", "a"))
    assert replayed(*deleted)["all that is not synced lost"] == {"a": b"content"}
    assert replayed(*deleted, Operation("sync-folder"))["all that is not synced lost"] == {}


def test_a_file_in_a_folder_that_is_not_durable_is_lost_with_it() -> None:
    inside = (
        Operation("make-folder", "folder"), Operation("open", "folder/a", "wb", 1), Operation("write", file=1, data=b"content"),
        Operation("sync", file=1), Operation("sync-folder", "folder"),
    )  # fmt: skip
    assert replayed(*inside)["all that is not synced lost"] == {}
    assert replayed(*inside, Operation("sync-folder"))["all that is not synced lost"] == {
        "folder": None,
        "folder/a": b"content",
    }
