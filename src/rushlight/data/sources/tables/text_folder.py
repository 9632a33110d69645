"""A folder of text files by class, as a table: a column `text`, a column `label`, and one of the files' names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rushlight.data.shape import SPLIT_FOLDERS
from rushlight.data.sources.kind import refuse_folder
from rushlight.data.sources.tables.frames import most_of_a_text, polars, read_text_file

if TYPE_CHECKING:
    import polars as pl

TEXT, LABEL, FILE = "text", "label", "file"  # the columns


def is_text_folder(path: Path) -> bool:
    """Tell whether there are text files, and nothing else, in the class folders that are trained on."""
    if not path.is_dir():
        return False
    has_text = False
    for folder in folders(split_folders(path)["train"]):
        for file in files_below(folder):
            if file.suffix.lower() != ".txt":
                return False
            has_text = True
    return has_text


def folders(path: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones."""
    try:
        return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        refuse_folder(error)


def files_below(folder: Path) -> Iterator[Path]:
    """Give the files in a folder and the folders in it, without hidden ones, sorted in each."""
    for place, inner, names in os.walk(folder, onerror=refuse_folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def split_folders(path: Path) -> dict[str, Path]:
    """Return the folder of each split; the whole folder trains where it has no `train/`, and `val/` alone tests."""
    known = {folder.name.lower(): folder for folder in folders(path)}
    found = {
        split: next((known[name] for name in names if name in known), None) for split, names in SPLIT_FOLDERS.items()
    }
    if found["train"] is None:
        return {"train": path}
    if found["test"] is None:
        found["test"], found["validation"] = found["validation"], None
    return {split: folder for split, folder in found.items() if folder is not None}


def read_text_folder(path: Path) -> pl.DataFrame:
    """Read the text files of a folder that has a folder for each class."""
    files = [(folder.name, file) for folder in folders(path) for file in files_below(folder)]
    files = [(label, file) for label, file in files if file.suffix.lower() == ".txt"]
    most = most_of_a_text()
    columns: dict[str, Any] = {
        TEXT: [read_text_file(file, most) for _, file in files],
        LABEL: [label for label, _ in files],
        FILE: [file.relative_to(path).as_posix() for _, file in files],
    }
    frame: pl.DataFrame = polars().DataFrame(columns)
    return frame
