"""What happened in a run, line by line: `history.jsonl` and `losses.f32`, appended while it trains.

The lines, each one JSON object (times in Unix seconds, `step` counts optimizer steps since the run's start):

    {"kind": "start", "time", "run", "epochs", "steps_per_epoch": 938 or null}
    {"kind": "steps", "epoch", "step", "loss": mean since the last one, "learning_rate", "samples", "time"}
    {"kind": "epoch", "epoch", "step", "train_loss", "test": {"loss", "accuracy", "n", …} or null,
     "validation": the same, where there is a validation split: then "test" is null, "learning_rate", "seconds", "time"}
    {"kind": "event", "event": "finished" | "skipped" | "rolled-back" | "micro-batch" | "way", "step", "message", "time"}
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

HISTORY = "history.jsonl"
LOSSES = "losses.f32"
FLUSH_SECONDS = 1.0
GRACE_SECONDS = 300.0  # how long training goes on while the history cannot be written
LOSS_BYTES = 4  # float32
TAIL = 65536  # how far back the end of the last whole line is looked for at a time


class Appended:
    """One file that only grows. What is added waits in memory for `flush`, and stays if the disk refuses."""

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        self.written = length  # bytes known to be in the file
        self.pending = bytearray()
        self.is_torn = self.size > length  # a write failed or was killed, and left a part of itself behind

    @property
    def size(self) -> int:
        """How many bytes the file has, torn ones too."""
        return self.path.stat().st_size if self.path.exists() else 0

    def flush(self) -> None:
        """Append what is pending. Raises StorageError; the next flush then tries the same bytes again."""
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
        """Cut the file back to `length` bytes, and forget what is pending."""
        self.check_length(length)
        self.pending.clear()
        if self.size > length:
            files.truncate_file(self.path, length)
        self.written, self.is_torn = length, False


class History:
    """The two growing files of the run in `folder`. What a crash has torn at their ends is cut off by the first write.

    Lines and losses are buffered; they reach the disk about once a second, at once for a start or an event,
    and on `flush` and `close`. While the disk refuses, they are kept in memory and in the checkpoints, for
    `GRACE_SECONDS`. Use as a context manager, or call `close`.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] = lambda text: None) -> None:
        self.lines = Appended(folder / HISTORY, whole_lines_length(folder / HISTORY))
        self.losses = Appended(folder / LOSSES, whole_losses_length(folder / LOSSES))
        self.tell = tell  # takes a sentence for the user
        self.flushed_at = time.monotonic()
        self.refused_at: float | None = None  # since when the disk refuses
        self.watchers: list[Callable[[Mapping[str, Any]], None]] = []  # told of every line

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line. JSON has no NaN or infinity: they become null (`losses.f32` has the exact value)."""
        text = json.dumps(files.without_nan(line), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self.lines.pending += text.encode("utf-8") + b"\n"
        for watch in self.watchers:
            watch(line)
        if line["kind"] in ("start", "event") or time.monotonic() - self.flushed_at >= FLUSH_SECONDS:
            self.try_flush()

    def write_losses(self, values: bytes) -> None:
        """Add the losses of some steps: little-endian float32, as `array('f')` or NumPy's `<f4` have them."""
        self.losses.pending += values

    def flush(self) -> None:
        """Hand everything to the operating system. Raises StorageError; a later flush then tries again."""
        self.flushed_at = time.monotonic()  # at once: a disk that refuses must not be asked at every step
        self.losses.flush()
        self.lines.flush()

    def try_flush(self) -> None:
        """Flush; while the disk refuses, say so once and go on. Raises StorageError when the time of grace is over."""
        try:
            self.flush()
        except StorageError as error:
            now = time.monotonic()
            if self.refused_at is None:
                self.refused_at = now
                self.tell(
                    f"{error.problem} Training goes on: the history is kept in memory and in the checkpoints, "
                    f"for {GRACE_SECONDS / 60:g} minutes at the most."
                )
            elif now - self.refused_at > GRACE_SECONDS:
                raise
        else:
            if self.refused_at is not None:
                self.tell(f"{self.lines.path.name} can be written again; nothing of it is lost.")
            self.refused_at = None

    def check_lengths(self, history_length: int, losses_length: int) -> None:
        """Raise RunError if one of the files is shorter than it was when a checkpoint was made."""
        self.lines.check_length(history_length)
        self.losses.check_length(losses_length)

    def restore(self, history_length: int, losses_length: int, history_tail: bytes, losses_tail: bytes) -> None:
        """Cut both files back to where a checkpoint was made, and add what they did not have on the disk then.

        Raises RunError if one is shorter than that.
        """
        self.check_lengths(history_length, losses_length)  # both, before either is cut
        for file, length, tail in (
            (self.lines, history_length, history_tail),
            (self.losses, losses_length, losses_tail),
        ):
            file.truncate(length)
            file.pending += tail
        self.flush()

    def close(self) -> None:
        """Flush; nothing is kept open between writes."""
        self.try_flush()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's history, oldest first; a torn last line (a crash in mid-write) is left out.

    Raises RunError if there is no history, or if a line that is not the torn last one is broken.
    """
    path = folder / HISTORY
    *whole, _torn = read_file(path).split(b"\n")
    return [parse_line(path, number, line) for number, line in enumerate(whole, start=1)]


def parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """Return one line's object; raises RunError naming the line."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):  # ValueError covers bad JSON and bad UTF-8
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("kind"), str):
        found = repr(line[:40].decode("utf-8", "replace")) if line.strip() else "an empty line"
        raise RunError("history-line-damaged", path=path, line=number, found=found)
    return content


def read_losses(folder: Path) -> array[float]:
    """Return the loss of every step so far, `array('f')`; empty if no step was recorded yet."""
    path = folder / LOSSES
    content = read_file(path) if path.exists() else b""
    losses = array("f", content[: len(content) // LOSS_BYTES * LOSS_BYTES])
    if sys.byteorder == "big":
        losses.byteswap()
    return losses


def read_file(path: Path) -> bytes:
    """Return a run file's bytes; raises RunError naming it if it is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RunError("run-file-missing", path=path) from None
    except OSError as error:
        raise RunError("run-file-damaged", path=path, reason=error.strerror or error) from error


def whole_lines_length(path: Path) -> int:
    """Return the length in bytes of the file up to its last line end; 0 if it does not exist."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        end = file.seek(0, 2)
        while end > 0:
            start = max(0, end - TAIL)
            file.seek(start)
            position = file.read(end - start).rfind(b"\n")
            if position >= 0:
                return start + position + 1
            end = start
    return 0


def whole_losses_length(path: Path) -> int:
    """Return the length in bytes of the whole float32 numbers in the file; 0 if it does not exist."""
    return path.stat().st_size // LOSS_BYTES * LOSS_BYTES if path.exists() else 0
