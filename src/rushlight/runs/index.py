"""The index of runs: a cache of summaries in `runs/index.sqlite`, so that listing a thousand runs is instant.

The folders are the truth. An entry counts only while the size and time of its run's files are what they were
when it was made; a damaged or missing index is built again, one that cannot be written is done without, and a
database that somebody else keeps there is left alone. The file is replaced whole: no reader meets half of it.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rushlight import files
from rushlight.errors import StorageError

INDEX = "index.sqlite"
APPLICATION_ID = 0x52555348  # "RUSH": SQLite's own field for telling whose database a file is
VERSION = 2  # raise it when the summary's fields change: older indexes are then built again
DAMAGE = (OSError, sqlite3.Error, ValueError, TypeError, MemoryError)  # SQLite runs out of memory on some nonsense
WATCHED = ("history.jsonl", "sessions.jsonl", "report.json", "recipe.json")


class Entry(NamedTuple):
    """One cached summary, and the stamp of the files it was made from."""

    stamp: str
    summary: dict[str, Any]


def stamp_of(folder: Path) -> str:
    """Return the time (ns) and size of each watched file, as one string: equal means unchanged."""
    parts = []
    for name in WATCHED:
        try:
            status = (folder / name).stat()
        except OSError:
            parts.append("-")
        else:
            parts.append(f"{status.st_mtime_ns}:{status.st_size}")
    return " ".join(parts)


def read_index(runs: Path) -> dict[str, Entry]:
    """Return the cached entries by folder name; {} when there is no index, or it is damaged or not ours."""
    try:
        with open_copy(runs / INDEX) as database:
            if mark_of(database) != (APPLICATION_ID, VERSION):
                return {}
            rows = database.execute("SELECT name, stamp, summary, checksum FROM runs").fetchall()
            return {
                name: Entry(stamp, dict(json.loads(summary)))
                for name, stamp, summary, checksum in rows
                if checksum == checksum_of(name, stamp, summary)
            }
    except DAMAGE:
        return {}


def write_index(runs: Path, entries: Mapping[str, Entry]) -> None:
    """Replace the index. Where it cannot be written, or is somebody else's, nothing happens: it is only a cache."""
    if is_foreign(runs / INDEX):
        return
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("CREATE TABLE runs (name TEXT PRIMARY KEY, stamp TEXT, summary TEXT, checksum INTEGER)")
        database.executemany("INSERT INTO runs VALUES (?, ?, ?, ?)", rows_of(entries))
        database.commit()
        content = database.serialize()
    with contextlib.suppress(StorageError):
        files.write_bytes(runs / INDEX, content)


def rows_of(entries: Mapping[str, Entry]) -> Iterable[tuple[str, str, str, int]]:
    """Give the table's rows, in name order so that equal runs make equal files."""
    for name in sorted(entries):
        if name.isprintable():  # SQLite has no letters for the bytes of a file name that is not UTF-8
            stamp, summary = entries[name].stamp, json.dumps(entries[name].summary)
            yield name, stamp, summary, checksum_of(name, stamp, summary)


def checksum_of(name: str, stamp: str, summary: str) -> int:
    """Return the CRC-32 of a row: SQLite itself does not notice a flipped bit in a text."""
    return zlib.crc32(f"{name}\n{stamp}\n{summary}".encode())


@contextlib.contextmanager
def open_copy(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy of the database in memory; whatever is wrong with it raises one of DAMAGE, now or when it is read."""
    content = path.read_bytes()
    if not content.startswith(b"SQLite format 3\0"):
        raise ValueError(f"{path} is no SQLite database")
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(content)
        yield database


def mark_of(database: sqlite3.Connection) -> tuple[int, int]:
    """Return the application id and the version that a database carries."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(application), int(version)


def is_foreign(path: Path) -> bool:
    """Tell whether `path` is a readable SQLite database that is not ours: a file not to be replaced."""
    try:
        with open_copy(path) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return bool(tables) and tables != ["runs"] and mark_of(database)[0] != APPLICATION_ID
    except DAMAGE:
        return False
