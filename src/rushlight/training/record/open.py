"""Opening the history of a run."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rushlight.console import Progress
from rushlight.runs import History
from rushlight.training.recipe import Recipe
from rushlight.training.record.tensorboard import tensorboard_lines


def open_history(folder: Path, recipe: Recipe, progress: Progress, stack: contextlib.ExitStack) -> History:
    """Open the run's history, and TensorBoard's beside it where that was asked for; the stack closes both."""
    history = History(folder, progress.warning)
    stack.callback(history.close)
    if recipe.tensorboard:
        history.watchers.append(stack.enter_context(tensorboard_lines(folder / "tensorboard")))
    return history
