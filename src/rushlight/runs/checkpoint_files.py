"""What a checkpoint's folder is made of, and whether every byte of it is as it was written. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rushlight.errors import StorageError

CHECKPOINTS = "checkpoints"  # the folder in a run's
MID_EPOCH = "-mid-epoch"  # what the name of a state inside an epoch ends in
STATE, TENSORS, SUMS = "state.json", "state.safetensors", "SHA256SUMS"
FORMAT = 3  # of the checkpoints that this version of Rushlight writes and reads
PIECE = 1 << 18  # bytes read at a time: memory may be scarce when a checkpoint is written

Watch = Callable[[int], None]  # told of the bytes that were just checked


# ── finding them ─────────────────────────────────────────────────────────────────────────────────────────────


def list_checkpoints(run: Path) -> list[Path]:
    """Return the folders of a run's published checkpoints, oldest first; none where there is no folder for them.

    Raises StorageError where there is one that cannot be looked into: to take that for none would begin the run anew.
    """
    try:
        found = list((run / CHECKPOINTS).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError("disk-error", path=run / CHECKPOINTS, reason=error.strerror or error) from error
    return sorted((path for path in found if path.name.removesuffix(MID_EPOCH).isdecimal()), key=age)


def age(folder: Path) -> tuple[int, bool]:
    """Return what orders checkpoints: the steps done, then whether the epoch is tested and closed."""
    return int(folder.name.removesuffix(MID_EPOCH)), not folder.name.endswith(MID_EPOCH)


# ── checking them ────────────────────────────────────────────────────────────────────────────────────────────


def unwatched(count: int) -> None:
    """Take no notice of the bytes that were just checked."""


def checksums(folder: Path, watch: Watch = unwatched) -> bytes:
    """Return the content of a checkpoint's SHA256SUMS, as `sha256sum -c` reads it. Raises OSError."""
    return b"".join(sum_line(folder, name, watch) for name in (STATE, TENSORS))


def sum_line(folder: Path, name: str, watch: Watch = unwatched) -> bytes:
    """Return the line of SHA256SUMS for one file. Raises OSError."""
    return f"{sha256(folder / name, watch)}  {name}\n".encode()


def sha256(path: Path, watch: Watch = unwatched) -> str:
    """Return the SHA-256 of a file of any size, as hexadecimal digits; `watch` is told of each piece. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            watch(len(piece))
    return digest.hexdigest()


def damage_of(folder: Path, watch: Watch = unwatched) -> str | None:
    """Return what is wrong with a checkpoint, or None when every byte of it is as it was written."""
    try:
        recorded = (folder / SUMS).read_bytes()
        found = checksums(folder, watch)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    if recorded == found:
        return None
    for name, line in zip((STATE, TENSORS), found.splitlines(), strict=True):
        if line not in recorded.splitlines():
            return f"the checksum of {name} is not the recorded one"
    return f"{SUMS} is not as it was written"


def newer_format(folder: Path) -> int | None:
    """Return the format of a checkpoint that a newer Rushlight wrote, None for any other.

    Its state.json must be as recorded: a flipped bit makes nothing newer. What else lies there is for that Rushlight to
    check.
    """
    found = read_state(folder).get("format", FORMAT)
    if found <= FORMAT:
        return None
    try:
        is_as_recorded = sum_line(folder, STATE).rstrip() in (folder / SUMS).read_bytes().splitlines()
    except OSError:
        return None
    return int(found) if is_as_recorded else None


def read_state(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint's state.json says, unchecked; {} where that cannot be read or names no format."""
    try:
        content = json.loads((folder / STATE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    content = content.get("content", content) if isinstance(content, dict) else {}  # format 2 was wrapped in another
    return content if isinstance(content, dict) and isinstance(content.get("format"), int) else {}
