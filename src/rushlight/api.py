"""The verbs: train, epochs, resume, load, open_data, open_run."""

from __future__ import annotations

import atexit
import contextlib
import sys
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from rushlight.console import Progress, fetch_progress
from rushlight.data import Data, keeping_workers, open_source
from rushlight.errors import RunError, RushlightError, UsageError
from rushlight.export import SavedModel, build_bundled, load_bundle, load_weights, read_bundle
from rushlight.run import Run
from rushlight.runs import age, find_run, keep_values, list_checkpoints, lock_run, read_recipe, write_session
from rushlight.signals import Terminated
from rushlight.training import (
    Epoch,
    Events,
    Options,
    Origin,
    Training,
    announce,
    check_options,
    data_options,
    describe_kept,
    finish_run,
    keep_recipe,
    profiled,
    recipe_from_json,
    restore,
    resume_training,
    start_training,
    steps_per_epoch,
    telling_of_waiting,
)
from rushlight.training import epochs as iterate_epochs


def train(model: str | nn.Module, data: Any = "fashion-mnist", **options: Unpack[Options]) -> Run:
    """Train `model` on `data` and return the finished run.

    `model` is any `nn.Module`, a model's name ("mlp", "cnn", "resnet", "linear"), or "file.py:Class". `data` is a name
    ("fashion-mnist", "digits", …), a path (a folder of images, a CSV, …), a pair of arrays, a Dataset or a DataLoader.
    The options are those of `Options`, by keyword.

    Raises:
        RushlightError: something is wrong with what was given (its text says what, and what to do), or training failed.
        KeyboardInterrupt: Ctrl-C; the state is saved, and `resume` goes on.
    """
    return drained(epochs(model, data, **options))


def drained(training: Epochs) -> Run:
    """Train to the end, and return the run; one that was interrupted between two epochs is no finished one."""
    try:
        for _ in training:
            pass
    except BaseException as error:
        training._abandon(error)
        raise
    return training.run


def epochs(model: str | nn.Module, data: Any = "fashion-mnist", **options: Unpack[Options]) -> Epochs:
    """Return an iterator that trains one epoch at each turn: you own the loop.

        for epoch in rushlight.epochs(model, "fashion-mnist", epochs=5):
            print(epoch.number, epoch.train_loss, epoch.test.accuracy)

    Takes what `train` takes and raises what it raises. `break` when you like: what is trained is kept, and the
    iterator's `run` is the run.
    """
    options = check_options(options)
    for option in ("checkpoint", "inexact"):
        if options.get(option) and not (option == "inexact" and options.get("resume")):
            raise UsageError("only-for-resume", option=option)
    fetch = None if options.get("quiet") else fetch_progress()
    return started(lambda stack, events: start_training(model, data, options, stack, events, fetch), options)


def resume(
    run: str | Path,
    model: nn.Module | None = None,
    data: Any = None,
    **options: Unpack[Options],
) -> Run:
    """Go on with a run from its newest checkpoint to the end of its recipe; the result has the bits of one never stopped.

    A run whose model or data were live objects needs them again, made as they were at the start.

    Raises:
        RunError: there is no such run, it is in use, or it has no checkpoint.
        WeightsError: its checkpoints are damaged.
    """
    options = check_options(options)
    folder = find_run(Path(options.get("runs", "runs")), str(run))
    recipe = recipe_from_json(read_recipe(folder))

    def again(stack: contextlib.ExitStack, events: Events) -> tuple[Training, str]:
        stack.enter_context(lock_run(folder))
        return resume_training(folder, recipe, model, data, options, stack, events)

    return drained(started(again, options))


def started(make: Callable[[contextlib.ExitStack, Events], tuple[Training, str]], options: Options) -> Epochs:
    """Make a training, begin its history and announce it; whatever it holds is let go if any of that fails."""
    stack = contextlib.ExitStack()
    screen = Progress(options.get("quiet", False), options.get("to_stderr", False))
    stack.callback(screen.close)
    try:
        training, loss_name = make(stack, Events(screen.show, on_event=options.get("on_event")))
        stack.enter_context(keeping_workers(training.data))
        if training.origin is None:
            from_start(training)
        else:
            from_checkpoint(training, training.origin)
        announce(training, loss_name)
    except BaseException:
        stack.close()
        raise
    return Epochs(training, stack, options.get("profile", False))


def from_start(training: Training, **more: Any) -> None:
    """Write the first line of a run's history, and with `more` that of its sessions."""
    steps = steps_per_epoch(training.data.train.samples, training.recipe)
    training.events.emit("start", run=training.folder.name, epochs=training.recipe.epochs, steps_per_epoch=steps)
    write_session(training.folder, "started", 0, **more)


def from_checkpoint(training: Training, origin: Origin) -> None:
    """Bring back a checkpoint; a run that never wrote one begins anew."""
    folder, tell = training.folder, training.events.message
    if origin.checkpoint is None:
        if (folder / "model").is_dir():
            raise RunError("no-checkpoint", run=folder.name)
        tell("No checkpoint was written before it stopped: it begins anew.")
        keep_recipe(training)
        training.history.restore(0, 0, b"", b"")
        keep_values(folder, 0)
        from_start(training, **said_differences(training, origin))
        return
    for newer in list_checkpoints(folder):
        if age(newer) > age(origin.checkpoint) and not origin.goes_back:
            training.events.warning(
                f"{newer} is damaged and was not used; {origin.checkpoint.name}, before it, is whole."
            )
    restore(training, origin.checkpoint, drops_newer=origin.goes_back)
    for index, settings in enumerate(origin.settings):  # in place of those in the checkpoint
        training.optimizer.param_groups[index].update({key: now for key, (_, now) in settings.items()})
        if "lr" in settings:
            training.schedule.base_rates[index] = settings["lr"][1]
    keep_recipe(training)
    more = said_differences(training, origin)
    epochs = training.recipe.epochs
    if training.state["epoch"] > epochs:
        constant = " --schedule constant" if training.schedule.name in ("cosine", "onecycle") else ""
        tell(f"It has had its {epochs} epochs; for more: rushlight resume RUN --epochs {2 * epochs}{constant}")
    write_session(folder, "resumed", training.state["step"], checkpoint=origin.checkpoint.name, **more)


def said_differences(training: Training, origin: Origin) -> dict[str, Any]:
    """Say what changed that the bits depend on; return it for the sessions, which remember it."""
    for difference in origin.differences:
        training.events.warning(f"Not the same bits from here on: {difference}.")
    return {"differences": list(origin.differences)} if origin.differences else {}


_open: weakref.WeakSet[Epochs] = weakref.WeakSet()  # iterators that nobody has closed yet


@atexit.register
def close_all() -> None:
    """PrepareBatch the runs whose loop was left by `break` while somebody still held the iterator."""
    for iterator in list(_open):
        iterator.close()


class Epochs:
    """The iterator over a run's epochs; `run` is the run.

    Leaving the loop early keeps what is trained: the run is finished by `close()`, when the iterator is dropped, or when
    Python ends.
    """

    def __init__(self, training: Training, stack: contextlib.ExitStack, is_profiled: bool = False) -> None:
        self._training = training
        self._stack = stack  # holds the run's lock and history
        self._iterator: Generator[Epoch] | None = (
            profiled(training, iterate_epochs) if is_profiled else iterate_epochs(telling_of_waiting(training))
        )
        self._last: Epoch | None = None
        self.run = Run(training.folder, training)
        _open.add(self)

    def __iter__(self) -> Iterator[Epoch]:
        return self

    def __next__(self) -> Epoch:
        if self._iterator is None:
            raise StopIteration
        try:
            self._last = next(self._iterator)
        except StopIteration:
            self.close()
            raise
        except BaseException as error:
            self._abandon(error)
            raise
        return self._last

    def close(self) -> None:
        """Write the report and the bundle, and let go of the run. Does nothing the second time."""
        iterator, self._iterator = self._iterator, None
        if iterator is None:
            return
        with self._stack:
            iterator.close()
            if self._training.state["step"]:  # else nothing was trained, and there is nothing to finish
                finish_run(self._training, self._last)

    def _abandon(self, error: BaseException) -> None:
        """Record how a run ended that did not finish, and let go of it. Does nothing the second time."""
        iterator, self._iterator = self._iterator, None
        if iterator is None:
            return
        with contextlib.suppress(RushlightError):
            iterator.close()
        with self._stack:
            training = self._training
            if isinstance(error, (KeyboardInterrupt, SystemExit, Terminated)):
                with contextlib.suppress(
                    RushlightError
                ):  # the state is saved; that it was interrupted is the lesser news
                    write_session(training.folder, "interrupted", training.state["step"])
                kept = describe_kept(training.folder)
                run = training.folder.name if training.folder.parent == Path("runs") else training.folder
                training.events.message(f"Stopped. {kept} Go on with: rushlight resume {run}")
                return
            message = error.record if isinstance(error, RushlightError) else f"{type(error).__name__}: {error}"
            with contextlib.suppress(RushlightError):  # the first error is the one to show
                write_session(training.folder, "failed", training.state["step"], message=message)

    def __del__(self) -> None:
        if getattr(self, "_iterator", None) is not None and not sys.is_finalizing():
            self.close()


def open_run(run: str | Path = "latest", model: nn.Module | None = None, *, runs: str | Path = "runs") -> Run:
    """Open a run by its folder, its name (or a part of it that no other has), or "latest".

    A run whose model was a live object needs it again, made as it was: the run's weights are loaded into `model`.
    """
    return Run(find_run(Path(runs), str(run)), model=model)


def open_bundle(folder: str | Path, model: nn.Module | None = None) -> SavedModel:
    """Open a bundle to predict with it: the model, its preprocessing and its class names. Takes what `load` takes."""
    folder = Path(folder)
    return SavedModel(load_bundle(folder, model, build_bundled), read_bundle(folder))


def open_data(source: Any, test: Any = None, **options: Unpack[Options]) -> Data:
    """Open data as `train` does, to look at it or to use it more than once; takes those options that concern data."""
    options = check_options(options)
    return open_source(source, test, data_options(options), fetch_progress())


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a saved model, in eval mode: weights (.pth, .safetensors) into `model`, or a bundle or run folder.

    Nothing in a file is ever executed. A bundle of a model by name needs no `model`; any other does.

    Raises:
        WeightsError: the file is damaged, holds a pickled object, or does not fit the model.
    """
    path = Path(path)
    if path.is_dir():
        folder = path / "model" if (path / "recipe.json").is_file() else path
        return load_bundle(folder, model, build_bundled)
    if model is None:
        raise UsageError("weights-need-model", path=str(path))
    for note in load_weights(model, path):
        warnings.warn(note, stacklevel=2)
    return model.eval()
