"""Deleting a run: only a real run folder, only by its whole name, and all of it or nothing."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from rushlight import files
from rushlight.errors import RunError
from rushlight.runs.checkpoint_files import CHECKPOINTS
from rushlight.runs.folder import ENVIRONMENT, RECIPE, find_run, is_run, run_folders
from rushlight.runs.history import HISTORY, LOSSES
from rushlight.runs.index import INDEX
from rushlight.runs.lock import HOLDER, LOCK, describe, is_locked, lock_run, read_holder
from rushlight.runs.parts import BUNDLE, size_of
from rushlight.runs.records import PREDICTIONS
from rushlight.runs.sessions import SESSIONS
from rushlight.runs.summary import REPORT, list_runs
from rushlight.runs.sweep import name_when_deleted
from rushlight.runs.verify import typed

OURS = {
    RECIPE, ENVIRONMENT, HISTORY, LOSSES, SESSIONS, CHECKPOINTS, REPORT, PREDICTIONS, BUNDLE, LOCK, HOLDER, "loss.png",
    "confusion.png", "tensorboard", "profile", "ways.json", "values.jsonl", "media",
}  # fmt: skip


@dataclass(frozen=True)
class Deletion:
    """What deleting a run did: the bytes it freed, and the path of what the operating system would not let go of."""

    folder: Path
    bytes: int
    left: Path | None = None


def find_run_to_delete(runs: Path, run: str) -> Path:
    """Return the folder of a run given by its whole name or its path.

    Raises RunError when it is given by less, when it is reached by a link, when other runs lie in it, when it does not
    look like a run, and when it is in use.
    """
    folder = find_exactly(runs, run)
    if is_link(folder):
        raise RunError("delete-link", path=folder, target=os.path.realpath(folder))
    if is_above(folder, Path.cwd()):
        raise RunError("delete-from-inside", path=folder)
    if inside := run_folders(folder):
        raise RunError("delete-holds-runs", path=folder, name=inside[0].name)
    if len(OURS & {path.name for path in folder.iterdir()}) < 2:  # one such name may be anybody's
        raise RunError("delete-not-a-run", path=folder)
    if is_locked(folder):
        raise RunError("run-in-use", folder=folder, holder=describe(read_holder(folder)))
    return folder


def find_exactly(runs: Path, run: str) -> Path:
    """Return the folder that a whole name or a path names; RunError for "latest" and for parts of names."""
    if run in {folder.name for folder in run_folders(runs)}:
        return runs / run
    path = Path(run)
    if run.strip() and path.is_dir():
        path = path.resolve() if path.name in ("", "..") else path
        if not is_run(path):
            raise RunError("not-a-run", path=path)
        return path
    found = find_run(runs, run)  # says what is wrong with a name that fits none or several
    raise RunError("delete-whole-name", run=run, name=typed(found))


def is_link(folder: Path) -> bool:
    """Tell whether the folder is a symbolic link, or a junction as Windows has them."""
    tag = getattr(folder.lstat(), "st_reparse_tag", 0)
    return folder.is_symlink() or tag == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)


def is_above(folder: Path, other: Path) -> bool:
    """Tell whether `other` is the folder itself or lies in it."""
    return folder.resolve() in (other.resolve(), *other.resolve().parents)


def strangers(folder: Path) -> list[str]:
    """Return the names of what lies in a run's folder and was not written by Rushlight."""
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if name not in OURS and not name.endswith(files.TEMPORARY)]


def delete_run(folder: Path) -> Deletion:
    """Delete a run that `find_run_to_delete` gave, and take it out of the index.

    It is renamed first: a run is in the list whole or not at all, and a killed deletion is finished by who comes next. Raises RunError when a process has begun to use it,
    StorageError when the disk refuses; it is then still there, whole.
    """
    aside = name_when_deleted(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock_run(folder))
        if os.name == "nt":
            stack.close()  # Windows renames no folder in which a file is open
        with files.explained(folder):
            files.disk.rename(folder, aside)
            files.disk.sync_folder(folder.parent)
    size = size_of(aside)
    files.disk.delete_tree(aside)
    if (folder.parent / INDEX).is_file():
        list_runs(folder.parent)
    return Deletion(folder, size - size_of(aside), aside if aside.exists() else None)
