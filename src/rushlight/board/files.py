"""Reading files that anybody may have put there: regular files only, no links, no more than is asked for.

A run's folder may come from somebody else. A link could lead anywhere, a named pipe would hang the server, and a file of a
gigabyte would fill its memory.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from pathlib import Path
from typing import Any

from rushlight.files import open_file

MOST_LINES = 4 << 20  # bytes of lines read at once
CHECKED = 64  # bytes before a cursor that tell whether the file is still the one that was read


def read_status(path: Path) -> os.stat_result | None:
    """Return the status of a regular file; None for anything else, a link included."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def read_range(path: Path, start: int, length: int) -> bytes:
    """Return the bytes of a regular file from `start`, fewer where it ends before; b"" for anything else."""
    if length <= 0 or read_status(path) is None:
        return b""
    try:
        file = open_file(path, follows=False)
    except OSError:
        return b""
    with file:
        file.seek(start)
        return file.read(length)


def read_new_lines(path: Path, cursor: str = "") -> tuple[list[dict[str, Any]], str, bool]:
    """Return the whole lines of a JSON-lines file after a cursor, the next cursor, and whether all are given anew.

    They are given anew where the file is not the one that the cursor was made for, or was truncated since. A line that is
    no JSON object is left out. At most `MOST_LINES` bytes are read, and the next cursor goes on there.
    """
    status = read_status(path)
    if status is None:
        return [], "", bool(cursor)
    number = cursor.split(".")[1] if cursor.count(".") == 2 else ""
    offset = int(number) if number.isdecimal() and len(number) < 16 else 0
    if offset > status.st_size or cursor != cursor_at(path, offset, status):
        offset = 0
    content = read_range(path, offset, MOST_LINES)
    whole = content[: content.rfind(b"\n") + 1]
    lines = []
    for line in whole.split(b"\n")[:-1]:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            lines.append(entry)
    return lines, cursor_at(path, offset + len(whole), status), not offset and bool(cursor)


def read_all_lines(path: Path) -> list[dict[str, Any]]:
    """Return all whole lines of a JSON-lines file that are JSON objects."""
    found: list[dict[str, Any]] = []
    cursor, before = "", None
    while cursor != before:
        before = cursor
        lines, cursor, is_anew = read_new_lines(path, before)
        found = lines if is_anew else found + lines
    return found


def cursor_at(path: Path, offset: int, status: os.stat_result) -> str:
    """Return the cursor for an offset: the file's number, the offset, and a checksum of the bytes before it."""
    before = read_range(path, max(0, offset - CHECKED), min(offset, CHECKED))
    return f"{status.st_ino}.{offset}.{zlib.crc32(before)}"
