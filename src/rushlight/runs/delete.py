"""Deleting a run: only a real run folder, only by its whole name, and all of it or nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.errors import RunError
from rushlight.runs.checkpoint_files import CHECKPOINTS
from rushlight.runs.folder import LATEST, find_run, run_folders, typed
from rushlight.runs.history import HISTORY, LOSSES
from rushlight.runs.lock import DELETED, HOLDER, LOCK, describe_holder, is_locked, move_run
from rushlight.runs.note import NOTE, STOP
from rushlight.runs.read import ENVIRONMENT, RECIPE, REPORT
from rushlight.runs.sessions import SESSIONS
from rushlight.runs.summary import summarize_any
from rushlight.runs.verify import BUNDLE, PREDICTIONS

OURS = {
    RECIPE, ENVIRONMENT, HISTORY, LOSSES, SESSIONS, CHECKPOINTS, REPORT, BUNDLE, LOCK, HOLDER, PREDICTIONS,
    "loss.png", "confusion.png", "tensorboard", "profile", "ways.json", "values.jsonl", "media",
    "samples.f16", "samples.json", "layers.jsonl", "machine.jsonl", NOTE, STOP,
}  # fmt: skip


def find_run_to_delete(runs: Path, run: str) -> Path:
    """Return the folder of a run given by its whole name or its path.

    Raises RunError when it is given by less, when it is a link, when other runs lie in it, when it does not look like a
    run, and when it is in use.
    """
    folder = find_run(runs, run)
    if run == LATEST or folder not in (runs / run, Path(run), Path(run).resolve()):
        raise RunError("delete-whole-name", run=run, name=typed(folder))
    is_junction = getattr(folder.lstat(), "st_reparse_tag", 0) == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)
    if folder.is_symlink() or is_junction:
        raise RunError("delete-link", path=folder, target=os.path.realpath(folder))
    if folder.resolve() in (Path.cwd().resolve(), *Path.cwd().resolve().parents):
        raise RunError("delete-from-inside", path=folder)
    if inside := run_folders(folder):
        raise RunError("delete-holds-runs", path=folder, name=inside[0].name)
    if len(OURS & {path.name for path in folder.iterdir()}) < 2:  # one such name may be anybody's
        raise RunError("delete-not-a-run", path=folder)
    if is_locked(folder):
        raise RunError("run-in-use", folder=folder, holder=describe_holder(folder))
    return folder


def strangers(folder: Path) -> list[str]:
    """Return the names of the files and folders in a run's folder that Rushlight did not write."""
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if name not in OURS and not name.endswith(files.TEMPORARY)]


def describe_deletion(folder: Path) -> dict[str, Any]:
    """Return what goes with a run: its summary's fields, "typed", "bytes", "strangers"."""
    summary = vars(summarize_any(folder))
    return {**summary, "typed": typed(folder), "bytes": files.bytes_on_disk(folder), "strangers": strangers(folder)}


def delete_run(folder: Path) -> tuple[int, Path | None]:
    """Delete a run; return the bytes freed, and the path of a rest that could not be deleted.

    It is renamed first: a run is in the list whole or not at all, and the next command finishes a killed deletion. Raises
    RunError when a process has begun to use it, StorageError when the disk refuses; it is then still there, whole.
    """
    aside = files.temporary_beside(folder.with_name(folder.name + DELETED))
    move_run(folder, aside)
    size = files.bytes_on_disk(aside)
    files.disk.delete_tree(aside)
    return size - files.bytes_on_disk(aside), aside if aside.exists() else None
