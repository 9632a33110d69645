"""The files of a checkpoint and their checksums. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.errors import StorageError
from rushlight.kinds import Kind, is_count
from rushlight.texts import Note

CHECKPOINTS = "checkpoints"  # the folder in a run's
MID_EPOCH = "-mid-epoch"  # the name of a state inside an epoch ends in this
STATE, TENSORS, SUMS = "state.json", "state.safetensors", "SHA256SUMS"
FORMAT = 4  # the newest that this version of Rushlight reads: that of a model that was divided among processes
PLAIN_FORMAT = 3  # of all others
SHARD = re.compile(r"shard-\d{5}-of-\d{5}\.safetensors")
STATE_KIND: Kind = {"format": is_count, "history_bytes?": is_count, "losses_bytes?": is_count}
MOST_OF_SUMS = 1 << 20  # bytes

Watch = Callable[[int], None]  # called with the number of bytes just checked


def list_checkpoints(run: Path) -> list[Path]:
    """Return the folders of a run's published checkpoints, oldest first.

    Raises StorageError where that folder cannot be read: to take that for none would begin the run anew.
    """
    try:
        found = list((run / CHECKPOINTS).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError("disk-error", path=run / CHECKPOINTS, reason=error.strerror or error) from error
    return sorted((path for path in found if path.name.removesuffix(MID_EPOCH).isdecimal()), key=age)


def age(folder: Path) -> tuple[int, bool]:
    """Return what orders checkpoints: the steps done, then whether the epoch is closed."""
    return int(folder.name.removesuffix(MID_EPOCH)), not folder.name.endswith(MID_EPOCH)


def checksums(folder: Path) -> bytes:
    """Return the content of a checkpoint's SHA256SUMS, for `sha256sum -c`. Raises OSError."""
    return b"".join(f"{files.sha256_of(folder / name)}  {name}\n".encode() for name in summed(folder))


def summed(folder: Path, recorded: bytes = b"") -> list[str]:
    """Return the names of a checkpoint's files that have checksums: those that are there, and that are `recorded`."""
    known = {path.name for path in folder.iterdir()}
    known |= {line.split()[-1].decode("ascii", "replace") for line in recorded.splitlines() if line.split()}
    return [STATE, TENSORS, *sorted(name for name in known if SHARD.fullmatch(name))]


def shard_file(rank: int, processes: int) -> str:
    """Return the name of the file with one process's rows."""
    return f"shard-{rank + 1:05d}-of-{processes:05d}.safetensors"


def damage_of(folder: Path, watch: Watch | None = None) -> str | None:
    """Return what is damaged in a checkpoint; None when every byte is as it was written."""
    try:
        recorded = files.read_bytes(folder / SUMS, MOST_OF_SUMS)
        names = summed(folder, recorded)
        found = b"".join(f"{files.sha256_of(folder / name, watch)}  {name}\n".encode() for name in names)
    except FileNotFoundError as error:
        return Note("runs.file-missing", name=Path(error.filename).name)
    except OSError as error:
        return Note("runs.file-unreadable", name=error.filename, reason=error.strerror)
    if recorded == found:
        return None
    for name, line in zip(names, found.splitlines(), strict=True):
        if line not in recorded.splitlines():
            return Note("runs.checksum-differs", name=name)
    return Note("runs.sums-changed", name=SUMS)


def newer_format(folder: Path) -> int | None:
    """Return the format of a checkpoint that a newer Rushlight wrote, None for any other.

    Its state.json must be as recorded, since a flipped bit makes nothing newer; its other files are for the newer
    Rushlight to check.
    """
    found: int = read_state(folder).get("format", FORMAT)
    if found <= FORMAT:
        return None
    try:
        line = f"{files.sha256_of(folder / STATE)}  {STATE}".encode()
        is_as_recorded = line in files.read_bytes(folder / SUMS, MOST_OF_SUMS).splitlines()
    except OSError:
        return None
    return found if is_as_recorded else None


def read_state(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's state.json, its bytes unchecked; {} where it cannot be read or lacks an entry of STATE_KIND."""
    return files.readable_json(folder / STATE, STATE_KIND) or {}
