"""One session of a run: it begins, gives its epochs one by one, and ends, finished, interrupted or failed."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator

import torch

from rushlight.errors import RushlightError, TrainingError, problem_of
from rushlight.runs import typed, write_session
from rushlight.signals import Terminated
from rushlight.texts import Note
from rushlight.training.checkpoint import describe_kept
from rushlight.training.distributed import World, joined_world
from rushlight.training.finish import finish_together
from rushlight.training.loop import Epoch, epochs
from rushlight.training.profile import profiled, telling_of_waiting
from rushlight.training.setup import begin
from rushlight.training.state import Training

_open: weakref.WeakSet[Session] = weakref.WeakSet()  # sessions that nobody has closed yet
_turn = threading.RLock()  # held while a session trains: the random generators are the whole process's
_parallel: set[int] = set()  # processes that have trained with several threads: a fork of one has none of these


@atexit.register
def close_all() -> None:
    """Finish the runs whose loop was left by `break` while somebody still held the iterator."""
    for session in list(_open):
        if session._thread is threading.current_thread() or not session._thread.is_alive():  # else it trains
            session.close()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let no other thread train for the block.

    Raises:
        TrainingError: another thread trains, or this process is a fork of one that has trained with several threads.
    """
    if _parallel and os.getpid() not in _parallel and torch.get_num_threads() > 1:
        raise TrainingError("forked-after-training")
    if not _turn.acquire(blocking=False):
        raise TrainingError("trains-in-another-thread")
    try:
        yield
    finally:
        if torch.get_num_threads() > 1:
            _parallel.add(os.getpid())
        _turn.release()


class Session:
    """The iterator over a run's epochs.

    Leaving the loop early keeps what is trained: the run is finished by `close()`, when the iterator is dropped, or when
    Python ends. `set_up(stack, world)` opens the training, which the processes of `world` train together;
    the stack holds its lock and history, and is closed with the session.
    Of two threads of a process only one trains at a time, and a forked process leaves its parent's run alone.
    """

    def __init__(self, set_up: Callable[[contextlib.ExitStack, World], Training], is_profiled: bool = False) -> None:
        self._iterator: Generator[Epoch] | None = None
        self._last: Epoch | None = None
        self._process, self._thread = os.getpid(), threading.current_thread()
        with alone(), contextlib.ExitStack() as stack:
            for other in list(_open):
                if other._process == self._process and other._thread is not self._thread and other._thread.is_alive():
                    raise TrainingError("trains-in-another-thread")
            world = joined_world()
            stack.push(lambda kind, error, trace: world.leave(error))
            self._training = set_up(stack, world)
            begin(self._training, stack)
            self._stack = stack.pop_all()
        self._iterator = profiled(self._training, epochs) if is_profiled else epochs(telling_of_waiting(self._training))
        _open.add(self)

    def __iter__(self) -> Iterator[Epoch]:
        return self

    def __next__(self) -> Epoch:
        if self._iterator is None:
            raise StopIteration
        if os.getpid() != self._process:
            raise TrainingError("run-of-parent-process", run=self._training.folder.name)
        self._thread = threading.current_thread()
        try:
            with alone():
                self._last = next(self._iterator)
        except StopIteration:
            self.close()
            raise
        except BaseException as error:
            self.abandon(error)
            raise
        return self._last

    def drain(self) -> None:
        """Train to the end; a session that is interrupted between two epochs leaves no finished run."""
        try:
            for _ in self:
                pass
        except BaseException as error:
            self.abandon(error)
            raise

    def close(self) -> None:
        """Write the report and the bundle, and let go of the run. Does nothing the second time, or in a forked process."""
        iterator = self._let_go()
        if iterator is None:
            return
        try:
            with alone():
                iterator.close()
                if self._training.state["step"]:  # else nothing was trained, and there is nothing to finish
                    finish_together(self._training, self._last)
        except BaseException as error:
            self._record(error)
            self._training.world.leave(error)
            raise
        finally:
            self._stack.close()
        if self._training.state["step"] and self._training.events.error is not None:
            raise self._training.events.error  # the user's function raised after the last step

    def _let_go(self) -> Generator[Epoch] | None:
        """Return the iterator, which is this session's no more; None where it was let go before, or is of another process."""
        if os.getpid() != self._process:
            return None
        iterator, self._iterator = self._iterator, None
        _open.discard(self)
        return iterator

    def abandon(self, error: BaseException) -> None:
        """Record how a session ended that did not finish the run, and let go of it. Does nothing the second time."""
        iterator = self._let_go()
        if iterator is None:
            return
        with contextlib.suppress(RushlightError):
            iterator.close()
        self._training.world.leave(error)
        with self._stack:
            self._record(error)

    def _record(self, error: BaseException) -> None:
        """Write how the session ended to the run's `sessions.jsonl`."""
        training = self._training
        folder, step = training.folder, training.state["step"]
        with contextlib.suppress(RushlightError):  # the first error is the one to show
            if not isinstance(error, (KeyboardInterrupt, SystemExit, Terminated)):
                write_session(folder, "failed", step, message=problem_of(error))
                return
            with contextlib.suppress(RushlightError):  # the state is saved; that it was interrupted is the lesser news
                write_session(folder, "interrupted", step)
            training.events.message(Note("training.stopped", kept=describe_kept(folder), run=typed(folder)))

    def __del__(self) -> None:
        if getattr(self, "_iterator", None) is not None and not sys.is_finalizing():
            self.close()
