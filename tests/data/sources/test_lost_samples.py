"""No sample is left out without a word, and no file is unusable for its name."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import rushlight
from rushlight.cli import main
from rushlight.errors import DataError, StorageError, UsageError


def write_classes(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(6):
            Image.fromarray(np.full((8, 8), 99 * number + index, np.uint8)).save(folder / name / f"{index}.png")
    return folder


@pytest.mark.parametrize("place", ["images/a", "images/a/more", "images"])
def test_a_folder_that_cannot_be_read_is_an_error(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "images", "a", "a/more", "b")
    scan, listed = os.scandir, os.listdir

    def refuse(read: Any) -> Any:
        def refusing(path: Any = ".") -> Any:
            if Path(path) == tmp_path / place:
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        return refusing

    monkeypatch.setattr(os, "scandir", refuse(scan))
    monkeypatch.setattr(os, "listdir", refuse(listed))
    with pytest.raises(DataError, match=r"cannot be read: Permission denied"):
        rushlight.open_data(tmp_path / "images")


def test_a_class_with_a_recipe_in_it_is_a_class_and_a_folder_of_runs_is_none(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", "a", "pasta/001", "runs/one")
    (tmp_path / "images" / "pasta" / "001" / "recipe.json").write_text(json.dumps({"eggs": 3}))
    for name in ("recipe.json", "environment.json"):
        (tmp_path / "images" / "runs" / "one" / name).write_text("{}")
    data = rushlight.open_data(tmp_path / "images")
    assert data.target is not None
    assert data.target.classes == ("a", "pasta")


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((9, 3), np.float32), y=np.arange(9) % 3)
    with pytest.raises(UsageError, match='Two classes are called "a"'):
        rushlight.open_data(tmp_path / "x.npz", classes=("a", "a", "b"))


@pytest.mark.skipif(sys.platform != "linux", reason="such names of files")
def test_names_that_are_not_utf_8_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cafe = os.fsdecode(b"caf\xe9")
    write_classes(tmp_path / cafe, cafe, "b")
    run = rushlight.train("linear", cafe, epochs=1, runs=cafe + "runs", name="it", quiet=True)
    assert run.report is not None
    assert cafe in [figures.name for figures in run.report.classes]
    assert rushlight.resume("it", runs=cafe + "runs", epochs=2, schedule="constant", quiet=True).report is not None
    assert rushlight.load(run.folder) is not None
    for arguments in (
        ["test", "it"], ["runs", "it"], ["runs"], ["runs", "--verify"], ["save", "it", f"{cafe}.pth"],
        ["predict", "it", f"{cafe}/b/0.png"], ["runs", "it", "--json"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as left:
            main([*arguments, "--runs", cafe + "runs"])
        assert not left.value.code, capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["data", cafe])
    assert not left.value.code, capsys.readouterr().err
    assert (tmp_path / f"{cafe}.pth").exists()


def test_what_was_found_is_shown_before_what_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise StorageError("no-permission", path="contact-sheet-images.png")

    write_classes(tmp_path / "images", "a", "b")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rushlight.data.write_contact_sheet", refuse)
    with pytest.raises(SystemExit) as left:
        main(["data", "images"])
    said = capsys.readouterr()
    assert left.value.code == 1
    assert "samples per class" in said.out.lower()
    assert "may not write here" in said.err
