"""Run folders: making one, finding one. A run's folder is the truth about the run."""

from __future__ import annotations

import contextlib
import re
import secrets
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from rushlight import files
from rushlight.errors import RunError, suggest
from rushlight.formats import format_names
from rushlight.kinds import is_time, wrong_entry
from rushlight.runs.history import HISTORY
from rushlight.runs.lock import HOLDER, LOCK, lock_run
from rushlight.runs.read import ENVIRONMENT, RECIPE
from rushlight.texts import Note

LATEST = "latest"
SLUG_LENGTH = 40
MOST_OF_A_LINE = 1 << 16  # bytes of the first line of a history
NAME_BYTES = 200  # most file systems take 255; the rest is for the endings of temporary files
BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
FILE_ENDINGS = (".py", ".csv", ".parquet", ".npy", ".npz", ".png", ".jpg", ".pth", ".safetensors", ".pt2", ".html")
FORBIDDEN = '<>:"/\\|?*'  # characters that one of Windows, macOS and Linux refuses in a file name
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


# ── making ────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def new_run(runs: Path, model: str, data: str, name: str | None = None) -> Iterator[Path]:
    """Make a run's folder as `create_run` does, and yield it, locked for the block."""
    folder = create_run(runs, model, data, name)
    with lock_run(folder):
        if not is_unbegun(folder):  # another process took this name in the meantime
            raise RunError("run-exists", name=folder.name, runs=runs)
        yield folder


def create_run(runs: Path, model: str, data: str, name: str | None = None, now: datetime | None = None) -> Path:
    """Make a new run folder, `runs/20261123-0331-mlp-digits-k7` (local time) or `runs/NAME`.

    A folder of that name in which no run has begun is used again. Raises RunError for a name that exists or that some
    system refuses, StorageError when the disk refuses.
    """
    if name is not None:
        check_name(name)
        if not files.create_folder(runs / name) and not is_unbegun(runs / name):
            raise RunError("run-exists", name=name, runs=runs)
        return runs / name
    time = (now or datetime.now()).strftime("%Y%m%d-%H%M")
    stem = "-".join(word for word in (time, slug(model), slug(data)) if word)
    while True:  # 1,296 endings a minute; the operating system decides which process gets which folder
        folder = runs / f"{stem}-{secrets.choice(BASE36)}{secrets.choice(BASE36)}"
        if files.create_folder(folder):
            return folder


def is_unbegun(folder: Path) -> bool:
    """Tell whether a folder has only the files of a process that ended before the recipe."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    with files.explained(folder):
        names = [path.name for path in folder.iterdir()]
    return all(name in (LOCK, HOLDER, ENVIRONMENT) or files.TEMPORARY_NAME.fullmatch(name) for name in names)


def check_name(name: str) -> None:
    """Raise RunError if `name` cannot name a folder on every system, or means something else."""
    bad = sorted({character for character in name if character in FORBIDDEN or not character.isprintable()})
    if not name.strip():
        reason = Note("runs.name.empty")
    elif bad:
        reason = Note("runs.name.characters", characters=" ".join(map(ascii, bad)))
    elif name.startswith((" ", ".")) or name.endswith((" ", ".")):
        reason = Note("runs.name.edges")
    elif name.split(".")[0].lower() in RESERVED:
        reason = Note("runs.name.device")
    elif name.lower() == LATEST or name.endswith(files.TEMPORARY):
        reason = Note("runs.name.reserved")
    elif len(name.encode()) > NAME_BYTES:
        reason = Note("runs.name.too-long", bytes=len(name.encode()), most=NAME_BYTES)
    else:
        return
    raise RunError("run-name-bad", name=name, reason=reason)


def slug(text: str) -> str:
    """Return a model's or data's name for a folder name: 'nets/my net.py:Net' becomes 'net'."""
    last = re.split(r"[/\\]", text.rstrip("/\\"))[-1].split(":")[-1]
    letters = unicodedata.normalize("NFC", last).lower()
    words = re.sub(r"[\W_]+", "-", letters).strip("-")
    return words[:SLUG_LENGTH].rstrip("-")


# ── finding ───────────────────────────────────────────────────────────────────────────────────────────────


def find_run(runs: Path, run: str) -> Path:
    """Return the folder of a run given by path, name, unique fragment of a name, or "latest".

    Raises RunError if there is none, or more than one; "latest" is the one started last.
    """
    folders = run_folders(runs)
    if run == LATEST and folders:
        return max(folders, key=lambda folder: (started_at(folder), folder.name))
    if run in {folder.name for folder in folders}:
        return runs / run
    path = Path(run)
    if run.strip() and path.is_dir():
        path = path.resolve() if path.name in ("", "..") else path
        if not is_run(path):
            raise RunError("not-a-run", path=path)
        return path
    if not folders and not is_file_name(path):
        raise RunError("no-runs", runs=runs)
    matches = [folder for folder in folders if run and run in folder.name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = format_names([folder.name for folder in matches])
        raise RunError("run-ambiguous", run=run, runs=runs, count=len(matches), names=names)
    if is_file_name(path):
        raise RunError("run-is-file", run=run)
    raise RunError("run-unknown", run=run, runs=runs, suggestion=suggest(run, [f.name for f in folders]))


def is_file_name(path: Path) -> bool:
    """Tell whether a path is a file, or ends as one that a command takes beside a run."""
    return path.is_file() or path.suffix.lower() in FILE_ENDINGS


def run_folders(runs: Path) -> list[Path]:
    """Return the run folders in `runs`, in name order; [] if it does not exist. UsageError for an address."""
    try:
        return sorted(folder for folder in runs.iterdir() if is_run(folder))
    except (FileNotFoundError, NotADirectoryError):
        files.check_local(runs)
        return []


def is_run(folder: Path) -> bool:
    """Tell whether the folder holds a run, whole or damaged."""
    if folder.name.startswith(".") or folder.name.endswith(files.TEMPORARY):
        return False
    try:
        return (folder / RECIPE).is_file() or (folder / HISTORY).is_file()
    except PermissionError:  # a folder that this account may not read has nothing to show
        return False


def started_at(folder: Path) -> float:
    """Return when the run started (Unix seconds): by its history, else by its files' age."""
    with contextlib.suppress(OSError, ValueError):
        with files.open_file(folder / HISTORY) as file:
            first = files.parse_json(file.readline(MOST_OF_A_LINE))
        if wrong_entry(first, {"time": is_time}) is None:
            return float(first["time"])
    for path in (folder / RECIPE, folder):  # the history is damaged: the run is still found
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def typed(path: Path) -> str:
    """Return the path that a command takes for a run, unquoted; in `runs/`, its name is enough."""
    return path.name if path.parent == Path("runs") else str(path)
