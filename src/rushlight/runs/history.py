"""What happened in a run, line by line: `history.jsonl` and `losses.f32`, appended while it trains.

The lines, each one JSON object (times in Unix seconds, `step` counts optimizer steps since the run's start):

    {"kind": "start", "time", "run", "epochs", "steps_per_epoch": 938 or null}
    {"kind": "steps", "epoch", "step", "loss": mean since the last one, "learning_rate", "samples", "time"}
    {"kind": "epoch", "epoch", "step", "train_loss", "test": {"loss", "accuracy", "n", …} or null,
     "learning_rate", "seconds", "time"}
    {"kind": "event", "event": "interrupted" | "resumed" | "finished" | "failed" | "notice" …, "step",
     "message", "time"}

`losses.f32` has the loss of every step, little-endian float32, and nothing else.
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
from rushlight.errors import RunError

HISTORY = "history.jsonl"
LOSSES = "losses.f32"
FLUSH_SECONDS = 1.0
LOSS_BYTES = 4  # float32
TAIL = 65536  # how far back the end of the last whole line is looked for at a time


class Appended:
    """One file that only grows. What is added waits in memory for `flush`, and stays if the disk refuses."""

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        self.written = length  # bytes known to be in the file
        self.pending = bytearray()
        self.is_torn = False  # a write failed, and may have left a part of itself behind

    @property
    def length(self) -> int:
        """The length in bytes that the file has once everything is flushed."""
        return self.written + len(self.pending)

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

    def check_length(self, length: int) -> int:
        """Return how many bytes the file has; RunError when these are fewer than `length`."""
        found = self.path.stat().st_size if self.path.exists() else 0
        if found < length:
            raise RunError("history-too-short", path=self.path, expected=length, found=found)
        return found

    def truncate(self, length: int) -> None:
        """Cut the file back to `length` bytes, and forget what is pending."""
        self.pending.clear()
        if self.check_length(length) > length:
            files.truncate_file(self.path, length)
        self.written, self.is_torn = length, False


class History:
    """The two growing files of the run in `folder`. Opening it cuts off what a crash has torn at their ends.

    Lines and losses are buffered; they reach the disk about once a second, at once for a start or an event,
    and on `flush` and `close`. Use as a context manager, or call `close`.
    """

    def __init__(self, folder: Path) -> None:
        self.lines = Appended(folder / HISTORY, whole_lines_length(folder / HISTORY))
        self.losses = Appended(folder / LOSSES, whole_losses_length(folder / LOSSES))
        for file in (self.lines, self.losses):
            if file.path.exists():
                file.truncate(file.written)
        self.flushed_at = time.monotonic()
        self.watchers: list[Callable[[Mapping[str, Any]], None]] = []  # told of every line

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line. JSON has no NaN or infinity: they become null (`losses.f32` has the exact value)."""
        text = json.dumps(files.without_nan(line), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self.lines.pending += text.encode("utf-8") + b"\n"
        for watch in self.watchers:
            watch(line)
        if line["kind"] in ("start", "event") or time.monotonic() - self.flushed_at >= FLUSH_SECONDS:
            self.flush()

    def write_losses(self, values: bytes) -> None:
        """Add the losses of some steps: little-endian float32, as `array('f')` or NumPy's `<f4` have them."""
        self.losses.pending += values

    def flush(self) -> None:
        """Hand everything to the operating system. Raises StorageError; a later flush then tries again."""
        self.flushed_at = time.monotonic()  # at once: a disk that refuses must not be asked at every step
        self.losses.flush()
        self.lines.flush()

    def sync(self) -> tuple[int, int]:
        """Flush, wait for the disk, and return both files' lengths in bytes: what a checkpoint remembers."""
        self.flush()
        for file in (self.lines, self.losses):
            if file.path.exists():
                files.sync_file(file.path)
        return self.lengths()

    def lengths(self) -> tuple[int, int]:
        """Return how many bytes history.jsonl and losses.f32 have, with what is still in memory."""
        return self.lines.length, self.losses.length

    def truncate(self, history_length: int, losses_length: int) -> None:
        """Cut both files back to where a checkpoint was made. Raises RunError if one is shorter than that."""
        for file, length in ((self.lines, history_length), (self.losses, losses_length)):
            file.check_length(length)  # both, before either is cut
        self.lines.truncate(history_length)
        self.losses.truncate(losses_length)

    def close(self) -> None:
        """Flush; nothing is kept open between writes."""
        self.flush()

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
