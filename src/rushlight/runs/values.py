"""What the user logged: `values.jsonl`, a line for each call of `epoch.log`, and `media/`, its images.

{"epoch", "step", "values": {name: number, text, or {"media": "media/00000938-name.png", "width", "height"}}, "time"}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from rushlight import files
from rushlight.kinds import checker, is_count, is_object
from rushlight.runs.history import append_line, json_line
from rushlight.runs.read import read_lines

VALUES, MEDIA = "values.jsonl", "media"
CHECKERS = {"": checker({"epoch": is_count, "values": is_object})}


def append_values(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a line, and wait until it is on the disk: it is newer than the checkpoint of its epoch. Raises StorageError."""
    append_line(folder / VALUES, line)


def read_values(folder: Path) -> list[dict[str, Any]]:
    """Return the lines that are whole, oldest first; [] where nothing was logged."""
    path = folder / VALUES
    return read_lines(path, "", CHECKERS) if path.exists() else []


def keep_values(folder: Path, epochs: int) -> None:
    """Keep what was logged of the first `epochs` epochs: the later ones are trained, and logged, again."""
    lines = read_values(folder)
    kept = [line for line in lines if line["epoch"] <= epochs]
    if len(kept) == len(lines):
        return
    files.write_bytes(folder / VALUES, b"".join(map(json_line, kept)))
    for name in {*media_of(lines)} - {*media_of(kept)}:
        files.delete_file(folder / name)


def media_of(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Give the names of the image files that some lines refer to; none that lies elsewhere."""
    for line in lines:
        names = (str(value.get("media")) for value in line["values"].values() if isinstance(value, dict))
        yield from (name for name in names if PurePosixPath(name).parent == PurePosixPath(MEDIA))
