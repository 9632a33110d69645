"""Stopping on request: `stop.request` in the run's folder does what Ctrl-C does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rushlight import files
from rushlight.events import Event, Events
from rushlight.runs import STOP
from rushlight.texts import Note

EVERY = 1.0  # seconds


def stop_on_request(folder: Path, events: Events) -> Callable[[Event], None]:
    """Return the follower that notices the request, and deletes it as its answer. One of an earlier session is forgotten."""
    path, due = folder / STOP, 0.0
    files.delete_file(path)

    def follow(event: Event) -> None:
        nonlocal due
        if event.kind not in ("progress", "evaluating") or (now := time.monotonic()) < due:
            return
        due = now + EVERY
        if path.exists() and files.delete_file(path):
            events.is_stopping = True
            events.message(Note("training.stop-requested"))

    return follow
