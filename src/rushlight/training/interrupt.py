"""Ctrl-C and SIGTERM: noticed between two steps, so that what is saved is a whole state."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from rushlight.console import Progress

Handler = Callable[[int, FrameType | None], object] | int | None


class Interrupt:
    """Whether somebody asked to stop, and how. The second Ctrl-C leaves at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; raise on the second."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def error(self) -> BaseException:
        """Return what to raise once everything is saved: KeyboardInterrupt, or SystemExit(143) for SIGTERM."""
        return SystemExit(143) if self.signal == signal.SIGTERM else KeyboardInterrupt()

    def watching(self, progress: Progress, total: int | None) -> Callable[[int], None]:
        """Return the function that testing calls after every batch: shows how far it is, and leaves when asked to.

        Testing changes no state, and the last training step's is saved on the way out; a resumed run tests again.
        """

        def watch(done: int) -> None:
            progress.testing(done, total)
            if self.requested:
                raise InterruptedTest

        return watch


class InterruptedTest(BaseException):  # no Exception: nothing on the way may swallow it
    """Testing was interrupted by a signal."""


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Catch SIGINT and SIGTERM for a block, in the main thread; elsewhere signals are not ours to catch."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before: dict[int, Handler] = {
        number: signal.signal(number, interrupt.handle) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
