"""Writing to disk: whole or not at all, and nothing left lying about."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rushlight import files
from rushlight.errors import StorageError


def folder_with(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "file").write_text(content, encoding="utf-8")
    return path


def test_a_folder_takes_the_place_of_another_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "名 1", "old")
    with files.replacing_folder(path) as temporary:
        files.write_bytes(temporary / "file", b"new")
    assert (path / "file").read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_could_not_be_replaced_is_back_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder_with(tmp_path / "one", "old")
    rename, done = os.replace, []

    def refusing(source: Any, target: Any) -> None:
        done.append(target)
        if len(done) == 2:  # the new folder's, after the old one was moved aside
            raise PermissionError(13, "in use")
        rename(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    with pytest.raises(StorageError) as caught, files.replacing_folder(path) as temporary:
        (temporary / "file").write_text("new", encoding="utf-8")
    assert caught.value.key == "no-permission"
    assert (path / "file").read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_inside_the_block_leaves_the_old_folder_alone(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "one", "old")
    with pytest.raises(ValueError, match="stop"), files.replacing_folder(path):
        raise ValueError("stop")
    assert (path / "file").read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_deleted_folder_is_gone_and_one_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "one", "old")
    assert files.delete_folder(path)
    assert list(tmp_path.iterdir()) == []
    assert not files.delete_folder(path)


def test_sweeping_deletes_what_was_never_published_and_nothing_else(tmp_path: Path) -> None:
    kept = {folder_with(tmp_path / "one", "old"), tmp_path / "notes.txt"}
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    folder_with(tmp_path / "two.0123abcd.part", "half")
    (tmp_path / "best.json.0123abcd.part").write_text("{", encoding="utf-8")
    files.sweep(tmp_path)
    assert set(tmp_path.iterdir()) == kept
    files.sweep(tmp_path / "nowhere")


def test_a_folder_that_goes_in_the_middle_of_a_write_is_said_to_be_gone(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    lock = tmp_path / "it" / "run.lock"
    lock.touch()

    def write_while_it_goes() -> None:
        with files.explained(tmp_path / "it" / "x"):
            (tmp_path / "it").rename(tmp_path / "moved")
            (tmp_path / "it" / "x").touch()

    with files.held_by(lock), pytest.raises(StorageError) as gone:
        write_while_it_goes()
    assert gone.value.key == "folder-gone"
    files.write_bytes(tmp_path / "it" / "x", b"free again")  # nobody works there any more
