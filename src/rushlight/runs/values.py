"""What the user logged: `values.jsonl`, a line for each call of `epoch.log`, and `media/`, its images.

{"epoch", "step", "values": {name: number, text, or {"media": "media/00000938-name.png", "width", "height"}}, "time"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.runs.history import whole_lines_length

VALUES, MEDIA = "values.jsonl", "media"


def append_values(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a line, and wait until it is on the disk: it is newer than the checkpoint of its epoch. Raises StorageError."""
    body = json.dumps(files.without_nan(line), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    path = folder / VALUES
    whole = whole_lines_length(path)
    if path.exists() and path.stat().st_size > whole:  # a crash has torn its last line
        files.truncate_file(path, whole)
    files.append_bytes(path, body.encode() + b"\n")
    files.sync_file(path)


def read_values(folder: Path) -> list[dict[str, Any]]:
    """Return the lines that are whole, oldest first; [] where nothing was logged."""
    path = folder / VALUES
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def keep_values(folder: Path, epochs: int) -> None:
    """Keep what was logged of the first `epochs` epochs: the later ones are trained, and logged, again."""
    lines = read_values(folder)
    kept = [line for line in lines if line["epoch"] <= epochs]
    if len(kept) == len(lines):
        return
    body = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in kept)
    files.write_bytes(folder / VALUES, body.encode())
    for name in {*media_of(lines)} - {*media_of(kept)}:
        files.delete_file(folder / name)


def media_of(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Give the names of the image files that some lines refer to."""
    for line in lines:
        yield from (value["media"] for value in line["values"].values() if isinstance(value, dict))
