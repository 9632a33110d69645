"""A run's folder that is moved, deleted or replaced under its training: noticed, said, and nothing written elsewhere."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rushlight
from rushlight import files
from rushlight.errors import StorageError

SMALL: dict[str, Any] = {"model_arguments": {"hidden": (8,)}, "schedule": "constant", "quiet": True, "compile": "never"}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_until_saved(folder: Path) -> None:
    """Wait until the first epoch's checkpoint is published: it is written beside the training, and is moved with the folder."""
    until = time.monotonic() + 30
    while not (folder / "checkpoints" / "00000023" / "SHA256SUMS").exists():
        assert time.monotonic() < until
        time.sleep(0.005)


def replaced(folder: Path, other: Path) -> None:
    folder.rename(other)
    shutil.copytree(other, folder)


def deleted_lock(folder: Path, other: Path) -> None:
    (folder / "run.lock").unlink()


def moved(folder: Path, other: Path) -> None:
    folder.rename(other)


def changed_working_folder(folder: Path, other: Path) -> None:
    (other.parent / "elsewhere").mkdir()
    os.chdir(other.parent / "elsewhere")


@pytest.mark.skipif(os.name == "nt", reason="Windows moves no folder in which a file is open")
@pytest.mark.parametrize("happens", [moved, replaced, deleted_lock, changed_working_folder])
def test_a_folder_that_is_lost_ends_the_run_and_nothing_is_written_elsewhere(
    happens: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, other = tmp_path / "runs" / "it", tmp_path / "runs" / "other"
    training = rushlight.epochs("mlp", "digits", epochs=3, name="it", runs="runs", **SMALL)
    next(training)
    wait_until_saved(folder)
    happens(folder, other)
    before = {path.name: tree(path) for path in tmp_path.rglob("*") if path.is_dir()}
    with pytest.raises(StorageError, match="is not where it was"):
        for _ in training:
            pass
    for path in tmp_path.rglob("*"):
        if path.is_dir() and path.name != "it":
            assert tree(path) == before[path.name], path
    assert folder.exists() == (happens is not moved)
    monkeypatch.chdir(tmp_path)
    kept = other if other.exists() else folder
    assert rushlight.resume(kept, quiet=True).history[-1]["event"] == "finished"  # what was saved goes on


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no folder in which a file is open")
def test_a_folder_that_is_deleted_is_not_made_anew(tmp_path: Path) -> None:
    training = rushlight.epochs("mlp", "digits", epochs=2, name="it", runs=tmp_path, **SMALL)
    next(training)
    wait_until_saved(tmp_path / "it")
    shutil.rmtree(tmp_path / "it")
    with pytest.raises(StorageError, match="deleted"):
        next(training)
    assert not (tmp_path / "it").exists()


def test_only_our_own_unfinished_files_are_swept_away(tmp_path: Path) -> None:
    kept = ["notes.part", "video.mp4.part", "x.0a1b2c3d.part.txt", ".0a1b2c3d.part"]
    for name in (*kept, "state.json.0a1b2c3d.part"):
        (tmp_path / name).touch()
    (tmp_path / "film.part").mkdir()
    (tmp_path / "00000012.12345678.part").mkdir()
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "film.part"])
