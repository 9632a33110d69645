"""The verbs: train, epochs, resume, open_run, open_data; load and open_bundle are the export room's."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from rushlight.console import Progress, fetch_progress
from rushlight.data import Data, open_source
from rushlight.options import Options, check_options, opens, plain_options, resumes, trains
from rushlight.run import Run
from rushlight.runs import find_run
from rushlight.training import Events, Session, data_options, resume_training, start_training


class Epochs(Session):
    """The iterator over a run's epochs; `run` is the run.

    Leaving the loop early keeps what is trained: the run is finished by `close()`, when the iterator is dropped, or when
    Python ends.
    """

    @cached_property
    def run(self) -> Run:
        """The run, also while it is trained."""
        return Run(self._training.folder, self._training)

    def prune(self, reason: str) -> None:
        """End the run here, as one that is not worth its remaining epochs: it is finished as it is, and says why."""
        self._training.events.emit("event", event="pruned", step=self._training.state["step"], message=reason)
        self.close()


@trains(Options)
def train(model: str | nn.Module, data: Any = "fashion-mnist", **options: Any) -> Run:
    """Train `model` on `data` and return the finished run.

    `model` is any `nn.Module`, a model's name ("mlp", "cnn", "resnet", "unet", "linear"), or "file.py:Class". `data` is a name
    ("fashion-mnist", "digits", …), a path (a folder of images, a CSV, …), a pair of arrays, a Dataset or a DataLoader.

    Raises:
        RushlightError: something is wrong with what was given (its text says what, and what to do), or training failed.
        KeyboardInterrupt: Ctrl-C; the state is saved, and `resume` goes on.
    """
    training = epochs(model, data, **options)
    training.drain()
    return training.run


@trains(Options)
def epochs(model: str | nn.Module, data: Any = "fashion-mnist", **options: Any) -> Epochs:
    """Return an iterator that trains one epoch at each turn: you own the loop.

        for epoch in rushlight.epochs(model, "fashion-mnist", epochs=5):
            print(epoch.number, epoch.train_loss, epoch.test.accuracy)

    Takes what `train` takes and raises what it raises. `break` when you like: what is trained is kept, and the
    iterator's `run` is the run.
    """
    chosen = check_options(options)
    fetch = None if chosen.quiet else fetch_progress()
    return Epochs(
        lambda stack: start_training(model, data, chosen, stack, open_events(stack, vars(chosen)), fetch),
        chosen.profile,
    )


@resumes(Options)
def resume(run: str | Path, model: nn.Module | str | None = None, data: Any = None, **options: Any) -> Run:
    """Go on with a run from its newest checkpoint to the end of its recipe; the result has the bits of one never stopped.

    A run whose model or data were live objects needs them again, made as they were at the start. The class of a model is
    named, as "net.py:Net", where this account did not train the run on this machine: nothing in a file is imported else.

    Raises:
        RunError: there is no such run, it is in use, or it has no checkpoint.
        WeightsError: its checkpoints are damaged.
    """
    given = plain_options(options)
    folder = find_run(Path(given.pop("runs", "runs")), str(run))
    fetch = None if given.get("quiet") else fetch_progress()
    training = Epochs(
        lambda stack: resume_training(folder, model, data, given, stack, open_events(stack, given), fetch),
        bool(given.get("profile", False)),
    )
    training.drain()
    return training.run


def open_events(stack: contextlib.ExitStack, options: Mapping[str, Any]) -> Events:
    """Return the events of a run, followed by the screen and by the user's function; the stack closes the screen."""
    screen = Progress(bool(options.get("quiet")), bool(options.get("to_stderr")))
    stack.callback(screen.close)
    return Events(screen.show, on_event=options.get("on_event"))


def open_run(run: str | Path = "latest", model: nn.Module | str | None = None, *, runs: str | Path = "runs") -> Run:
    """Open a run by its folder, its name (or a part of it that no other has), or "latest".

    A run whose model was a live object needs it again, made as it was: the run's weights are loaded into `model`. So does,
    as "net.py:Net", one with a class of its own that this account did not train on this machine.
    """
    return Run(find_run(Path(runs), str(run)), model=model)


@opens(Options)
def open_data(source: Any, test: Any = None, **options: Any) -> Data:
    """Open data as `train` does, to look at it or to use it more than once."""
    chosen = check_options(plain_options(options, "open_data"))
    progress = None if chosen.quiet else fetch_progress()
    test = chosen.test_data if test is None else test
    return open_source(source, test, data_options(chosen), progress, validation=chosen.val_data)
