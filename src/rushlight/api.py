"""The verbs: train, epochs, resume, open_run, open_data; load and open_bundle are the export room's."""

from __future__ import annotations

import contextlib
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import nn

from rushlight.cluster import import_ray
from rushlight.console import Progress, fetch_progress
from rushlight.data import Data, check_main_guard, open_source
from rushlight.errors import RushlightError, TrainingError, UsageError
from rushlight.options import Options, check_options, opens, plain_options, resumes, trains
from rushlight.run import Run
from rushlight.runs import find_run
from rushlight.signals import Terminated, ending_in_time
from rushlight.texts import Note
from rushlight.training import (
    Events,
    ProcessLost,
    Session,
    data_options,
    follow_elsewhere,
    launch,
    launch_on_ray,
    launched_by,
    resume_training,
    start_training,
)


class Epochs(Session):
    """The iterator over a run's epochs; `run` is the run.

    Leaving the loop early keeps what is trained: the run is finished by `close()`, when the iterator is dropped, or when
    Python ends.
    """

    @cached_property
    def run(self) -> Run:
        """The run, also while it is trained."""
        folder = self._training.world.folder  # the first process's, of several
        return Run(self._training.folder if folder is None else Path(folder), self._training)

    def prune(self, reason: str) -> None:
        """End the run here, as one that is not worth its remaining epochs: it is finished as it is, and says why."""
        self._training.events.emit("event", event="pruned", step=self._training.state["step"], message=reason)
        self.close()


@trains(Options)
def train(model: str | nn.Module, data: Any = "fashion-mnist", **options: Any) -> Run:
    """Train `model` on `data` and return the finished run.

    `model` is any `nn.Module`, a model's name ("mlp", "cnn", "resnet", "unet", "textcnn", "linear"), or "file.py:Class". `data` is a name
    ("fashion-mnist", "digits", …), a path (a folder of images, a CSV, …), a pair of arrays, a Dataset or a DataLoader.

    Raises:
        RushlightError: something is wrong with what was given (its text says what, and what to do), or training failed.
        KeyboardInterrupt: Ctrl-C; the state is saved, and `resume` goes on.
    """
    if starts_processes(options):
        return started("train", (model, data), options)
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
    if starts_processes(options):
        raise UsageError("loop-needs-launcher", processes=chosen.processes)
    fetch = None if chosen.quiet else fetch_progress()
    return Epochs(
        lambda stack, world: start_training(
            model, data, chosen, stack, open_events(stack, vars(chosen)), fetch if world.is_first else None, world
        ),
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
    if starts_processes(given):
        return started("resume", (run, model, data), given)
    runs, fetch = Path(given.pop("runs", "runs")), None if given.get("quiet") else fetch_progress()
    training = Epochs(
        lambda stack, world: resume_training(
            lambda: find_run(runs, str(run)),
            model,
            data,
            given,
            stack,
            open_events(stack, given),
            fetch if world.is_first else None,
            world,
        ),
        bool(given.get("profile", False)),
    )
    training.drain()
    return training.run


# ── several processes ────────────────────────────────────────────────────────────────────────────────────────


def starts_processes(options: Mapping[str, Any]) -> bool:
    """Tell whether a training is to be started in several processes: they are asked for, and nobody has launched this one."""
    processes = options.get("processes")  # what is no number is refused where all options are checked
    return isinstance(processes, Integral) and int(processes) > 1 and launched_by() is None


def started(verb: str, given: tuple[Any, ...], options: Mapping[str, Any]) -> Run:
    """Train or resume in as many processes as the options say; return the finished run.

    A model that was given as an object has the run's weights in the end.

    Raises:
        UsageError: what was given cannot be sent to other processes.
        RushlightError: as one of them raised it.
    """
    check_options(options)
    processes: int = options["processes"]
    if (address := options.get("ray")) is None:
        found = launch(work_on, (verb, sendable((given, dict(options)), processes)), processes)
    else:
        sent = given, {**options, "on_event": None}  # it is called here
        content, runs = sendable(sent, processes, import_ray().cloudpickle.dumps), Path(options.get("runs", "runs"))
        if verb == "resume":
            runs = find_run(runs, str(given[0])).parent
        with contextlib.ExitStack() as stack:
            events = open_events(stack, options)
            found = [
                launch_on_ray(
                    work_on, (verb, content), processes, address, options.get("gpus_per_process"), runs, events
                )
            ]
    failed = [(kind, told) for kind, told in found if isinstance(kind, type)]
    for kind, (key, values, place) in sorted(failed, key=lambda each: each[1][0] == "process-failed"):
        raise kind(key, **values) from RuntimeError(place)
    for code in (told for kind, told in found if kind == "ended"):
        raise KeyboardInterrupt if code is None else Terminated(code)
    model = next((each for each in given if isinstance(each, nn.Module)), None)
    return Run(Path(found[0][1]), model=model)


def work_on(verb: str, content: bytes) -> tuple[Any, Any]:
    """Train in this process, launched with others, on what `sendable` returned.

    Returns (None, the run's folder), ("ended", an exit code, None for Ctrl-C), or an error's kind and content.

    One that another process's death leads to is raised: the launcher starts all of them anew.
    """
    with ending_in_time(is_launched=True):
        try:
            given, options = pickle.loads(content)  # of the process that started this one
            run = (train if verb == "train" else resume)(*given, **options)
        except ProcessLost:
            raise
        except (KeyboardInterrupt, SystemExit, Terminated) as ended:
            return "ended", getattr(ended, "code", None)
        except RushlightError as error:
            values = {
                key: value if isinstance(value, (int, float, Note)) else str(value)
                for key, value in error.values.items()
            }
            return type(error), (error.key, values, traceback.format_exc())
        except Exception as error:
            rank, processes = launched_by() or (0, 1)
            values = {"rank": rank, "processes": processes, "problem": f"{type(error).__name__}: {error}"}
            return TrainingError, ("process-failed", values, traceback.format_exc())
    return None, str(run.folder)


def sendable(given: Any, processes: int, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
    """Return what was given, pickled: each process gets a copy of its own, of tensors too. Ray's own `dumps` sends code as well.

    Raises:
        UsageError: it cannot be sent to other processes, or these could not import the program.
    """
    check_main_guard(processes)
    main = sys.modules["__main__"]
    try:
        content = dumps(given)
    except Exception as error:
        raise UsageError("not-sendable", processes=processes, reason=f"{type(error).__name__}: {error}") from error
    if dumps is pickle.dumps and b"__main__" in content and not hasattr(main, "__file__"):
        raise UsageError("not-sendable", processes=processes, reason=Note("training.main-not-importable"))
    return content


def open_events(stack: contextlib.ExitStack, options: Mapping[str, Any]) -> Events:
    """Return the events of a run, followed by the screen and by the user's function; the stack closes the screen."""
    screen = Progress(bool(options.get("quiet")), bool(options.get("to_stderr")))
    stack.callback(screen.close)
    events = Events(screen.show, on_event=options.get("on_event"))
    follow_elsewhere(events)
    return events


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
