"""One session of a run: it begins, gives its epochs one by one, and ends, finished, interrupted or failed."""

from __future__ import annotations

import atexit
import contextlib
import sys
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from rushlight.errors import RushlightError
from rushlight.runs import write_session
from rushlight.signals import Terminated
from rushlight.texts import Note
from rushlight.training.checkpoint import describe_kept
from rushlight.training.finish import finish_run
from rushlight.training.loop import Epoch, epochs
from rushlight.training.profile import profiled, telling_of_waiting
from rushlight.training.setup import begin
from rushlight.training.state import Training

_open: weakref.WeakSet[Session] = weakref.WeakSet()  # sessions that nobody has closed yet


@atexit.register
def close_all() -> None:
    """Finish the runs whose loop was left by `break` while somebody still held the iterator."""
    for session in list(_open):
        session.close()


class Session:
    """The iterator over a run's epochs.

    Leaving the loop early keeps what is trained: the run is finished by `close()`, when the iterator is dropped, or when
    Python ends. `set_up(stack)` opens the training; the stack holds its lock and history, and is closed with the session.
    """

    def __init__(self, set_up: Callable[[contextlib.ExitStack], Training], is_profiled: bool = False) -> None:
        self._iterator: Generator[Epoch] | None = None
        self._last: Epoch | None = None
        with contextlib.ExitStack() as stack:
            self._training = set_up(stack)
            begin(self._training, stack)
            self._stack = stack.pop_all()
        self._iterator = profiled(self._training, epochs) if is_profiled else epochs(telling_of_waiting(self._training))
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

    def drain(self) -> None:
        """Train to the end; a session that is interrupted between two epochs leaves no finished run."""
        try:
            for _ in self:
                pass
        except BaseException as error:
            self._abandon(error)
            raise

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
        """Record how a session ended that did not finish the run, and let go of it. Does nothing the second time."""
        iterator, self._iterator = self._iterator, None
        if iterator is None:
            return
        with contextlib.suppress(RushlightError):
            iterator.close()
        training = self._training
        folder, step = training.folder, training.state["step"]
        with self._stack, contextlib.suppress(RushlightError):  # the first error is the one to show
            if not isinstance(error, (KeyboardInterrupt, SystemExit, Terminated)):
                message = error.record if isinstance(error, RushlightError) else f"{type(error).__name__}: {error}"
                write_session(folder, "failed", step, message=message)
                return
            with contextlib.suppress(RushlightError):  # the state is saved; that it was interrupted is the lesser news
                write_session(folder, "interrupted", step)
            run = folder.name if folder.parent == Path("runs") else folder
            training.events.message(Note("training.stopped", kept=describe_kept(folder), run=run))

    def __del__(self) -> None:
        if getattr(self, "_iterator", None) is not None and not sys.is_finalizing():
            self.close()
