"""Opening what is written of a run: its history, and TensorBoard's files where the recipe asks for them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rushlight.events import Event, Events
from rushlight.runs import History, append_values
from rushlight.training.recipe import Recipe
from rushlight.training.record.machine import machine_lines
from rushlight.training.record.stop import stop_on_request
from rushlight.training.record.tensorboard import tensorboard_lines

LINES = ("start", "steps", "epoch", "event")  # the kinds of event that are lines of history


def open_history(folder: Path, recipe: Recipe, events: Events, stack: contextlib.ExitStack) -> History:
    """Open the files that follow a run's events; the stack closes them."""
    history = stack.enter_context(History(folder, events.warning))
    board = stack.enter_context(tensorboard_lines(folder)) if recipe.tensorboard else None

    def write(event: Event) -> None:
        if event.kind not in (*LINES, "values"):
            return
        entry = {key: value for key, value in event.data.items() if key != "is_best"} | {"time": event.time}
        line = {"kind": event.kind, **entry}
        if event.kind == "values":
            append_values(folder, entry)
        else:
            history.write(line)
        if board is not None:
            board(line)

    events.followers[:0] = [
        write,
        machine_lines(folder),
        stop_on_request(folder, events),
    ]  # what is shown is written already
    return history
