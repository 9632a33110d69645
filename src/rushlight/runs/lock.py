"""One writer for each run: a lock that dies with its holder.

The operating system holds the lock for the process, so a killed process leaves none behind. `holder.json` only names
the process, for the person who finds the run in use.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rushlight import files
from rushlight.errors import RunError, StorageError
from rushlight.kinds import Kind, is_count, is_text, is_time
from rushlight.texts import Note

LOCK, HOLDER = "run.lock", "holder.json"
HOLDER_KIND: Kind = {"pid": is_count, "host": is_text, "started": is_time}
MOST_OF_HOLDER = 1 << 16  # bytes
PROBE_SECONDS = 0.2  # outlasts another process that only tests whether the run is in use
DELETED = ".deleted"  # a run is renamed before it is deleted: "first-try.deleted.0a1b2c3d.part"


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold the run in `folder` for the block; raises RunError naming who else has it.

    Deletions beside it that were killed are finished first.
    """
    sweep_deleted(folder.parent)
    lock = FileLock(folder / LOCK)
    with files.explained(folder / LOCK):
        try:
            lock.acquire(timeout=PROBE_SECONDS, poll_interval=0.02)
        except Timeout:
            raise RunError("run-in-use", folder=folder, holder=describe_holder(folder)) from None
    try:
        with files.held_by(folder / LOCK):
            files.write_json(folder / HOLDER, {"pid": os.getpid(), "host": platform.node(), "started": time.time()})
            try:
                yield
            finally:
                with contextlib.suppress(StorageError):  # the folder is another's, or gone
                    files.check_in_place(folder)
                    files.delete_file(folder / HOLDER)  # a file left behind would name a holder that no longer holds
    finally:
        lock.release()


def move_run(folder: Path, target: Path) -> None:
    """Rename a run that no process uses. Raises RunError for one in use; StorageError, and it is still there, whole."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock_run(folder))
        if os.name == "nt":
            stack.close()  # Windows renames no folder in which a file is open
        with files.explained(folder):
            files.disk.rename(folder, target)
            files.disk.sync_folder(folder.parent)


def is_locked(folder: Path) -> bool:
    """Tell whether a living process holds the run; costs nothing where its holder left properly."""
    if not (folder / HOLDER).exists():
        return False
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:  # a folder that this account may only read
        return is_alive(read_holder(folder))
    lock.release()
    return False


def read_holder(folder: Path) -> dict[str, Any]:
    """Return the holder's pid, host, started (Unix time); {} if it cannot be read."""
    return files.readable_json(folder / HOLDER, HOLDER_KIND, MOST_OF_HOLDER) or {}


def describe_holder(folder: Path) -> str:
    """Return a run's holder in words: 'process 4242 on "ada", since 14:05:31 on 23 November'."""
    holder = read_holder(folder)
    try:
        since = time.strftime("%H:%M:%S on %d %B", time.localtime(holder["started"]))
        return Note("runs.holder", pid=holder["pid"], host=holder["host"], time=since)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return Note("runs.unknown-holder")


def is_alive(holder: dict[str, Any]) -> bool:
    """Tell whether a process with the holder's number runs on this machine."""
    pid = holder.get("pid")
    if os.name == "nt" or holder.get("host") != platform.node() or not isinstance(pid, int) or pid <= 0:
        return False  # on Windows os.kill would end the process instead of asking
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)
    return True


def sweep_deleted(runs: Path) -> None:
    """Delete what killed deletions have left of runs. Several processes may do that at once."""
    for folder in runs.glob(f"*{DELETED}.????????{files.TEMPORARY}"):
        files.disk.delete_tree(folder)
