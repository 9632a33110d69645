"""Whatever the disk refuses is explained, costs no checkpoint, and is made good once the disk works again."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from faults.refusing import RefusingDisk
from faults.small import OPTIONS, disk_in_place, fast_pace, replaced, train
from faults.surroundings import SURROUNDINGS, folders_that_may_only_be_read, has_account_without_rights

import rushlight
from faults import disk
from rushlight import files
from rushlight.cli import main
from rushlight.errors import StorageError

pytestmark = pytest.mark.slow


def test_a_disk_that_refuses_any_operation_costs_nothing_that_was_saved(tmp_path: Path) -> None:
    outcome = disk.campaign(60, 1, tmp_path, lambda line: None, surroundings=False)
    assert outcome.failures == ()
    assert outcome.tried == 60
    assert outcome.figures["refused"] >= 60
    assert outcome.figures["resumed"] > 20


def test_an_error_without_an_explanation_is_reported(tmp_path: Path) -> None:
    class Unexplained(RefusingDisk):
        def ask(self, path: Path) -> None:
            try:
                super().ask(path)
            except OSError as error:
                raise RuntimeError("no words") from error

    with replaced(disk, "RefusingDisk", Unexplained):
        outcome = disk.campaign(20, 1, tmp_path, lambda line: None, surroundings=False)
    assert outcome.figures["raised"] > 5
    assert "RuntimeError instead of a StorageError" in outcome.failures[0]


def test_a_disk_that_destroys_checkpoints_is_reported(tmp_path: Path) -> None:
    class Destroying(RefusingDisk):
        def ask(self, path: Path) -> None:
            try:
                super().ask(path)
            except OSError:
                for folder in path.parents:
                    for tensors in folder.glob("run/checkpoints/*/*.safetensors"):
                        tensors.unlink()  # not cut off: a resumed run may have it mapped
                raise

    with replaced(disk, "RefusingDisk", Destroying):
        outcome = disk.campaign(20, 1, tmp_path, lambda line: None, surroundings=False)
    assert len(outcome.failures) > 5


@pytest.mark.parametrize("surrounding", [each for each in SURROUNDINGS if each is not folders_that_may_only_be_read])
def test_surroundings_out_of_order_change_nothing(tmp_path: Path, surrounding: disk.Surrounding) -> None:
    with fast_pace():
        assert surrounding(tmp_path) == []


@pytest.mark.skipif(not has_account_without_rights(), reason="no account that may read this Python, and not write")
def test_folders_that_may_only_be_read_are_explained_with_exit_code_1() -> None:
    with disk.scratch_folder("readable", Path()) as work, fast_pace():
        assert folders_that_may_only_be_read(work) == []


@pytest.mark.parametrize("error", disk.ERRORS)
def test_the_command_line_says_which_path_the_disk_refused_and_leaves_with_1(
    error: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "mlp", "digits", "--epochs", "1", "--name", "run", "--runs", str(tmp_path)]
    with disk_in_place(RefusingDisk(20, error, for_ever=True)), pytest.raises(SystemExit) as left:
        main(command)
    said = "".join(capsys.readouterr().err.split())
    assert left.value.code == 1
    assert "Traceback" not in said
    assert "".join(str(tmp_path).split()) in said


def test_a_full_disk_keeps_half_of_what_it_refuses(tmp_path: Path) -> None:
    with (
        disk_in_place(RefusingDisk(2, errno.ENOSPC)),
        pytest.raises(StorageError),
        files.replacing(tmp_path / "a") as file,
    ):
        file.write(b"12345678")
    with disk_in_place(RefusingDisk(2, errno.ENOSPC)), pytest.raises(StorageError):
        files.append_bytes(tmp_path / "b", b"12345678")
    assert (tmp_path / "b").read_bytes() == b"1234"
    assert not (tmp_path / "a").exists()


def test_a_disk_that_refuses_only_once_is_asked_again_by_a_resumed_run(tmp_path: Path) -> None:
    with fast_pace():
        runs = next(runs for runs in map(tmp_path.joinpath, map(str, range(40, 90))) if is_refused_once(runs))
        assert rushlight.resume("run", runs=runs, quiet=True).summary()["epochs"] == OPTIONS["epochs"]


def is_refused_once(runs: Path) -> bool:
    """Train while one operation is refused, the one that the folder is named after; tell whether that ended the run."""
    refusing = RefusingDisk(int(runs.name), errno.EIO)
    try:
        with disk_in_place(refusing):
            train(runs)
    except StorageError:
        assert refusing.refused == 1
        return True
    return False  # the history's: training goes on without it
