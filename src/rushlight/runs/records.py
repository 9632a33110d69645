"""The parts of a run that are read line by line or entry by entry, each checked: records, history, losses, the last test.

Most carry no checksum: they are whole when they can be read and agree with each other and with the newest checkpoint.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushlight.runs.checkpoint_files import Watch
from rushlight.runs.history import LOSS_BYTES
from rushlight.runs.parts import DAMAGED, MISSING, TORN, WHOLE, Part, check_json, lacks, none_yet, size_of

PREDICTIONS = "predictions.npz"
RECIPE_NEEDS = {"model": dict, "data": dict, "loss": dict, "optimizer": dict, "schedule": dict, "epochs": int}
ENVIRONMENT_NEEDS = {"rushlight": str, "torch": str, "device": str, "data_notes": list}
LINE_NEEDS: dict[str, dict[str, Any]] = {
    "steps": {"epoch": int, "step": int},
    "epoch": {"epoch": int, "step": int, "seconds": (int, float)},
    "event": {"event": str},
}


@dataclass(frozen=True)
class Lines:
    """What the lines of a file say: the objects before the first bad one, what is wrong with that, and where it is."""

    lines: list[dict[str, Any]]
    problem: str = ""
    problem_at: int = 0  # bytes from the start of the file
    bytes: int = 0
    torn_bytes: int = 0  # after the last line end

    @property
    def whole_bytes(self) -> int:
        """How many bytes the lines have up to the first that is bad or torn."""
        return self.problem_at if self.problem else self.bytes - self.torn_bytes

    @property
    def step(self) -> int:
        """The last optimizer step that the history tells of."""
        return max((line["step"] for line in self.lines if line.get("kind") in ("steps", "epoch")), default=0)

    @property
    def is_straight(self) -> bool:
        """Whether no step was skipped or taken back, so that there are as many losses as steps."""
        return not any(line.get("event") in ("skipped", "rolled-back") for line in self.lines)


def check_report(path: Path) -> Part | None:
    """Check report.json; a run without tests has none."""
    return check_json(path, {"n": int})[1] if path.exists() else None


def check_predictions(path: Path, watch: Watch) -> Part | None:
    """Check the archive of the test's predictions by its own checksums (CRC-32)."""
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        return Part(path.name, DAMAGED, f"cannot be read: {error}", size_of(path))
    watch(size_of(path))
    problem = f"the checksum of {bad} in it is not the recorded one" if bad else ""
    return Part(path.name, DAMAGED if bad else WHOLE, problem, size_of(path))


# ── history, losses, sessions ────────────────────────────────────────────────────────────────────────────────


def read_lines(path: Path, needs: Mapping[str, Mapping[str, Any]]) -> Lines:
    """Read a file of JSON lines up to the first bad one; the lines of each "kind" have what `needs` says."""
    lines: list[dict[str, Any]] = []
    position = 0
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return Lines(lines, "", 0, position + len(line), len(line))
                problem = problem_of(line, needs)
                if problem:
                    return Lines(lines, f"line {len(lines) + 1}: {problem}", position, size_of(path))
                lines.append(json.loads(line))
                position += len(line)
    except FileNotFoundError:
        return Lines([])
    except OSError as error:
        return Lines(lines, f"cannot be read: {error.strerror or error}", position, position)
    return Lines(lines, "", 0, position)


def problem_of(line: bytes, needs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what is wrong with a line, '' when nothing is."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return f"{line[:20].decode('utf-8', 'replace')!r} is no JSON object"
    if problem := lacks(content, {"kind": str} if needs else {"event": str}):
        return problem
    return lacks(content, needs.get(str(content.get("kind")), {}))


def check_history(path: Path, found: Lines, needed: int, is_finished: bool) -> Part:
    """Check the lines of history.jsonl against each other, and their length against what the newest checkpoint knows."""
    size = size_of(path)
    if not path.exists():
        return Part(path.name, MISSING) if needed or is_finished else none_yet(path.name, False)
    if found.problem:
        return Part(path.name, DAMAGED, found.problem, size)
    if found.whole_bytes < needed:
        return Part(path.name, DAMAGED, too_short(found.whole_bytes, needed), size)
    if needed and byte_at(path, needed - 1) != b"\n":
        return Part(path.name, DAMAGED, f"no line ends at byte {needed:,}, where the newest checkpoint was made", size)
    if found.torn_bytes:
        return Part(path.name, TORN, "its last line is torn, as a crash leaves it; the next start cuts that off", size)
    return Part(path.name, WHOLE, "", size)


def check_losses(path: Path, history: Lines, needed: int, is_finished: bool) -> Part:
    """Check how many losses there are against the history and the newest checkpoint."""
    size = size_of(path)
    count, torn_bytes = divmod(size, LOSS_BYTES)
    step = history.step if history.is_straight and not history.problem else count
    if not path.exists():
        return Part(path.name, MISSING) if needed or (is_finished and step) else none_yet(path.name, False)
    if count * LOSS_BYTES < needed:
        return Part(path.name, DAMAGED, too_short(size, needed), size)
    if is_finished and count != step:
        return Part(path.name, DAMAGED, f"has {count:,} losses, and the history tells of {step:,} steps", size)
    if torn_bytes or count < step:
        return Part(path.name, TORN, "its end is torn, as a crash leaves it; the next start repairs that", size)
    return Part(path.name, WHOLE, "", size)


def too_short(found: int, needed: int) -> str:
    """Return the words for a file that has lost what a checkpoint builds on."""
    return f"has {found:,} bytes, and had {needed:,} when the newest checkpoint was made"


def check_sessions(path: Path) -> Part | None:
    """Check sessions.jsonl, which tells who worked on the run."""
    if not path.exists():
        return None
    found = read_lines(path, {})
    if found.problem:
        return Part(path.name, DAMAGED, found.problem, found.bytes)
    if found.torn_bytes:
        return Part(path.name, TORN, "its last line is torn; the next start cuts that off", found.bytes)
    return Part(path.name, WHOLE, "", found.bytes)


def byte_at(path: Path, position: int) -> bytes:
    """Return one byte of a file."""
    with path.open("rb") as file:
        file.seek(position)
        return file.read(1)
