"""TensorBoard's event files as runs: their scalars, read as they grow. No TensorFlow, no protobuf.

A file is a row of records: length (uint64), a checksum, the bytes, a checksum. A record is an `Event` in protobuf: 1 wall_time,
2 step, 5 summary; a summary has values (1): 1 tag, 2 simple_value, 8 tensor. All is little-endian.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rushlight.board.files import read_range, read_status

MARK = "tfevents"
DEEPEST = 4  # folders below the one that is shown
MOST_FOLDERS = 2000
PIECE = 8 << 20  # bytes read at once
MOST_RECORD = 64 << 20
NUMBERS = {1: "f", 2: "d", 3: "i", 9: "q"}  # of a tensor, by its type: float, double, int32, int64

Field = tuple[int, int | bytes]


def event_folders(folder: Path, deepest: int = DEEPEST) -> Iterator[Path]:
    """Give the folder, and those below it, that hold event files themselves. Links are not followed."""
    left = [(folder, 0)]
    for _ in range(MOST_FOLDERS):
        if not left:
            return
        here, depth = left.pop()
        try:
            with os.scandir(here) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            continue
        if any(MARK in entry.name and entry.is_file(follow_symlinks=False) for entry in entries):
            yield here
        if depth < deepest:
            inner = (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            left += [(here / name, depth + 1) for name in inner if not name.startswith(".")]


def event_files(folder: Path) -> list[tuple[str, int, int]]:
    """Return the names, sizes and times of change of a folder's event files, in the order of their names: of their beginnings."""
    try:
        paths = sorted(path for path in folder.iterdir() if MARK in path.name)
    except OSError:
        return []
    found = ((path.name, read_status(path)) for path in paths)
    return [(name, status.st_size, status.st_mtime_ns) for name, status in found if status is not None]


class EventLogs:
    """The scalars of the folders that were asked for, read on where they were left."""

    def __init__(self) -> None:
        self.folders: dict[Path, tuple[dict[str, int], list[dict[str, Any]]]] = {}  # offsets by file, and the lines
        self.lock = threading.Lock()

    def new_lines(self, folder: Path, cursor: str) -> tuple[list[dict[str, Any]], str, bool]:
        """Return the lines after a cursor, the next cursor, and whether all are given anew, as `read_new_lines` does."""
        with self.lock:
            offsets, lines = self.folders.setdefault(folder, ({}, []))
            sizes = {name: size for name, size, _ in event_files(folder)}
            if any(sizes.get(name, 0) < offset for name, offset in offsets.items()):  # truncated, or gone
                offsets, lines = self.folders[folder] = {}, []
            for name in sizes:
                start = offsets.get(name, 0)
                offsets[name] = start + read_events(folder / name, start, lines)
            known = int(cursor) if cursor.isdecimal() and len(cursor) < 12 and int(cursor) <= len(lines) else 0
            return lines[known:], str(len(lines)), bool(cursor) and not known


def read_events(path: Path, start: int, lines: list[dict[str, Any]]) -> int:
    """Add a file's whole records from `start` on; return the bytes that they have. What is no record ends the reading."""
    done = 0
    while True:
        content, at = read_range(path, start + done, PIECE), 0
        while at + 12 <= len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            if length > MOST_RECORD:
                return done
            end = at + 16 + length
            if end > len(content):
                if length + 16 > PIECE:  # an image, say: no scalars
                    at = end
                break
            with contextlib.suppress(
                ValueError, IndexError, TypeError, struct.error
            ):  # it is none; the next may be one
                add_scalars(content[at + 12 : end - 4], lines)
            at = end
        status = read_status(path)
        if not at or status is None or start + done + at > status.st_size:
            return done
        done += at


def add_scalars(record: bytes, lines: list[dict[str, Any]]) -> None:
    """Add the scalars of one event: to the last line, where that is of the same step."""
    time, step, values = 0.0, 0, {}
    for number, field in fields(record):
        if number == 1 and isinstance(field, bytes):
            (time,) = struct.unpack("<d", field)
        elif number == 2 and isinstance(field, int):
            step = field
        elif number == 5 and isinstance(field, bytes):
            for _, value in fields(field):
                parts = dict(fields(value)) if isinstance(value, bytes) else {}
                tag, scalar = parts.get(1), scalar_of(parts)
                if isinstance(tag, bytes) and scalar is not None:
                    values[tag.decode()[:300]] = scalar
    if not values or not 0 <= step < 1 << 53:
        return
    if lines and lines[-1]["step"] == step and not values.keys() & lines[-1]["values"].keys():
        lines[-1] = {**lines[-1], "values": lines[-1]["values"] | values}
    else:
        lines.append({"step": step, "time": time, "values": values})


def scalar_of(parts: dict[int, int | bytes]) -> float | None:
    """Return the number of a summary's value; None where it is no single number."""
    simple, tensor = parts.get(2), parts.get(8)
    if isinstance(simple, bytes) and len(simple) == 4:
        return float(struct.unpack("<f", simple)[0])
    if not isinstance(tensor, bytes):
        return None
    inner = dict(fields(tensor))
    kind = NUMBERS.get(inner.get(1, 0))  # type: ignore[arg-type]
    for number in (4, 5, 6):  # tensor_content, float_val, double_val
        content = inner.get(number)
        if kind is not None and isinstance(content, bytes) and len(content) == struct.calcsize(f"<{kind}"):
            return float(struct.unpack(f"<{kind}", content)[0])
    return None


def fields(message: bytes) -> Iterator[Field]:
    """Give the fields of a protobuf message: its number, and a whole number or its bytes. ValueError for what is none."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("varint")

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7)
        if size is None:
            if key & 7 != 2:
                raise ValueError("wire type")
            size = varint()
        if at + size > len(message):
            raise ValueError("length")
        yield key >> 3, message[at : at + size]
        at += size
