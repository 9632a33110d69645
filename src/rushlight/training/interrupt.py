"""Notices Ctrl-C, SIGTERM and their kin between two steps, so that a whole state is saved.

Reading data and testing change no state: these are left at once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from rushlight.data import Batch, Feed
from rushlight.events import Events
from rushlight.signals import ENDING, exit_code, handling, leave_if_told
from rushlight.training.distributed import ALONE, World

TELL_SECONDS = 0.1  # between two events of an evaluation
CAUGHT = (signal.SIGINT, *ENDING)
FAILED = 1000  # no signal: the function of the user's that follows the events raised


class Interrupted(BaseException):  # no Exception: nothing in between may swallow it
    """A signal came at a moment that can be left at once."""


class Interrupt:
    """Remembers who asked to stop: a signal, or a function of the user's that raised.

    The second Ctrl-C leaves at once.
    """

    def __init__(self, events: Events | None = None) -> None:
        self.events = events or Events()
        self.signal: int | None = None
        self.may_leave = False  # whether the work in progress can be left at any point

    @property
    def requested(self) -> bool:
        """Whether a signal or a request to stop came, or the user's function raised."""
        return self.signal is not None or self.events.error is not None or self.events.is_stopping

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; leave what can be left; raise on the second Ctrl-C."""
        if self.signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signal = number
        if self.may_leave:
            self.may_leave = False
            raise Interrupted

    def take(self, feed: Feed, count: int, micro_batches: int) -> list[Batch]:
        """Take a step's micro-batches, or one batch of `count` steps; none at the epoch's end.

        Reading may be left at any point.
        """
        batches: list[Batch] = []
        self.may_leave = True
        try:
            while not self.requested and len(batches) < micro_batches and (batch := feed.take(count)) is not None:
                batches.append(batch)
        except Interrupted:
            return []
        except RuntimeError:  # a worker that got the signal too
            if self.requested:
                return []
            raise
        finally:
            self.may_leave = False
        return batches

    @property
    def reason(self) -> int:
        """The number of the reason why this process asked to stop; 0 for none."""
        return 0

    def agree(self, reason: int) -> None:
        """Stop for a reason that all processes know of; 0 for none."""

    @contextlib.contextmanager
    def leaving_at_once(self) -> Iterator[None]:
        """Raise Interrupted as soon as a signal comes, or came before; for work without state."""
        self.may_leave = True
        try:
            if self.requested:
                raise Interrupted
            yield
        finally:
            self.may_leave = False

    def error(self) -> BaseException:
        """Return the error to raise once all is saved: the user's, KeyboardInterrupt, SystemExit."""
        if self.events.error is not None:
            return self.events.error
        if self.signal is None or self.signal == signal.SIGINT:
            return KeyboardInterrupt()
        return SystemExit(exit_code(self.signal))

    def watching(self, split: str, total: int | None) -> Callable[[int], None]:
        """Return an evaluation's function for each batch: it emits progress, and leaves if asked."""
        due = 0.0

        def watch(done: int) -> None:
            nonlocal due
            if (now := time.perf_counter()) >= due:
                due = now + TELL_SECONDS
                self.events.emit("evaluating", split=split, done=done, total=total)
            if self.requested:
                raise Interrupted

        return watch


class SharedInterrupt(Interrupt):
    """Has all processes of a run stop after the same step: who was asked to, tells the others in it.

    Whoever asks more than once changes nothing: a terminal and a launcher both pass Ctrl-C on.
    """

    def __init__(self, events: Events | None, world: World) -> None:
        super().__init__(events)
        self.world = world

    @property
    def requested(self) -> bool:
        """Whether all processes know that they stop."""
        return self.signal is not None

    @property
    def reason(self) -> int:
        """The number of the signal that asked this process to stop; `FAILED` for an error of the user's function."""
        if self.events.error is not None:
            return FAILED
        return self.world.noted or (int(signal.SIGINT) if self.events.is_stopping else 0)

    def agree(self, reason: int) -> None:
        """Stop for a reason that all processes know of; 0 for none."""
        self.signal = reason or None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal, for the others to learn of it."""
        self.world.noted = self.world.noted or number

    def take(self, feed: Feed, count: int, micro_batches: int) -> list[Batch]:
        """Take this process's shares of a step's micro-batches; none at the epoch's end."""
        batches: list[Batch] = []
        while len(batches) < micro_batches and (batch := feed.take(count)) is not None:
            batches.append(batch)
        return batches

    @contextlib.contextmanager
    def leaving_at_once(self) -> Iterator[None]:
        """Leave the block to whoever asks the others in it: they all stop after the same piece."""
        yield

    def error(self) -> BaseException:
        """Return the error to raise once all is saved."""
        if self.events.error is None and self.signal == FAILED:
            return SystemExit(1)
        return super().error()


@contextlib.contextmanager
def interruptible(events: Events | None = None, world: World = ALONE) -> Iterator[Interrupt]:
    """Catch the signals that end a process for a block, where it runs in the main thread.

    One that is ignored stays ignored: `nohup` does that to SIGHUP.
    """
    interrupt = SharedInterrupt(events, world) if world.is_shared else Interrupt(events)
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    with handling(CAUGHT, interrupt.handle):
        leave_if_told()
        yield interrupt
