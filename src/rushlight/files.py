"""The only place that writes to disk.

A file is written beside its final name, synced, renamed over it, and its folder is synced: a reader sees the
old content or the new, never a part, even after a power cut. Whatever the operating system refuses becomes a
`StorageError` that names the path.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from rushlight.errors import StorageError

TEMPORARY = ".part"  # what an unpublished file or folder ends in; safe to delete when nothing runs


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Replace the file at `path` by `content` in UTF-8, whole or not at all."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: object) -> None:
    """Replace the file at `path` by strict, indented JSON; NaN and infinity are refused with ValueError."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` when the block ends without an error."""
    temporary = temporary_beside(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that takes the place of `path` when the block ends without an error.

    A folder that is there already is replaced in two renames: after an error it is back, after a power cut between
    the two it lies beside as a temporary one. What must survive that too gets a name of its own.
    """
    temporary = temporary_beside(path)
    with explained(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            sync_folder(temporary)
            if path.exists():  # a folder cannot be renamed over another: move the old one aside first
                aside = temporary_beside(path)
                os.replace(path, aside)
                try:
                    os.replace(temporary, path)
                except BaseException:
                    os.replace(aside, path)
                    raise
                shutil.rmtree(aside, ignore_errors=True)
            else:
                os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(path.parent)


def temporary_beside(path: Path) -> Path:
    """Return a name beside `path` that nobody else uses and that says what it is: unpublished."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")


def delete_folder(path: Path) -> bool:
    """Delete the folder with all in it; return False where the operating system refuses, and it stays whole.

    It is renamed first, so that no reader ever sees a part of it; what then cannot be deleted is left to `sweep`.
    """
    aside = temporary_beside(path)
    try:
        os.replace(path, aside)
    except OSError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def sweep(folder: Path) -> None:
    """Delete what a killed process left unpublished in the folder; what cannot be deleted stays.

    Only for who alone writes there: another process's file in the making looks the same.
    """
    for path in folder.glob(f"*{TEMPORARY}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def make_folder(path: Path) -> None:
    """Create the folder and its parents; an existing one is fine."""
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent)


def create_folder(path: Path) -> bool:
    """Create the folder, and its parents where needed; return False if something is there already."""
    make_folder(path.parent)
    with explained(path):
        try:
            path.mkdir()  # the one call that makes a folder or fails: two processes never get the same one
        except FileExistsError:
            return False
        sync_folder(path.parent)
    return True


def append_bytes(path: Path, content: bytes) -> None:
    """Append to the file at `path`, creating it if needed. Not synced: use `sync_file` at a boundary."""
    with explained(path), path.open("ab") as file:
        file.write(content)


def truncate_file(path: Path, length: int) -> None:
    """Cut the file at `path` back to `length` bytes, and wait until that is on the disk."""
    with explained(path), path.open("rb+") as file:
        file.truncate(length)
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Wait until the file's content is on the disk."""
    with explained(path), path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the folder's entries are on the disk. Windows syncs them by itself and offers no call."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a StorageError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError("disk-full", path=path) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError("no-permission", path=path) from error
        raise StorageError("disk-error", path=path, reason=error.strerror or error) from error


def without_nan(value: Any) -> Any:
    """Return JSON-ready values with None for every NaN and infinity, which strict JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(part) for part in value]
    return value
