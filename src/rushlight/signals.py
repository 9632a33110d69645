"""SIGTERM and its kin: which end a process, with which exit code, and by when.

While a model trains, `training/interrupt.py` catches them, saves and leaves; before and after, they end a command where it
is. The clock runs beside all that, in a thread: a step, a disk or a worker that hangs does not hold up the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from rushlight.texts import text

Handler = Callable[[int, FrameType | None], object] | int | None

DEADLINE_SECONDS = 9.0  # a system that shuts down gives about ten
# for a launched process that does not train yet: where it waits for another, no handler of Python's runs
BLOCKED_SECONDS = 1.0
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))


_replaced: list[dict[int, Handler]] = []  # the handlers that ours stand in for, the innermost last
_told: list[int] = []  # the signals that ended this command
_wakeups: list[int] = []  # likewise, where the numbers of signals were written to


class Terminated(BaseException):  # no SystemExit: a model's file that ends the process is another matter
    """A signal ended the command; `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@contextlib.contextmanager
def ending_in_time(is_launched: bool = False) -> Iterator[None]:
    """End the process within the deadline of a signal in `ENDING`, for the block. One that is ignored stays ignored.

    One of several that this program launched says nothing of it: who launched it does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _told.clear()
    with handling(ENDING, leave):
        heard, told = socket.socketpair()
        told.setblocking(False)
        wakeup = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        _wakeups.append(wakeup)
        threading.Thread(target=watch, args=(heard, is_launched), name="rushlight-deadline", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            _wakeups.pop()
            told.close()  # the thread reads the end, and ends


@contextlib.contextmanager
def handling(numbers: Sequence[int], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Let `handler` handle these signals for the block; one that is ignored stays ignored. For the main thread alone."""
    before: dict[int, Handler] = {}
    _replaced.append(before)
    try:
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)
        _replaced.pop()


def leave_to_the_child() -> None:
    """Put back, in a forked process, what ends it: what it is told is not told to its parent, who would end for it.

    Processes that a model forks inherit our handlers and the place where the parent's clock hears of signals. Ctrl-C is
    left as it is: it reaches every process of the terminal, and the parent is the one to answer it.
    """
    for before in reversed(_replaced):
        for number, was in before.items():
            if number in ENDING:
                signal.signal(number, was)
    for wakeup in _wakeups[:1]:
        signal.set_wakeup_fd(wakeup)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=leave_to_the_child)


def leave(number: int, frame: FrameType | None) -> None:
    """Leave the command, with the exit code of the signal."""
    _told.append(number)
    raise Terminated(exit_code(number))


def leave_if_told() -> None:
    """Leave the command where a signal came before: an import may have swallowed what `leave` raised."""
    if _told:
        raise Terminated(exit_code(_told[0]))


def exit_code(number: int) -> int:
    """Return the exit code of a process that a signal ended, as a shell has it: 143 for SIGTERM."""
    return 143 if number == getattr(signal, "SIGBREAK", None) else 128 + number


def watch(heard: socket.socket, is_launched: bool) -> None:
    """Read the numbers of the signals that come; end the process when the first in `ENDING` is long enough ago."""
    with heard:
        while numbers := heard.recv(64):
            ending = [number for number in numbers if number in ENDING]
            if ending:
                trains = len(_replaced) > 1  # then its handlers stand in for ours
                time.sleep(BLOCKED_SECONDS if is_launched and not trains else DEADLINE_SECONDS)
                with contextlib.suppress(OSError):
                    words = "" if is_launched else f"\n{text('console.ended-by-force')}\n"
                    os.write(2, words.encode())
                os._exit(exit_code(ending[0]))
