"""The runs of a folder, read again only where they changed; each is known to the page by an id, never by a path."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.board.tensorboard import event_files, event_folders
from rushlight.errors import RunError
from rushlight.runs import NO_NOTE, is_locked, is_run, read_note, read_recipe, started_at, summarize_any
from rushlight.texts import shown, text

SMALL_FILES = (
    "recipe.json",
    "environment.json",
    "report.json",
    "sessions.jsonl",
    "holder.json",
    "run.lock",
    "note.json",
)
READ_WHOLE = {**dict.fromkeys(SMALL_FILES, 16 << 20), "history.jsonl": 64 << 20, "values.jsonl": 64 << 20}  # bytes
LOSSES = "losses.f32"
OF_EVERY_RUN = ("recipe.json", "history.jsonl")  # at least one of them
OF_SOME_RUNS = tuple(name for name in (*READ_WHOLE, LOSSES) if name not in OF_EVERY_RUN)
SETTLED_SECONDS = 2.0  # a folder's time of change is trusted when it is this old
SEARCH_SECONDS = 10.0  # between two searches for TensorBoard's files
READING_SECONDS = 0.5  # of one call; what is new then waits for the next
AHEAD_SECONDS = 0.1  # the same, of reading before anybody asks: a question waits as long
LONGEST_NAME = 300  # characters shown of a name that a file holds
OF_RECIPE = ("batch_size", "seed", "precision", "device")

TENSORBOARD = "tensorboard"  # the status of what has event files instead of a run

Signature = tuple[object, ...]
Statuses = dict[str, os.stat_result]


class Refused(Exception):
    """Something in a run's folder is not read: a link, a pipe, a file that is too large. Its text says what."""


@dataclass
class Entry:
    """One run, as it was read last."""

    folder: Path
    signature: Signature
    row: dict[str, Any]
    version: int  # of the list in which this row was new
    settled: int | None  # the folder's time of change (ns) for as long as nothing else needs to be asked


class Runs:
    """The runs in one folder. Requests of several threads take turns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids: dict[str, str] = {}  # by name
        self.entries: dict[str, Entry] = {}  # by id
        self.gone: dict[str, int] = {}  # the ids of runs that are gone, and since which version
        self.version = 0
        self.event_places: list[Path] = []  # folders with TensorBoard's files
        self.events_due = 0.0  # when they are searched for again
        self.unread: list[str] = []  # the names that are still to be read, the next one last
        self.seen: set[str] = set()  # the ids of what was read since the names were
        self.others: list[Path] = []  # what is no run
        self.is_whole = False  # whether all runs were read
        self.lock = threading.RLock()
        self.server = secrets.token_hex(4)  # versions of another server mean nothing here

    def read_ahead(self) -> None:
        """Read all runs, a part at a time: while a browser opens, and while it draws what it got."""
        while not self.is_whole:
            with self.lock:
                self.refresh(AHEAD_SECONDS)
            time.sleep(0.001)  # else no question would get its turn

    def refresh(self, seconds: float = READING_SECONDS) -> None:
        """Read the runs that are new or have changed since, and forget those that are gone."""
        version, until = self.version + 1, time.monotonic() + seconds
        if not self.unread:
            self.unread, self.seen, self.others = self.names(), set(), []
        while self.unread:
            name = self.unread[-1]
            identity = self.ids[name] if name in self.ids else self.ids.setdefault(name, id_of(name))
            if identity not in self.entries and time.monotonic() > until:
                break  # the rest at the next call: the page shows what there is
            self.unread.pop()
            if self.refresh_one(identity, self.folder / name, version):
                self.seen.add(identity)
            else:
                self.others.append(self.folder / name)
        self.is_whole = not self.unread
        if self.is_whole:
            self.seen |= self.refresh_events(self.others, version)
            for identity in [identity for identity in self.entries if identity not in self.seen]:
                del self.entries[identity]
                self.gone[identity] = version
        changed = any(entry.version == version for entry in self.entries.values())
        if changed or version in self.gone.values():
            self.version = version

    def names(self) -> list[str]:
        """Return the names in the folder that may be runs, the newest last."""
        try:
            with os.scandir(self.folder) as found:
                return sorted(entry.name for entry in found if not entry.name.startswith("."))
        except OSError:
            return []

    def refresh_one(self, identity: str, folder: Path, version: int) -> bool:
        """Read one run if it changed; return whether there is one."""
        known = self.entries.get(identity)
        try:
            status = os.lstat(folder)
            if known is not None and known.settled == status.st_mtime_ns:
                return True
            if stat.S_ISLNK(status.st_mode) and not folder.resolve().is_relative_to(self.folder.resolve()):
                row = damaged_row(folder, text("board.problem.link"))
                signature: Signature = ("link",)
            else:
                row, found = {}, statuses_of(folder)
                if not is_run_of(folder, found):
                    return False
                signature = signature_of(folder, found)
        except (OSError, RuntimeError):  # RuntimeError: a circle of links
            return False
        if known is None or known.signature != signature:
            row = {**(row or row_of(folder, found)), "id": identity}
            known = self.entries[identity] = Entry(folder, signature, row, version, None)
            self.gone.pop(identity, None)
        elif "bytes" in known.row and known.row["bytes"] != losses_size(
            found
        ):  # a loss more is no reason to read it again
            known.row, known.version = {**known.row, "bytes": losses_size(found)}, version
        is_old = time.time() - status.st_mtime > SETTLED_SECONDS
        known.settled = status.st_mtime_ns if is_old and known.row["status"] != "running" else None
        return True

    def refresh_events(self, others: list[Path], version: int) -> set[str]:
        """Read the rows of TensorBoard's folders, in this folder and in those that are no runs; return their ids."""
        if time.monotonic() > self.events_due:  # they may lie deep, and beside much else
            self.events_due = time.monotonic() + SEARCH_SECONDS
            inside = [found for other in others if not other.is_symlink() for found in event_folders(other)]
            self.event_places = [*event_folders(self.folder, deepest=0), *inside]
        seen = set()
        for found in self.event_places:
            name = found.relative_to(self.folder).as_posix()
            identity, files_there = id_of(f"{TENSORBOARD}/{name}"), event_files(found)
            if not files_there:
                continue
            seen.add(identity)
            known = self.entries.get(identity)
            if known is None or known.signature != tuple(files_there):
                row = {
                    "id": identity, "name": self.folder.name if name == "." else name, "status": TENSORBOARD, "problem": "",
                    "started": min(changed for _, _, changed in files_there) / 1e9,
                    "bytes": sum(size for _, size, _ in files_there),
                }  # fmt: skip
                self.entries[identity] = Entry(found, tuple(files_there), row, version, None)
                self.gone.pop(identity, None)
        return seen

    def changes(self, since: int) -> dict[str, Any]:
        """Read the list again; return the rows that are new since a version of it, the ids that are gone, and the version now."""
        with self.lock:
            self.refresh()
            rows = [entry.row for entry in self.entries.values() if entry.version > since]
            gone = [identity for identity, version in self.gone.items() if version > since]
            state = {"server": self.server, "version": self.version, "whole": self.is_whole}
        return {**state, "rows": rows, "gone": gone}

    def find(self, identity: str) -> Path | None:
        """Return the folder of a run by its id; None if there is none, or if its link leads out of the folder."""
        with self.lock:
            if identity not in self.entries:
                self.refresh()
            entry = self.entries.get(identity)
        return None if entry is None or entry.signature == ("link",) else entry.folder


def id_of(name: str) -> str:
    """Return the id of a run: the same for the same name, also after the board was started again."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def statuses_of(folder: Path) -> Statuses:
    """Return the status of each file that a row is made of; those that are not there are left out.

    A folder with neither a recipe nor a history is no run, and may hold a million files: its names are not read.
    """
    found = existing(folder, OF_EVERY_RUN)
    if found:
        try:
            with os.scandir(folder) as entries:
                names = {entry.name for entry in entries}
        except OSError:  # its files may be read, if not their names
            names = {*OF_SOME_RUNS}
        found |= existing(folder, [name for name in OF_SOME_RUNS if name in names])
    return found


def existing(folder: Path, names: Iterable[str]) -> Statuses:
    """Return the status of each of these files that is there."""
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            found[name] = os.lstat(f"{folder}/{name}")
    return found


def is_run_of(folder: Path, found: Statuses) -> bool:
    """Tell whether a folder with these files holds a run, whole or damaged."""
    own = [found[name] for name in ("recipe.json", "history.jsonl") if name in found]
    if not any(stat.S_ISREG(status.st_mode) for status in own):
        return bool(own) and is_run(folder)
    return not folder.name.endswith(files.TEMPORARY)


def signature_of(folder: Path, found: Statuses) -> Signature:
    """Return what changes whenever a run's row may change, but for its losses' size.

    A killed process takes its lock along without a change of any file.
    """
    read = [(name, one) for name, one in found.items() if name != LOSSES]
    states = [(name, one.st_mode, one.st_ino, one.st_size, one.st_mtime_ns) for name, one in read]
    is_held = "holder.json" in found and are_regular(found, "holder.json", "run.lock")
    return (*states, is_held and is_locked(folder))


def losses_size(found: Statuses) -> int:
    """Return the size of the file of losses in bytes; 0 where there is none."""
    return found[LOSSES].st_size if LOSSES in found else 0


def are_regular(found: Statuses, *names: str) -> bool:
    """Tell whether all these files are regular ones, or not there."""
    return all(stat.S_ISREG(found[name].st_mode) for name in names if name in found)


def check_files(found: Statuses) -> None:
    """Raise Refused if a file that is read whole is a link, a device or a pipe, or too large."""
    for name, most in READ_WHOLE.items():
        status = found.get(name)
        if status is not None and not stat.S_ISREG(status.st_mode):
            raise Refused(text("board.problem.no-file", name=name))
        if status is not None and status.st_size > most:
            raise Refused(text("board.problem.too-large", name=name, bytes=status.st_size, most=most))


def row_of(folder: Path, found: Statuses) -> dict[str, Any]:
    """Return a run's row of the list: the fields of `RunSummary`, and some of its recipe. It never raises."""
    try:
        check_files(found)
        try:
            recipe = read_recipe(folder)
        except RunError:
            recipe = None  # the summary says what is wrong with it
        summary = summarize_any(folder, recipe, found)
        row = {**vars(summary), "problem": shown(summary.problem)}
        if recipe is not None and summary.status != "damaged":
            optimizer = recipe.get("optimizer")
            if isinstance(optimizer, dict):
                arguments = optimizer.get("arguments")
                row["optimizer"] = optimizer.get("name")
                row["lr"] = arguments.get("lr") if isinstance(arguments, dict) else None
            row |= {name: recipe.get(name) for name in OF_RECIPE}
    except Refused as error:
        return damaged_row(folder, str(error))
    except Exception as error:  # whatever a hostile file brings about, this run alone is damaged
        return damaged_row(
            folder, text("board.problem.unreadable", reason=f"{type(error).__name__}: {error}"[:LONGEST_NAME])
        )
    row.pop("folder")
    row["bytes"] = losses_size(found)  # a killed training may leave losses and no line of history
    row |= read_note(folder) if "note.json" in found else NO_NOTE
    return {name: row_value(value) for name, value in row.items()}


def damaged_row(folder: Path, problem: str) -> dict[str, Any]:
    """Return the row of a run that is not read."""
    is_readable = not folder.is_symlink() and are_regular(statuses_of(folder), "history.jsonl", "recipe.json")
    started = started_at(folder) if is_readable else 0
    return {"name": folder.name, "started": started, "status": "damaged", "problem": problem}


def row_value(value: Any) -> Any:
    """Return a value of a row as JSON has it: a number, a short text, or the text of anything else."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or (isinstance(value, int) and abs(value) < 2**53):
        return value
    if isinstance(value, (tuple, list)):
        return [row_value(part) for part in value[:20]]
    return str(value)[:LONGEST_NAME]
