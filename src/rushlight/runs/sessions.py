"""Who worked on a run, and how it ended each time: `sessions.jsonl`, a line for each beginning and each end.

`history.jsonl` has what training did, and ends the same whether or not it was ever interrupted; here is the rest. Nothing
is ever taken back from this file. The lines, each one JSON object (time in Unix seconds):

    {"event": "started" | "resumed", "step", "time", "pid", "host", "differences": [...] of a resume that was not exact}
    {"event": "notice", "step", "time", "pid", "host", "message"}: what was found on the way and depends on the machine
    {"event": "interrupted" | "failed" | "finished", "step", "time", "pid", "host", "message"}
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.errors import StorageError
from rushlight.runs.history import whole_lines_length

SESSIONS = "sessions.jsonl"
BEGINNINGS = ("started", "resumed")
NOTICE = "notice"


def write_session(folder: Path, event: str, step: int, **more: Any) -> None:
    """Add a line, and wait until it is on the disk. What a crash has torn at the file's end is cut off first."""
    path = folder / SESSIONS
    whole = whole_lines_length(path)
    if path.exists() and path.stat().st_size > whole:
        files.truncate_file(path, whole)
    line = {"event": event, "step": step, "time": time.time(), "pid": os.getpid(), "host": platform.node(), **more}
    files.append_bytes(path, json.dumps(files.without_nan(line), ensure_ascii=False).encode() + b"\n")
    files.sync_file(path)


def write_notice(folder: Path, step: int, message: str) -> None:
    """Add what was noticed on the way. A disk that refuses will show where it matters more."""
    with contextlib.suppress(StorageError):
        write_session(folder, NOTICE, step, message=message)


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """Return the lines that can be read, oldest first; [] when there are none."""
    try:
        lines = (folder / SESSIONS).read_bytes().split(b"\n")
    except OSError:
        return []
    return [content for content in map(parsed, lines) if content is not None]


def parsed(line: bytes) -> dict[str, Any] | None:
    """Return a line's object, or None for what is none."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("event"), str) else None


def list_sessions(folder: Path, is_running: bool = False) -> list[dict[str, Any]]:
    """Return who worked on the run, oldest first: one entry for each process, from its beginning to its end.

    Each has "began" and "ended" (Unix seconds), "from_step" and "step", "end", "pid", "host", "differences" of a resume that
    was not exact, "notices" (sentences), and "message" of a failure. "end" is "interrupted", "failed" or "finished";
    "running" for the last one while it lives; and "killed" where the process left no word: "ended" and "step" are then None.
    """
    found: list[dict[str, Any]] = []
    for line in read_sessions(folder):
        if line["event"] in BEGINNINGS:
            found.append(
                {
                    "began": line.get("time"), "ended": None, "from_step": line.get("step"), "step": None, "end": "killed",
                    "pid": line.get("pid"), "host": line.get("host"), "differences": line.get("differences") or [],
                    "message": None, "notices": [],
                }
            )  # fmt: skip
        elif found and line["event"] == NOTICE:
            found[-1]["notices"].append(line.get("message"))
        elif found and found[-1]["ended"] is None:
            end = {"ended": line.get("time"), "step": line.get("step"), "end": line["event"]}
            found[-1] |= {**end, "message": line.get("message")}
    if found and is_running and found[-1]["ended"] is None:
        found[-1]["end"] = "running"
    return found


def inexact_resumes(folder: Path) -> list[str]:
    """Return what had changed at resumes that were not exact, a sentence each; [] when the bits are those of one run."""
    lines = [line for line in read_sessions(folder) if line.get("differences")]
    return [f"resumed at step {line.get('step')}: {difference}" for line in lines for difference in line["differences"]]
