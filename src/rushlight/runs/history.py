"""The events of a run, line by line: `history.jsonl` and `losses.f32`, appended in training.

The lines, each one JSON object (times in Unix seconds, `step` counts optimizer steps since the run's start):

    {"kind": "start", "time", "run", "epochs", "steps_per_epoch": 938 or null}
    {"kind": "steps", "epoch", "step", "loss": mean since the last one, "learning_rate", "samples", "time"}
    {"kind": "epoch", "epoch", "step", "train_loss", "test": {"loss", "accuracy", "n", …} or null,
     "validation": the same, where there is a validation split: then "test" is null, "learning_rate", "seconds", "time"}
    {"kind": "event", "event": "finished" | "pruned" | "skipped" | "rolled-back" | "micro-batch" | "way", "step", "message", "time"}
    of these, "finished" has "state_sha256", and "test" where the epochs have "validation"

`losses.f32` has the loss of every step, little-endian float32, and nothing else. Both are a pure function of the recipe,
less "time" and "seconds": a run that was killed and resumed has the same. Who ran it when is in `sessions.jsonl`.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.errors import RunError, StorageError
from rushlight.kinds import Kind, checker, is_count, is_finite, is_text, is_time, maybe
from rushlight.runs.read import FIGURES, read_file, read_lines
from rushlight.texts import Note

HISTORY = "history.jsonl"
LOSSES = "losses.f32"
FLUSH_SECONDS = 1.0
GRACE_SECONDS = 300.0  # how long training goes on while the history cannot be written
LOSS_BYTES = 4  # float32
PLACED: dict[str, Kind] = {"step?": maybe(is_count), "time?": is_time}
LINES: dict[str, Kind] = {  # of each kind of line, the entries that are read
    "start": PLACED,
    "steps": {**PLACED, "epoch?": is_count, "loss?": maybe(is_finite), "learning_rate?": maybe(is_finite)},
    "epoch": {
        **PLACED, "epoch": is_count, "step": is_count, "train_loss": maybe(is_finite), "seconds": is_time, "test?": maybe(FIGURES),
        "validation?": maybe(FIGURES), "learning_rate?": maybe(is_finite),
    },
    "event": {**PLACED, "event": is_text, "message?": maybe(is_text), "test?": maybe(FIGURES)},
}  # fmt: skip
CHECKERS = {name: checker(kind) for name, kind in LINES.items()}


class Appended:
    """One file that only grows. Bytes wait in `pending` for `flush`, or for a refusing disk."""

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        self.written = length  # bytes known to be in the file
        self.pending = bytearray()
        self.is_torn = self.size > length  # a write failed or was killed half way

    @property
    def size(self) -> int:
        """The bytes in the file, torn ones included."""
        return self.path.stat().st_size if self.path.exists() else 0

    def flush(self) -> None:
        """Append the pending bytes. Raises StorageError; the next flush then tries them again."""
        if not self.pending:
            return
        if self.is_torn and self.path.exists():
            files.truncate_file(self.path, self.written)
        self.is_torn = True
        files.append_bytes(self.path, bytes(self.pending))
        self.is_torn = False
        self.written += len(self.pending)
        self.pending.clear()

    def check_length(self, length: int) -> None:
        """Raise RunError when the file has fewer than `length` bytes, torn ones not counted."""
        found = min(self.size, self.written)
        if found < length:
            raise RunError("history-too-short", path=self.path, expected=length, found=found)

    def truncate(self, length: int) -> None:
        """Cut the file back to `length` bytes, and forget the pending ones."""
        self.pending.clear()
        if self.size > length:
            files.truncate_file(self.path, length)
        self.written, self.is_torn = length, False


class History:
    """The two growing files of a run. The first write cuts off an end that a crash has torn.

    Lines and losses are buffered; they reach the disk about once a second, at once for a start or an event, and on
    `flush`. While the disk refuses, they are kept in memory and in the checkpoints, for `GRACE_SECONDS`.
    Use as a context manager, which flushes at its end.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] = lambda text: None) -> None:
        self.lines = Appended(folder / HISTORY, whole_lines_length(folder / HISTORY))
        losses = folder / LOSSES
        self.losses = Appended(losses, losses.stat().st_size // LOSS_BYTES * LOSS_BYTES if losses.exists() else 0)
        self.tell = tell  # shows the user a sentence
        self.flushed_at = time.monotonic()
        self.refused_at: float | None = None  # since when the disk refuses

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line. NaN and infinity become null in JSON (`losses.f32` has the exact value)."""
        self.lines.pending += json_line(line)
        if line["kind"] in ("start", "event") or time.monotonic() - self.flushed_at >= FLUSH_SECONDS:
            self.try_flush()

    def write_losses(self, values: bytes) -> None:
        """Add the losses of some steps, as little-endian float32 (NumPy's `<f4`)."""
        self.losses.pending += values

    def flush(self) -> None:
        """Append all to the files. Raises StorageError; a later flush then tries again."""
        self.flushed_at = time.monotonic()  # first: a disk that refuses must not be asked at every step
        self.losses.flush()
        self.lines.flush()

    def try_flush(self) -> None:
        """Flush; a disk that refuses is told once, and raises StorageError after `GRACE_SECONDS`."""
        try:
            self.flush()
        except StorageError as error:
            if error.key == "folder-gone":
                raise
            now = time.monotonic()
            if self.refused_at is None:
                self.refused_at = now
                self.tell(Note("runs.kept-in-memory", problem=error.record, minutes=GRACE_SECONDS / 60))
            elif now - self.refused_at > GRACE_SECONDS:
                raise
        else:
            if self.refused_at is not None:
                self.tell(Note("runs.written-again", name=self.lines.path.name))
            self.refused_at = None

    def check_lengths(self, history_length: int, losses_length: int) -> None:
        """Raise RunError if one of the files is shorter than it was when a checkpoint was made."""
        self.lines.check_length(history_length)
        self.losses.check_length(losses_length)

    def restore(self, history_length: int, losses_length: int, history_tail: bytes, losses_tail: bytes) -> None:
        """Cut both files back to a checkpoint's lengths, and add the bytes that were pending then.

        Raises RunError if one is shorter than that.
        """
        self.check_lengths(history_length, losses_length)  # both, before either is cut
        self.lines.truncate(history_length)
        self.losses.truncate(losses_length)
        self.lines.pending += history_tail
        self.losses.pending += losses_tail
        self.flush()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *exception: object) -> None:
        self.try_flush()  # nothing is kept open between writes


def read_history(folder: Path, with_steps: bool = True) -> list[dict[str, Any]]:
    """Return the lines of a run's history, oldest first, without a torn last line.

    Without steps, the lines of kind "steps" are left out, unless one is the last. Raises RunError if there is no
    history, or if a line that is not the torn last one is damaged.
    """
    return read_lines(folder / HISTORY, "kind", CHECKERS, None if with_steps else b'{"kind":"steps"')


def read_losses(folder: Path) -> array[float]:
    """Return the loss of every step so far, `array('f')`; empty if no step was recorded yet."""
    path = folder / LOSSES
    content = read_file(path) if path.exists() else b""
    losses = array("f", content[: len(content) // LOSS_BYTES * LOSS_BYTES])
    if sys.byteorder == "big":
        losses.byteswap()
    return losses


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append one line of JSON, and wait until it is on the disk; a line that a crash has torn is cut off first."""
    whole = whole_lines_length(path)
    if path.exists() and path.stat().st_size > whole:
        files.truncate_file(path, whole)
    files.append_bytes(path, json_line(line))
    files.sync_file(path)


def json_line(content: Mapping[str, Any]) -> bytes:
    """Return one line of strict JSON in UTF-8, with null for NaN and infinity."""
    text = json.dumps(files.without_nan(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace") + b"\n"  # as `files.write_json`


def whole_lines_length(path: Path) -> int:
    """Return the length in bytes of the file up to its last line end; 0 if it does not exist."""
    return read_file(path).rfind(b"\n") + 1 if path.exists() else 0
