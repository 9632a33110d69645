"""Samples keep their names: image files by their path in the folder, rows of tables by their number in the file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.open import DataOptions, open_like, open_source, retarget
from rushlight.data.shape.samples import Names
from rushlight.data.splits import Data


def images_in(root: Path, count: int = 10) -> Path:
    """Write images whose grey level is their number, ten times over where they are dogs, and one broken file."""
    for name, factor in (("猫", 1), ("dog", 10)):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (4, 4), index * factor).save(root / name / f"{index}.png")
    (root / "dog" / "0.png").write_bytes(b"broken")
    return root


def greys(split: Any, data: Data) -> list[int]:
    """Return every sample's grey level, as it is in its file."""
    assert data.features is not None
    spec = data.features.normalization
    inputs = torch.cat([inputs for inputs, _ in split.in_order(3)])
    mean, std = (spec.mean[0], spec.std[0]) if spec.mean else (0.0, 1.0)
    return ((inputs[:, 0, 0, 0] * std + mean) * spec.divisor).round().int().tolist()


@pytest.mark.parametrize("limit", [1 << 30, 10])
def test_an_image_is_called_by_its_path_in_the_folder_through_cuts_and_skipped_files(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rushlight.data.open.memory_limit", lambda: limit)
    data = open_source(images_in(tmp_path / "图片"), options=DataOptions(val_fraction=0.25, skip_bad=True))
    assert data.target is not None
    data = retarget(data, replace(data.target, task="binary")).to(torch.device("cpu"))
    seen: list[str] = []
    for split in data.splits.values():
        assert split.names is not None
        expected = [
            f"dog/{grey // 10}.png" if label == 0 else f"猫/{grey}.png"
            for grey, label in zip(greys(split, data), targets_of(split), strict=True)
        ]
        assert list(split.names) == expected
        seen += split.names
    assert sorted(seen) == sorted([f"猫/{n}.png" for n in range(10)] + [f"dog/{n}.png" for n in range(1, 10)])


def targets_of(split: Any) -> list[float]:
    return [float(y) for _, targets in split.in_order(3) for y in targets]


def test_folders_of_splits_are_in_the_name_and_other_data_names_its_own_files(tmp_path: Path) -> None:
    images_in(tmp_path / "a" / "train")
    images_in(tmp_path / "a" / "test", 3)
    options = DataOptions(skip_bad=True)
    data = open_source(tmp_path / "a", images_in(tmp_path / "b", 2), options)
    assert data.train.names is not None
    assert data.train.names[0] == "train/dog/1.png"
    assert data.test is not None
    assert data.test.names is not None
    assert list(data.test.names) == ["dog/1.png", "猫/0.png", "猫/1.png"]


def table(path: Path, rows: int = 40) -> Path:
    """Write a table whose column `a` is the row's number squared; every seventh row has no target."""
    lines = [f"{n * n},{'' if n % 7 == 0 else 'red' if n % 2 else 'blue'}" for n in range(1, rows + 1)]
    path.write_text("a,y\n" + "\n".join(lines) + "\n")
    return path


def row_numbers(split: ResidentSplit, data: Data) -> list[int]:
    assert data.features is not None
    spec = data.features.normalization
    return (split.inputs[:, 0] * spec.std[0] + spec.mean[0]).sqrt().round().int().tolist()


def test_a_row_is_called_by_its_number_in_the_file_through_cuts_and_dropped_rows(tmp_path: Path) -> None:
    data = open_source(table(tmp_path / "t.csv"), options=DataOptions(target="y", val_fraction=0.25))
    for split in data.splits.values():
        assert isinstance(split, ResidentSplit)
        assert split.names is not None
        assert list(split.names) == [f"row {number}" for number in row_numbers(split, data)]


def test_rows_of_several_files_are_called_by_file_and_number(tmp_path: Path) -> None:
    other = table(tmp_path / "o.csv", 8)
    data = open_source(table(tmp_path / "t.csv"), other, DataOptions(target="y"), validation=other)
    assert data.train.names is not None
    assert data.train.names[6] == "t.csv row 8"  # row 7 has no target
    for split in (data.validation, data.test):
        assert split is not None
        assert split.names is not None
        assert list(split.names) == [f"o.csv row {number}" for number in (1, 2, 3, 4, 5, 6, 8)]
    assert data.features is not None
    assert data.target is not None
    like = open_like(other, data.features, data.target, DataOptions())
    assert like.names is not None
    assert like.names[6] == "o.csv row 8"


def test_names_of_many_rows_take_little_memory_and_arrays_have_none() -> None:
    names = Names(np.arange(1_000_000) + 1, "data.row")
    assert (names[0], names[-1], len(names)) == ("row 1", "row 1000000", 1_000_000)
    assert list(names[np.array([3, 1])]) == ["row 4", "row 2"]
    assert sys.getsizeof(names.values) < 9_000_000
    assert open_source((np.zeros((4, 2)), [0, 1, 0, 1])).train.names is None
