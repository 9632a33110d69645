"""The processes that worked on a run: `sessions.jsonl`, a line for each beginning and end.

`history.jsonl` ends the same whether or not training was ever interrupted; this file tells the interruptions. No line of
it is ever removed. Each line is one JSON object (time in Unix seconds):

    {"event": "started" | "resumed", "step", "time", "pid", "host", "differences": [...] of a resume that was not exact}
    {"event": "notice", "step", "time", "pid", "host", "message"}: a finding that depends on the machine
    {"event": "interrupted" | "failed" | "finished", "step", "time", "pid", "host", "message"}
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path
from typing import Any

from rushlight.errors import RunError, StorageError
from rushlight.kinds import Kind, checker, is_count, is_text, is_time, maybe
from rushlight.runs.history import append_line
from rushlight.runs.read import parse_line, read_file
from rushlight.texts import Note

SESSIONS = "sessions.jsonl"
ENDS = ("interrupted", "failed", "finished")
LINE: Kind = {
    "step?": maybe(is_count), "time?": maybe(is_time), "pid?": maybe(is_count), "host?": maybe(is_text),
    "message?": maybe(is_text), "differences?": maybe([is_text]),
}  # fmt: skip
LINES = dict.fromkeys(("started", "resumed", "notice", *ENDS), checker(LINE))


def write_session(folder: Path, event: str, step: int, **more: Any) -> None:
    """Add a line, and wait until it is on the disk."""
    line = {"event": event, "step": step, "time": time.time(), "pid": os.getpid(), "host": platform.node(), **more}
    append_line(folder / SESSIONS, line)


def write_notice(folder: Path, step: int, message: str) -> None:
    """Add a notice; a disk that refuses it is no error here: the next checkpoint meets it too."""
    with contextlib.suppress(StorageError):
        write_session(folder, "notice", step, message=message)


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """Return the lines that can be read, oldest first; training needs none of the others."""
    lines: list[dict[str, Any]] = []
    if not (folder / SESSIONS).exists():
        return lines
    with contextlib.suppress(RunError):
        for number, line in enumerate(read_file(folder / SESSIONS).split(b"\n")[:-1], start=1):
            with contextlib.suppress(RunError):
                lines.append(parse_line(folder / SESSIONS, number, line, "event", LINES))
    return lines


def list_sessions(folder: Path, is_running: bool = False) -> list[dict[str, Any]]:
    """Return one entry for each process that worked on the run, oldest first.

    Each has "began" and "ended" (Unix seconds), "from_step" and "step", "end", "pid", "host", "differences" of a resume
    that was not exact, "notices" (sentences), and "message" of a failure. "end" is "interrupted", "failed" or "finished",
    "running" for the last one while it lives, and "killed" where no end was written: "ended" and "step" are then None.
    """
    found: list[dict[str, Any]] = []
    for line in read_sessions(folder):
        if line["event"] in ("started", "resumed"):
            found.append(
                {
                    "began": line.get("time"), "ended": None, "from_step": line.get("step"), "step": None, "end": "killed",
                    "pid": line.get("pid"), "host": line.get("host"), "differences": line.get("differences") or [],
                    "message": None, "notices": [],
                }
            )  # fmt: skip
        elif found and line["event"] == "notice":
            found[-1]["notices"].append(line.get("message"))
        elif found and line["event"] in ENDS and found[-1]["ended"] is None:
            found[-1] |= {"ended": line.get("time"), "end": line["event"]}
            found[-1] |= {"step": line.get("step"), "message": line.get("message")}
    if found and is_running and found[-1]["ended"] is None:
        found[-1]["end"] = "running"
    return found


def inexact_resumes(folder: Path) -> list[str]:
    """Return a sentence for each change at a resume that was not exact."""
    return [
        Note("runs.resumed-with", step=line.get("step"), difference=difference)
        for line in read_sessions(folder)
        for difference in line.get("differences") or ()
    ]
