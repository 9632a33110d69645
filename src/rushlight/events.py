"""The one stream of a run's events: history, screen, TensorBoard and the user's function all follow it.

The kinds of event, and what their data holds (plain JSON values; those of history are explained in `runs.history`):

    announcement      "title", "lines": what is trained on what, and every decision; "epochs"
    start             "run", "epochs", "steps_per_epoch": a line of history
    progress          "epoch", "epochs", "step", "steps", "loss", "accuracy", "samples_per_second", "seconds_left", at
                      most ten times a second
    evaluating        "split", "done", "total" (samples), at most ten times a second
    steps             "epoch", "step", "loss", "learning_rate", "samples": a line of history, about ten times an epoch
    epoch             "epoch", "step", "train_loss", "validation", "test", "learning_rate", "seconds": a line of history;
                      and "is_best"
    event             "event", "step", "message": a line of history
    values            "epoch", "step", "values": what the user logged
    message, warning  "text"
    profile           what profile.json holds, and its "folder"
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Something that happened in a run: its kind, and plain JSON data."""

    kind: str
    data: dict[str, Any]
    time: float = field(default_factory=lambda: time.time())  # Unix seconds, of the clock as it is now


class Events:
    """Owns the followers of a run's events. `error` is the exception that the user's function raised, if it did.

    That exception must not leave a step or an evaluation half done: the loop asks for it between two steps, saves the
    state and raises it then. The function is not called again.
    """

    def __init__(
        self, *followers: Callable[[Event], object], on_event: Callable[[Event], object] | None = None
    ) -> None:
        self.followers = list(followers)
        self.on_event = on_event
        self.error: BaseException | None = None
        self.is_stopping = False  # whether somebody asked for it otherwise than by a signal
        self.waiting: list[tuple[int, dict[str, Any]]] = []  # lines of history, by the steps done before them

    def emit_after(self, done: int, /, **data: Any) -> None:
        """Emit an event of kind "event" once the losses of the first `done` steps are read: history is in their order."""
        bisect.insort(self.waiting, (done, data), key=lambda entry: entry[0])

    def release(self, step: float) -> None:
        """Emit the events that wait for the losses of the first `step` steps."""
        while self.waiting and self.waiting[0][0] <= step:
            self.emit("event", **self.waiting.pop(0)[1])

    def emit(self, kind: str, **data: Any) -> None:
        """Give an event to every follower, the user's function last."""
        event = Event(kind, data)
        for follow in self.followers:
            follow(event)
        if self.on_event is not None and self.error is None:
            try:
                self.on_event(event)
            except (Exception, SystemExit) as error:  # not the second Ctrl-C, nor a signal that leaves an evaluation
                self.error = error

    def message(self, text: str) -> None:
        """Say something."""
        self.emit("message", text=text)

    def warning(self, text: str) -> None:
        """Say something that the user may want to act on."""
        self.emit("warning", text=text)
